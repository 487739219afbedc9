import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsel import Rollouts
from jaxsel.predictors.amortized.likelihood import LIKELIHOODS
from jaxsel.predictors.amortized.networks import _PRECISION, Networks
from tests.support import networks_reference as reference
from tests.support.embedded import (
    CONTEXT,
    EMBEDDINGS,
    KEY,
    PLAIN_OF,
    RATE,
    N,
    compiled,
    history,
    padded,
    quick_jit,
    randomised,
    small,
)
from tests.support.histories import rollouts
from tests.support.reference import assert_frequency, merged

pytestmark = pytest.mark.slow

FEATURES = reference.prompt_features(EMBEDDINGS)
STEPS = 5


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_elbo_equals_its_definition(likelihood):
    networks = Networks(FEATURES.shape[1], 3, history_conditioned=True, width=16, num_layers=1, num_heads=2, key=KEY)
    networks, weights = randomised(networks)
    rng, trials = np.random.default_rng(0), 2000
    prompts = rng.integers(0, N, (2, 2, 6))
    group_size = rng.choice([0, 1, 8], (2, 2, 6))
    batches = [Rollouts(ids, rng.binomial(n, 0.3), n) for ids, n in zip(prompts, group_size, strict=True)]
    on_device = [rollouts(*batch) for batch in batches]
    features = [jnp.asarray(FEATURES[one.prompt_ids], jnp.float32) for one in batches]

    @quick_jit
    @jax.vmap
    def fits(key):
        return networks.fit(key, LIKELIHOODS[likelihood].log_prob, on_device, features)

    ours = fits(jax.random.split(KEY, trials))
    kl, log_probs = 0.0, np.zeros(trials)
    for before, now in zip(*(_sets(batch) for batch in batches), strict=True):
        mean, scale = reference.encoded(
            weights["posterior_encoder"], FEATURES[now.prompt_ids], now.successes, now.group_size
        )
        prior = reference.encoded(
            weights["prior_encoder"], FEATURES[before.prompt_ids], before.successes, before.group_size
        )
        kl += reference.kl_divergence((mean, scale), prior)
        latents = mean + scale * rng.normal(size=(trials, 3))
        outputs = [reference.decoded(weights["decoder"], FEATURES[now.prompt_ids], latent) for latent in latents]
        log_probs += reference.log_prob(likelihood, np.stack(outputs), now.successes, now.group_size).sum(1)
    visits = (group_size[1] > 0).sum()
    np.testing.assert_allclose(ours.kl, kl / visits, rtol=1e-4)
    exact = log_probs / visits
    error = float(np.sqrt((exact.var() + np.var(ours.reconstruction)) / trials))
    assert np.mean(ours.reconstruction) == pytest.approx(exact.mean(), abs=4 * error)
    assert np.std(ours.reconstruction) == pytest.approx(exact.std(), rel=0.2)
    np.testing.assert_array_equal(ours.elbo, ours.reconstruction - ours.kl)


def _sets(batch: Rollouts) -> list[Rollouts]:
    """Return both rows of `batch`, each as a batch of its own without padding (groups of no rollouts)."""
    return [Rollouts._make(column[i][batch.group_size[i] > 0] for column in batch) for i in range(2)]


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_an_update_is_adam_on_the_penalised_log_likelihood(likelihood):
    """The reference is Adam with numerical gradients, for networks without a latent.

    Its loss is the negative log likelihood of the batch plus the penalty of a Gaussian prior of the weights.
    """
    method = compiled(**PLAIN_OF[likelihood])
    start = method.init()
    first, second = history(2)
    weights, state = randomised(start.parameters)[0], method.update(KEY, start, first)
    state = state._replace(parameters=weights, optimizer=start.optimizer)
    state = method.update(KEY, state, second)

    visits = merged(second.prompt_ids, second.successes, second.group_size, N)
    ids, (s, n) = np.array(list(visits)), np.array(list(visits.values())).T
    leaves, tree = jax.tree.flatten(weights["decoder"])
    shapes = [leaf.shape for leaf in leaves]

    def unflattened(x):
        parts = np.split(x, np.cumsum([np.prod(shape, dtype=int) for shape in shapes])[:-1])
        return jax.tree.unflatten(tree, [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)])

    def reconstruction(x):
        return reference.log_prob(likelihood, reference.decoded(unflattened(x), FEATURES[ids]), s, n).mean()

    def loss(x):
        decoder = unflattened(x)
        squares = sum(p * (decoder[name]["kernel"] ** 2).sum() for name, p in _PRECISION.items())
        return squares / 2 / (2 * CONTEXT) - reconstruction(x)

    def flat(decoder):
        return np.concatenate([np.asarray(leaf, float).ravel() for leaf in jax.tree.leaves(decoder)])

    x = flat(weights["decoder"])
    end, before, norm = _adam(loss, x)
    np.testing.assert_allclose(flat(state.parameters["decoder"]), end, atol=1e-4)
    assert np.abs(end - x).max() > 0.01
    assert state.fit.reconstruction == pytest.approx(reconstruction(before), rel=1e-3)
    assert state.fit.gradient_norm == pytest.approx(norm, rel=1e-3)
    assert state.fit.kl == 0


