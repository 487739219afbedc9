"""The filter of the shared weights with features that depend on each other linearly: it stays positive definite."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsel.predictors.state_space import weights as module
from jaxsel.predictors.state_space.weights import no_weights, shrunk, updated

POOL, BATCH = 1024, 256
GROUP = np.random.default_rng(0).choice(24, POOL, p=np.arange(1, 25) / 300)
NOISE = np.random.default_rng(1).normal(size=(POOL, 4))
FEATURES = {
    "one-hot": np.eye(24)[GROUP],
    "few one-hot": np.eye(4)[GROUP % 4],
    "duplicated": np.concatenate([NOISE, NOISE], 1),
    "a sum of others": np.c_[NOISE, NOISE.sum(1)],
    "independent": NOISE,
}
LOGIT = np.array([8.0, -8, 3, -3], np.float32)[GROUP % 4]


def standardised(name):
    features = (FEATURES[name] - FEATURES[name].mean(0)) / FEATURES[name].std(0)
    return np.c_[features, np.ones(POOL)].astype(np.float32)


@functools.partial(jax.jit, static_argnums=2)
def filtered(weights, features, steps):
    """Return the weights after first visits of random prompts, and each step's prompts, precisions and kept share."""

    def step(weights, key):
        keys = jax.random.split(key, 3)
        ids = jax.random.randint(keys[0], (BATCH,), 0, POOL)
        precision = jax.random.uniform(keys[1], (BATCH,), jnp.float32, 0.05, 0.4)
        design = jnp.tile(features[ids], (1, 2))
        noise = jax.random.normal(keys[2], (BATCH,), jnp.float32) / jnp.sqrt(precision)
        residual = jnp.asarray(LOGIT)[ids] - design @ weights.mean + noise
        weights = updated(weights, design, precision, precision * residual)[0]
        return shrunk(weights), (ids, precision, weights.kept)

    return jax.lax.scan(step, weights, jax.random.split(jax.random.key(0), steps))


@pytest.mark.parametrize("name", FEATURES)
def test_a_root_of_much_information_is_finite_and_right(name):
    """Start from the information of 10,000 batches and the smallest lambda."""
    features = standardised(name)
    both = np.tile(features.astype(np.float64), 2)
    weights = no_weights(features.shape[1] - 1)
    known = jnp.asarray(5e5 / POOL * both.T @ both, jnp.float32)
    weights = weights._replace(information=known, precision=jnp.float32(0.05))
    weights, _ = filtered(weights, jnp.asarray(features), 200)
    assert all(np.isfinite(leaf).all() for leaf in weights)
    root = np.asarray(weights.root, np.float64)
    prior = np.asarray(module._prior(weights.precision, weights.information), np.float64)
    covariance = np.linalg.inv(np.asarray(weights.information, np.float64) + np.diag(prior))
    expected = ((both @ covariance) * both).sum(1)
    np.testing.assert_allclose(((both @ root) ** 2).sum(1), expected, rtol=0.05)
    assert (np.diag(root @ root.T) < 1.1 / prior).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["few one-hot", "duplicated"])
def test_the_errors_of_rounding_do_not_add_up(name):
    """Compare J after 4,000 batches with a sum in float64."""
    features = standardised(name)
    weights, batches = filtered(no_weights(features.shape[1] - 1), jnp.asarray(features), 4000)
    assert np.isfinite(weights.root).all()
    constant, size = features.shape[1] - 1, 2 * features.shape[1]
    information = np.zeros((size, size))
    for ids, precision, kept in zip(*map(np.asarray, batches), strict=True):
        design = np.tile(features[ids].astype(np.float64), 2)
        gathered = (design * precision[:, None]).T @ design
        common = np.outer(gathered[constant], gathered[constant]) / (1 + gathered[constant, constant])
        share = np.sqrt(np.where(np.arange(size) < size // 2, module._KEPT, kept).astype(np.float64))
        information = share[:, None] * information * share + gathered - common
    found = np.asarray(weights.information, np.float64) + np.asarray(weights.remainder)
    assert np.abs(found - information).max() < 2e-7 * np.diag(information).max()
    assert np.abs(weights.remainder).max() < 6e-8 * np.diag(information).max()
