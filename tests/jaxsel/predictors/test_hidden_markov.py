import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import jaxsel
from jaxsel import MIXED, SOLVED, UNSOLVED
from jaxsel.predictors import hidden_markov
from tests.support.histories import batches, random_history, rollouts
from tests.support.reference import (
    DpsModel,
    assert_frequency,
    filtered_by_enumeration,
    filtered_with_known_transitions,
)

N, BATCH = 7, 6
DECAYS = (0.0, 0.3, 0.5, 0.7, 0.95, 1.0)
KEY = jax.random.key(0)
UNEVEN = np.array([[3.0, 0.5, 0.2], [1.0, 2.0, 4.0], [0.1, 0.1, 9.0]])
SEEN = {UNSOLVED: (0, 4), MIXED: (3, 4), SOLVED: (4, 4)}

compiled_update = jax.jit(hidden_markov.update, static_argnames="decay")


@functools.partial(jax.jit, static_argnames="decay")
def run(state: hidden_markov.HMMState, history: jaxsel.Rollouts, decay: float):
    """Return the last state and, after every step, the filtered belief, the predicted belief and the counts."""

    def step(state, rollouts):
        state = hidden_markov.update(state, rollouts, decay)
        return state, (
            hidden_markov.filtered(state),
            hidden_markov.predicted(state),
            hidden_markov.transition_counts(state),
        )

    return jax.lax.scan(step, state, history)


def initial(num_prompts: int = N, **arguments) -> hidden_markov.HMMState:
    return jaxsel.hidden_markov(**arguments).init(KEY, num_prompts)


@pytest.mark.parametrize("prior", [*hidden_markov.PRIOR_COUNTS, "uneven"])
@pytest.mark.parametrize("decay", DECAYS)
def test_belief_and_counts_follow_the_equations(decay, prior):
    history = random_history(1, num_prompts=N, steps=80, batch_size=BATCH)
    counts = np.array(hidden_markov.PRIOR_COUNTS.get(prior, UNEVEN))
    belief = [0.6, 0.3, 0.1] if prior == "uneven" else [1, 1, 1]
    model = DpsModel(N, decay=decay, prior_counts=counts, initial_belief=np.array(belief, float) / np.sum(belief))
    state = initial(prior_counts=counts, initial_belief=belief)
    for at_first in (hidden_markov.filtered(state), hidden_markov.predicted(state)):
        np.testing.assert_allclose(at_first, model.predicted(), atol=1e-7)
    _, steps = run(state, history, decay)
    for t in range(80):
        model.observe(*(np.asarray(column[t]) for column in history))
        filtered, predicted, transition_counts = (column[t] for column in steps)
        np.testing.assert_allclose(filtered, np.array(model.filtered).T, atol=1e-5)
        np.testing.assert_allclose(predicted, model.predicted(), atol=1e-5)
        np.testing.assert_allclose(transition_counts, np.stack(model.counts, axis=2), rtol=1e-5, atol=1e-5)


TINY = {
    "around a diagonal": np.eye(3) + 1e-8 * (1 - np.eye(3)),
    "everywhere": np.full((3, 3), 1e-8),
    "in one row": np.array([[1.0, 1.0, 1e-8], [1e-8, 1.0, 1.0], [1e-8, 1e-8, 1e-8]]),
}


@pytest.mark.parametrize("prior", TINY)
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.7, 1.0])
def test_tiny_prior_counts_follow_the_equations(decay, prior):
    """The posterior of a rare jump is a ratio of tiny probabilities, which must keep their relative precision."""
    history = random_history(6, num_prompts=N, steps=400, batch_size=2)
    model = DpsModel(N, decay=decay, prior_counts=TINY[prior], initial_belief=[0.5, 0.5 - 1e-9, 1e-9])
    state = initial(prior_counts=TINY[prior], initial_belief=[0.5, 0.5 - 1e-9, 1e-9])
    _, (_, predicted, _) = run(state, history, decay)
    for t in range(400):
        model.observe(*(np.asarray(column[t]) for column in history))
        np.testing.assert_allclose(predicted[t], model.predicted(), atol=1e-5)


@pytest.mark.parametrize(
    "observations",
    [(), (None,), (MIXED,), (None, None, None), (UNSOLVED, None, SOLVED), (SOLVED, MIXED, None, None, None)],
)
def test_the_filter_equals_the_sum_over_all_hidden_paths(observations):
    transition = np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.05, 0.15, 0.8]])
    belief = np.array([0.5, 0.3, 0.2])
    # with counts so large, observations do not change the transition matrix
    state = initial(1, prior_counts=1e8 * transition, initial_belief=belief)
    for seen in observations:
        batch = rollouts([0], *([0], [0])) if seen is None else rollouts([0], *([x] for x in SEEN[seen]))
        state = compiled_update(state, batch, decay=0.0)
    exact = filtered_by_enumeration(belief, transition, observations)
    np.testing.assert_allclose(hidden_markov.filtered(state)[:, 0], exact, atol=1e-6)
    np.testing.assert_allclose(
        hidden_markov.predicted(state)[:, 0],
        filtered_by_enumeration(belief, transition, (*observations, None)),
        atol=1e-6,
    )


