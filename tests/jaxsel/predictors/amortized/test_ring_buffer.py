import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsel import Rollouts
from jaxsel.predictors.amortized.ring_buffer import at_most, batches_of, empty_ring_buffer, pushed
from tests.support.histories import rollouts
from tests.support.reference import assert_frequency

WIDTH = 3
KEY = jax.random.key(0)


def batch(step: int) -> Rollouts:
    """Return a batch in which every number depends on the step."""
    return rollouts(*(np.full(WIDTH, 100 * column + step + 1) for column in range(3)))


def ring_buffer(length: int, steps: int) -> Rollouts:
    history = empty_ring_buffer(length, WIDTH)
    for step in range(steps):
        history = pushed(history, jnp.int32(step), batch(step))
    return history


@pytest.mark.parametrize("steps", [1, 3, 4, 5, 8, 11])
def test_the_last_batches_are_kept_in_order(steps):
    kept = np.arange(max(0, steps - 4), steps)
    for asked in (kept, kept[::-1], kept[[0, -1, 0]]):
        found = batches_of(ring_buffer(4, steps), jnp.asarray(asked, jnp.int32))
        expected = [batch(int(step)) for step in asked]
        for field in Rollouts._fields:
            np.testing.assert_array_equal(getattr(found, field), [getattr(one, field) for one in expected])


@pytest.mark.parametrize("steps", [0, 1, 4, 9])
def test_before_step_0_nothing_was_observed(steps):
    found = batches_of(ring_buffer(4, steps), jnp.asarray([-1, -2, -4, -5]))
    np.testing.assert_array_equal(found.group_size, 0)


def test_a_new_ring_holds_no_visit():
    history = empty_ring_buffer(5, 7)
    assert {column.shape for column in history} == {(5, 7)}
    np.testing.assert_array_equal(history.group_size, 0)


def test_pushing_keeps_types():
    before, after = empty_ring_buffer(4, WIDTH), ring_buffer(4, 6)
    assert [column.dtype for column in before] == [column.dtype for column in after]


VISITS = rollouts([7, 3, 9, 5, 1, 8], [1, 0, 2, 4, 0, 3], [8, 0, 2, 4, 1, 0])
KNOWN = {(7, 1, 8), (9, 2, 2), (5, 4, 4), (1, 0, 1)}


def rows(visits) -> list[tuple[int, ...]]:
    return [tuple(row) for row in np.stack(visits, 1).tolist()]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 9])
def test_visits_are_chosen_whole_and_once_and_padded(count):
    for seed in range(5):
        chosen = rows(at_most(jax.random.key(seed), VISITS, count))
        visits = [row for row in chosen if row[2] > 0]
        assert len(visits) == len(set(visits)) == min(count, 4)
        assert set(visits) <= KNOWN
        assert chosen == visits + [(0, 0, 0)] * (count - len(visits))


@functools.cache
def pairs_of_visits(trials: int) -> Rollouts:
    return jax.vmap(lambda key: at_most(key, VISITS, 2))(jax.random.split(KEY, trials))


def test_every_visit_is_as_likely_as_another():
    trials = 6000
    chosen = pairs_of_visits(trials)
    ids, count = np.unique(np.asarray(chosen.prompt_ids), return_counts=True)
    np.testing.assert_array_equal(ids, [1, 5, 7, 9])
    assert_frequency(count, trials, np.full(4, 2 / 4))


def test_every_pair_of_visits_is_as_likely_as_another():
    trials = 6000
    chosen = pairs_of_visits(trials)
    _, count = np.unique(np.sort(chosen.prompt_ids, axis=1), axis=0, return_counts=True)
    assert_frequency(count, trials, np.full(6, 1 / 6))


def test_without_visits_there_is_only_padding():
    for visits in (rollouts([], [], []), rollouts([4, 2], [0, 0], [0, 0])):
        assert rows(at_most(KEY, visits, 3)) == [(0, 0, 0)] * 3
