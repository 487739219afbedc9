import functools

import jax
import numpy as np
import pytest

import jaxsel
from jaxsel import PromptSelector, make_history, replay
from tests.support import small_gps

N = 12
MOPPS, DPS = jaxsel.mopps(decay=0.5), jaxsel.dps(decay=0.7)


@functools.cache
def recorded():
    """Return the rows that a live run observed, and its predictions of each batch and of the pool.

    A batch is predicted before its step, and the pool before each step and after the last.
    """
    selector = PromptSelector(MOPPS, num_prompts=N, seed=3)
    rng = np.random.default_rng(0)
    rows, predictions, pools = [], [], []
    for step in range(6):
        ids = np.sort(rng.choice(N, 4, replace=False))
        predictions.append(selector.predict(ids))
        pools.append(selector.predict())
        successes = rng.integers(0, 9, 4)
        selector.observe(ids, successes, 8)
        rows += [(step, i, s, 8) for i, s in zip(ids, successes, strict=True)]
    return np.array(rows).T, predictions, [*pools, selector.predict()]


def test_a_replay_gives_the_predictions_of_the_live_run():
    rows, predictions, pools = recorded()
    found = replay(make_history(*rows, num_prompts=N), MOPPS, num_prompts=N, seed=3, probe_steps=(0, 4, 6))
    expected = jax.tree.map(lambda *fields: np.concatenate(fields), *predictions)
    jax.tree.map(np.testing.assert_array_equal, found.prediction, expected)
    assert sorted(found.probes) == [0, 4, 6]
    for step, pool in found.probes.items():
        jax.tree.map(np.testing.assert_array_equal, pool, pools[step])


def test_the_order_of_rows_does_not_matter():
    rows, *_ = recorded()
    history = make_history(*rows, num_prompts=N)
    shuffled = make_history(*rows[:, np.random.default_rng(1).permutation(rows.shape[1])], num_prompts=N)
    jax.tree.map(np.testing.assert_array_equal, history, shuffled)


def test_visits_and_waiting_count_the_steps_before_a_row():
    history = make_history([0, 0, 1, 4, 4], [3, 5, 3, 3, 7], [1] * 5, 8, num_prompts=N)
    found = replay(history, MOPPS, num_prompts=N)
    assert found.visits.tolist() == [0, 0, 1, 2, 0]
    assert found.waiting.tolist() == [-1, -1, 1, 3, -1]


def test_repeated_ids_are_one_visit_and_rows_without_rollouts_none():
    history = make_history([1, 1, 1, 2, 2], [4, 4, 2, 4, 9], [3, 5, 1, 2, 0], [8, 8, 8, 8, 0], num_prompts=N)
    assert history.step.tolist() == [1, 1, 2]
    assert history.prompt_ids.tolist() == [2, 4, 4]
    assert history.successes.tolist() == [1, 8, 2]
    assert history.group_size.tolist() == [8, 16, 8]


def test_a_step_without_rows_ages_the_pool():
    """A step without rows changes the beliefs of dps, a hidden Markov model, as an empty observation does."""
    history = make_history([0, 3], [1, 1], [8, 8], 8, num_prompts=N)
    found = replay(history, DPS, num_prompts=N)
    live = PromptSelector(DPS, num_prompts=N)
    live.observe([1], [8], 8)
    live.observe([], [], [])
    live.observe([], [], [])
    np.testing.assert_array_equal(found.prediction.solved[1], live.predict([1]).solved[0])


@pytest.mark.slow
def test_every_method_replays_the_history():
    rows, *_ = recorded()
    for method, num_prompts in ((DPS, N), (jaxsel.uniform(), N), (small_gps.GPS, small_gps.N)):
        history = make_history(*rows, num_prompts=num_prompts)
        found = replay(history, method, num_prompts=num_prompts)
        assert found.prediction.success_rate.shape == (len(history.step),)
        total = found.prediction.unsolved + found.prediction.mixed + found.prediction.solved
        np.testing.assert_allclose(total, 1, atol=1e-5)


def test_an_empty_history_gives_no_predictions():
    history = make_history([], [], [], [], num_prompts=N)
    found = replay(history, MOPPS, num_prompts=N, probe_steps=[0])
    assert history.num_steps == 0
    assert len(found.visits) == len(found.prediction.mixed) == 0
    assert len(found.probes[0].mixed) == N


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([-1], [0], [1], [8]), r"step\[0\] is -1; give integers from 0"),
        (([0, 1], [0], [1], [8]), "step has 2 entries and prompt_ids 1"),
        (([0], [N], [1], [8]), rf"prompt_ids\[0\] is {N}; give integers from 0 to {N - 1}"),
        (([0], [0], [9], [8]), r"successes\[0\] is 9 of 8 rollouts"),
    ],
)
def test_bad_rows_are_refused(columns, message):
    with pytest.raises(ValueError, match=message):
        make_history(*columns, num_prompts=N)


@pytest.mark.usefixtures("unchecked_types")
def test_a_probe_after_the_end_is_refused():
    history = make_history([0], [0], [1], [8], num_prompts=N)
    with pytest.raises(ValueError, match=r"probe_steps\[0\] is 2; give integers from 0 to 1"):
        replay(history, MOPPS, num_prompts=N, probe_steps=[2])
    with pytest.raises(ValueError, match=r"probe_steps is \[0\.5\] .*; give integers"):
        replay(history, MOPPS, num_prompts=N, probe_steps=[0.5])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="probe_steps is 1; give steps"):
        replay(history, MOPPS, num_prompts=N, probe_steps=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="history is 'runs/a', which is not a History; give a History"):
        replay("runs/a", MOPPS, num_prompts=N)  # type: ignore[arg-type]


@pytest.mark.parametrize("num_prompts", [None, -1, 5.0])
@pytest.mark.usefixtures("unchecked_types")
def test_the_size_of_the_pool_is_an_integer(num_prompts):
    with pytest.raises(ValueError, match=f"num_prompts is {num_prompts}; give an integer"):
        make_history([], [], [], 8, num_prompts=num_prompts)


@pytest.mark.parametrize("steps", [[1_700_000_000, 1_700_000_060], [0, 2**31 - 1], [0, 1, 150_000]])
def test_steps_with_large_gaps_are_refused(steps):
    message = r"step goes up to \d+, but only \d steps have rows; number the steps 0, 1, 2"
    with pytest.raises(ValueError, match=message):
        jaxsel.make_history(steps, [0] * len(steps), [1] * len(steps), 8, num_prompts=3)
    ranks = np.unique(steps, return_inverse=True)[1]
    assert jaxsel.make_history(ranks, [0] * len(steps), [1] * len(steps), 8, num_prompts=3).num_steps == len(steps)
