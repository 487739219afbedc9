import functools

import jax
import numpy as np
import pytest
from scipy import special

from tests.support.embedded import CONTEXT, GROUP, KEY, LATENT, PLAIN_OF, RATE, SEEN, UNSEEN, compiled, history, padded

pytestmark = pytest.mark.slow

METHODS = {**PLAIN_OF, "latent": LATENT}


def rates(method, state) -> np.ndarray:
    return np.asarray(method.predict(KEY, state, None).success_rate)


@pytest.mark.parametrize("name", METHODS)
def test_rates_of_unvisited_prompts_are_learnt_from_their_embeddings(name):
    method = compiled(**METHODS[name])
    predicted = rates(method, method.after(history(25, seed=1)))[UNSEEN]
    assert np.corrcoef(predicted, RATE[UNSEEN])[0, 1] > 0.8
    error = ((predicted - RATE[UNSEEN]) ** 2).mean()
    assert error < 0.7 * RATE[UNSEEN].var()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_long_constant_outcome_is_learnt_and_unlearnt(name, rate):
    method = compiled(**METHODS[name])
    state = method.after(history(60, np.full_like(RATE, rate)))
    prediction = method.predict(KEY, state, None)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, prediction)))
    assert np.abs(prediction.success_rate - rate).max() < 0.1
    assert np.abs(prediction.success_rate - rate).min() > 1e-4
    state = method.after(history(20, np.full_like(RATE, 0.5)), state)
    recovered = rates(method, state)[UNSEEN]
    assert np.abs(recovered - 0.5).max() < 0.25


STEPS, HOLD = 120, 4


@functools.cache
def jumps(history_conditioned: bool):
    """Train on a policy that jumps between good and bad every few steps.

    Return the last state, the mean errors of the later steps, and those of the steps right after a jump.
    """
    method = compiled(**LATENT, **({} if history_conditioned else {"history_conditioned": False}))
    rng = np.random.default_rng(5)
    level = np.repeat(rng.choice([-2.0, 2.0], STEPS // HOLD), HOLD)
    truth = special.expit(level[:, None] + special.logit(RATE))
    state, predicted = method.init(), []
    for step, rate in enumerate(truth):
        ids = rng.choice(SEEN, CONTEXT, replace=False)
        batch = padded(ids, rng.binomial(GROUP, rate[ids]), np.full(CONTEXT, GROUP))
        state = method.update(jax.random.fold_in(KEY, step), state, batch)
        if step >= STEPS // 2:
            predicted.append(rates(method, state)[UNSEEN])
    error = np.abs(np.stack(predicted) - truth[STEPS // 2 :, UNSEEN]).mean(1)
    return state, error, error[np.diff(level)[STEPS // 2 - 1 :] != 0]


def test_a_jump_of_all_rates_shows_after_one_batch():
    (_, error, at_jumps), (_, slow_error, slow_at_jumps) = jumps(True), jumps(False)
    assert len(at_jumps) >= 5
    assert at_jumps.mean() < 0.85 * slow_at_jumps.mean()
    assert error.mean() < 0.6 * slow_error.mean()


def mean_rate_after(history_conditioned: bool, rate: float) -> float:
    """Return the mean prediction after one more batch, with the weights from before that batch."""
    method = compiled(**LATENT, **({} if history_conditioned else {"history_conditioned": False}))
    state, (batch,) = jumps(history_conditioned)[0], history(1, np.full_like(RATE, rate))
    after = method.update(KEY, state, batch)._replace(parameters=state.parameters)
    return float(rates(method, after).mean())


def test_with_history_the_last_batch_moves_predictions_at_fixed_weights():
    assert mean_rate_after(True, 0.9) - mean_rate_after(True, 0.1) > 0.3
    assert mean_rate_after(False, 0.9) == mean_rate_after(False, 0.1)