def test_an_impossible_jump_moves_the_belief_and_stays_finite():
    state = initial(prior_counts="local")
    counts = hidden_markov.transition_counts(state)
    for seen in (UNSOLVED, SOLVED, UNSOLVED):
        state = compiled_update(state, rollouts([2], *([x] for x in SEEN[seen])), decay=0.5)
        np.testing.assert_array_equal(hidden_markov.filtered(state)[:, 2], np.eye(3)[seen])
        assert all(np.isfinite(leaf).all() for leaf in state)
    np.testing.assert_allclose(hidden_markov.transition_counts(state)[0, 2, 2], 0)
    np.testing.assert_allclose(hidden_markov.transition_counts(state)[:, :, 3], counts[:, :, 3], rtol=1e-6)
    np.testing.assert_allclose(hidden_markov.predicted(state).sum(0), 1, atol=1e-6)


@pytest.mark.parametrize("prior", hidden_markov.PRIOR_COUNTS)
@pytest.mark.parametrize("decay", [0.0, 0.7, 1.0])
def test_ten_thousand_steps_stay_finite(decay, prior):
    history = random_history(3, num_prompts=N, steps=10_000, batch_size=2)
    # row 0 is never visited: only its belief changes
    history = history._replace(prompt_ids=jnp.where(history.prompt_ids == 0, -1, history.prompt_ids))
    state, (filtered, predicted, _) = run(initial(prior_counts=prior), history, decay)
    assert all(np.isfinite(leaf).all() for leaf in state)
    np.testing.assert_allclose(filtered.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(predicted.sum(1), 1, atol=1e-5)


def test_repeated_ids_are_one_visit_with_summed_counts():
    state = compiled_update(initial(), rollouts([2, 5, 6, 6], [0, 4, 0, 0], [4, 4, 0, 0]), decay=0.7)
    repeated = rollouts([2, 5, 2, 5], [0, 4, 4, 4], [4, 4, 4, 4])
    summed = rollouts([5, 2, 0, N], [8, 4, 0, 0], [8, 8, 0, 8])
    jax.tree.map(
        np.testing.assert_array_equal,
        compiled_update(state, repeated, decay=0.7),
        compiled_update(state, summed, decay=0.7),
    )


@pytest.mark.parametrize("nothing", [([0, 1], [0, 0], [0, 0]), ([-1, N], [3, 2], [8, 8]), ([], [], [])])
def test_a_batch_without_visits_only_ages_the_state(nothing):
    state = compiled_update(initial(), rollouts([0, 3], [1, 4], [4, 4]), decay=0.7)
    expected = hidden_markov.predicted(state)
    after = compiled_update(state, rollouts(*nothing), decay=0.7)
    np.testing.assert_allclose(hidden_markov.filtered(after), expected, atol=1e-7)
    np.testing.assert_allclose(
        hidden_markov.transition_counts(after) - 1, 0.7 * (hidden_markov.transition_counts(state) - 1), atol=1e-6
    )


@hypothesis.given(batch=batches(num_prompts=N, batch_size=BATCH), order=st.permutations(range(N)))
def test_permuting_the_pool_commutes_with_update(batch, order):
    state = compiled_update(initial(), rollouts([0, 3, 5, 5, 1, 2], [1, 4, 0, 0, 4, 0], [4] * 6), decay=0.7)
    order = np.array(order)
    known = (batch.prompt_ids >= 0) & (batch.prompt_ids < N)
    moved = jnp.asarray(np.argsort(order), jnp.int32)[batch.prompt_ids]

    def permuted(state):
        return state._replace(
            filtered=state.filtered[:, order], predicted=state.predicted[:, order], excess=state.excess[:, :, order]
        )

    jax.tree.map(
        np.testing.assert_array_equal,
        compiled_update(
            permuted(state), batch._replace(prompt_ids=jnp.where(known, moved, batch.prompt_ids)), decay=0.7
        ),
        permuted(compiled_update(state, batch, decay=0.7)),
    )


@hypothesis.given(st.lists(batches(num_prompts=N, batch_size=BATCH), min_size=1, max_size=5))
def test_beliefs_sum_to_1(steps):
    state = initial(prior_counts="local")
    for batch in steps:
        state = compiled_update(state, batch, decay=0.5)
    for belief in (hidden_markov.filtered(state), hidden_markov.predicted(state)):
        np.testing.assert_allclose(belief.sum(0), 1, atol=1e-6)
        assert (np.asarray(belief) >= 0).all()


def test_eager_equals_jit():
    state, batch = initial(), rollouts([0, 3, 3, N], [1, 3, 0, 1], [4, 4, 8, 1])
    eager = hidden_markov.update(state, batch, 0.7)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    jax.tree.map(close, eager, compiled_update(state, batch, decay=0.7))
    method = jaxsel.hidden_markov()
    jax.tree.map(close, method.predict(KEY, eager, None), jax.jit(method.predict)(KEY, eager, None))


@pytest.mark.parametrize(("decay", "cap"), [(0.7, 0.684), (0.5, 0.6)])
def test_the_predicted_mixed_probability_is_capped(decay, cap):
    always_mixed = jax.tree.map(lambda column: jnp.tile(column, (60, 1)), rollouts([0], [3], [8]))
    _, (_, predicted, _) = run(initial(1), always_mixed, decay)
    np.testing.assert_allclose(predicted[-1, MIXED, 0], cap, atol=5e-4)


def test_prediction_is_the_belief_and_its_moments():
    method = jaxsel.hidden_markov(initial_belief=[0.5, 0.3, 0.2], prior_counts=1e8 * np.eye(3))
    prediction = method.predict(KEY, method.init(KEY, 20_000), None)
    p, values = np.array([0.5, 0.3, 0.2]), np.array([0.0, 0.5, 1.0])
    belief = np.stack([prediction.unsolved, prediction.mixed, prediction.solved])
    np.testing.assert_allclose(belief, np.tile(p[:, None], 20_000), atol=1e-6)
    np.testing.assert_allclose(prediction.success_rate, p @ values, atol=1e-6)
    np.testing.assert_allclose(prediction.variance, p @ values**2 - (p @ values) ** 2, atol=1e-6)
    counts = [(np.asarray(prediction.draw) == value).sum() for value in values]
    assert_frequency(counts, 20_000, p)


def test_prediction_of_certain_prompts_has_no_negative_variance():
    method = jaxsel.hidden_markov(prior_counts=1e8 * np.eye(3))
    state = method.update(KEY, method.init(KEY, 3), rollouts([0, 1, 2], [0, 3, 8], [8, 8, 8]))
    prediction = method.predict(KEY, state, jnp.array([2, 0]))
    np.testing.assert_allclose(prediction.success_rate, [1, 0], atol=1e-6)
    assert (np.asarray(prediction.variance) >= 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay": -0.1}, r"decay is -0\.1; give a number from 0 to 1"),
        ({"prior_counts": "other"}, "prior_counts is 'other'; give one of 'ones', 'progress'"),
        ({"prior_counts": np.ones((2, 3))}, "prior_counts is .* give a 3 x 3 matrix"),
        ({"prior_counts": -np.ones((3, 3))}, "prior_counts is"),
        ({"prior_counts": np.diag([1.0, 1.0, 0.0])}, "each row with one above 0"),
        ({"prior_counts": np.full((3, 3), np.nan)}, "prior_counts is"),
        ({"prior_counts": np.full((3, 3), 1e-30)}, r"prior_counts has rows that sum to \[3.*give sums from 1e-20 to"),
        ({"prior_counts": np.full((3, 3), 1e30)}, "prior_counts has rows that sum to"),
        ({"initial_belief": [1.0, 1.0]}, "initial_belief is .* give three numbers >= 0"),
        ({"initial_belief": [0.0, 0.0, 0.0]}, "initial_belief is"),
        ({"initial_belief": [0.5, -0.5, 1.0]}, "initial_belief is"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        jaxsel.hidden_markov(**arguments)


@pytest.mark.parametrize("visited", [0.0, 0.3, 0.75, 1.0])
def test_huge_prior_counts_give_the_filter_with_known_transitions(visited):
    rng = np.random.default_rng(1)
    matrix, belief, prompts, steps = rng.dirichlet(np.ones(3), 3), rng.dirichlet(np.ones(3)), 5, 37
    history = np.where(rng.random((steps, prompts)) < visited, rng.integers(0, 3, (steps, prompts)), -1)
    state = initial(prompts, prior_counts=1e7 * matrix, initial_belief=belief)
    expected = filtered_with_known_transitions(belief, matrix, history)
    for seen, before, after in zip(history, *expected, strict=True):
        np.testing.assert_allclose(hidden_markov.predicted(state), before, atol=1e-5)
        successes = np.choose(np.maximum(seen, 0), [0, 4, 8])
        visits = rollouts(np.arange(prompts), successes, np.where(seen >= 0, 8, 0))
        state = compiled_update(state, visits, decay=0.7)
        np.testing.assert_allclose(hidden_markov.filtered(state), after, atol=1e-5)


def test_a_very_unlikely_jump_counts_like_any_other():
    prior = np.array([[1.0, 0.0, 2.0], [0.0, 2.0, 2.0], [2.0, 0.0, 1.0]])
    state = initial(1, prior_counts=prior)
    model = DpsModel(1, decay=0.999, prior_counts=prior)
    for _ in range(19):
        state = compiled_update(state, rollouts([0], [0], [0]), decay=0.999)
        model.observe([0], [0], [0])
    state = compiled_update(state, rollouts([0], [4], [8]), decay=0.999)
    model.observe([0], [4], [8])
    np.testing.assert_allclose(hidden_markov.transition_counts(state)[:, :, 0], model.counts[0], atol=1e-5)