def _adam(loss, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the last point, the point before, and the norm of the gradient at the point before."""
    mean = square = np.zeros_like(x)
    before, norm, width = x, 0.0, 1e-5
    for t in range(STEPS):
        steps = width * np.eye(len(x))
        gradient = np.array([loss(x + step) - loss(x - step) for step in steps]) / (2 * width)
        norm = float(np.linalg.norm(gradient))
        gradient = gradient / max(norm, 1)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        corrected = mean / (1 - 0.9 ** (t + 1)), square / (1 - 0.999 ** (t + 1))
        rate = max(5e-3 * 0.2 ** (t / (10 * STEPS)), 1e-3)
        before, x = x, x - rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
    return x, before, norm


@functools.cache
def fits_of_the_newest_and_one_more():
    """Train six times from the initial weights, each time on the newest batch and on a kept one, for 150 random keys.

    Return the initial weights, the six batches and, for each of the six, the measurements of the fit per key. A group
    of batch t has t + 1 rollouts.
    """
    method, keys = small(latent_size=4, decay=None, history=4, replayed=1, inner_steps=1), 150
    start = method.init(KEY, N)
    update = quick_jit(jax.vmap(method.update, in_axes=(0, 0, None)))
    states = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (keys, *leaf.shape)), start)
    rng, fits = np.random.default_rng(1), []
    batches = []
    for n in range(1, 7):
        ids = rng.choice(N, CONTEXT, replace=False)
        batches.append((ids, rng.binomial(n, RATE[ids]), np.full(CONTEXT, n)))
        weights = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (keys, *leaf.shape)), start.parameters)
        states = update(
            jax.random.split(jax.random.fold_in(KEY, n), keys),
            states._replace(parameters=weights),
            padded(*batches[-1]),
        )
        fits.append(states.fit)
    return start.parameters, batches, fits


@pytest.mark.parametrize("step", range(6))
def test_every_kept_step_is_replayed_equally_often(step):
    """Four batches are kept; the oldest of them is never replayed, but only is the history of the next one.

    An untrained decoder gives each of the counts 0 to n the probability 1 / (n + 1). Each batch has its own group size
    n, so the mean log probability tells which batch was replayed.
    """
    fit = fits_of_the_newest_and_one_more()[2][step]
    replayed = np.exp(-2 * np.asarray(fit.reconstruction)) / (step + 2) - 1
    ages = step + 1 - np.rint(replayed)
    np.testing.assert_allclose(replayed, np.rint(replayed), atol=1e-3)
    kept = min(step + 1, 3)
    assert set(ages) == set(range(kept))
    assert_frequency([(ages == age).sum() for age in range(kept)], len(ages), np.full(kept, 1 / kept))


@pytest.mark.parametrize("step", range(6))
def test_every_step_has_the_step_before_as_its_history(step):
    weights, batches, fits = fits_of_the_newest_and_one_more()
    nothing = (np.zeros(0, int),) * 3

    def kl(at):
        posterior, prior = (
            reference.encoded(weights[name], FEATURES[ids], s, n)
            for name, (ids, s, n) in [
                ("posterior_encoder", batches[at]),
                ("prior_encoder", batches[at - 1] if at else nothing),
            ]
        )
        return reference.kl_divergence(posterior, prior)

    replayed = np.exp(-2 * np.asarray(fits[step].reconstruction)) / (step + 2) - 1
    for at in set(np.rint(replayed).astype(int) - 1):
        ours = np.asarray(fits[step].kl)[np.rint(replayed) == at + 1]
        np.testing.assert_allclose(ours, (kl(step) + kl(at)) / (2 * CONTEXT), rtol=1e-3)
