import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxsel.runtime.window import EpochWindow


@pytest.mark.parametrize(("num_prompts", "size"), [(12, 4), (10, 4), (7, 7), (5, 3), (9, 1)])
def test_every_row_occurs_once_per_epoch(num_prompts, size):
    window = EpochWindow(num_prompts, seed=0)
    dealt = np.concatenate([window.take(size) for _ in range(10 * num_prompts)])
    counts = np.array([np.bincount(dealt[: k * num_prompts], minlength=num_prompts) for k in range(1, 10)])
    # a window that passes the end of an epoch leaves the rows that it already has to later windows of the new epoch
    assert (np.abs(counts - np.arange(1, 10)[:, None]) <= 1).all()
    if num_prompts % size == 0:
        assert (counts == np.arange(1, 10)[:, None]).all()


@hypothesis.given(
    num_prompts=st.integers(1, 20), sizes=st.lists(st.integers(1, 25), max_size=20), seed=st.integers(0, 99)
)
def test_windows_hold_distinct_rows_and_no_row_lags_by_more_than_an_epoch(num_prompts, sizes, seed):
    window, counts = EpochWindow(num_prompts, seed), np.zeros(num_prompts, int)
    for size in sizes:
        size = min(size, num_prompts)
        rows = window.take(size)
        assert rows.dtype == np.int32
        assert len(set(rows.tolist())) == size
        counts[rows] += 1
        assert counts.max() - counts.min() <= 2


def test_epochs_and_seeds_are_shuffled_differently():
    windows = [EpochWindow(100, seed) for seed in (0, 0, 1)]
    first, same, other = (np.stack([window.take(100) for _ in range(2)]) for window in windows)
    np.testing.assert_array_equal(first, same)
    assert (first[0] != first[1]).any()
    assert (first != other).any()


@pytest.mark.parametrize("taken", [0, 1, 4])
def test_a_restored_window_continues_like_the_original(taken):
    window = EpochWindow(10, seed=3)
    for _ in range(taken):
        window.take(3)
    state = window.state_dict()
    restored = EpochWindow(10, seed=3)
    restored.load_state_dict(state)
    for _ in range(10):
        np.testing.assert_array_equal(restored.take(3), window.take(3))


def test_states_are_copies():
    window = EpochWindow(10, seed=3)
    state = window.state_dict()
    waiting = state["waiting"].copy()
    restored = EpochWindow(10, seed=3)
    restored.load_state_dict(state)
    first = window.take(5)
    state["waiting"][:] = 0
    np.testing.assert_array_equal(first, waiting[:5])
    np.testing.assert_array_equal(restored.take(5), waiting[:5])
