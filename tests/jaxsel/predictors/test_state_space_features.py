"""The features of the state-space predictor, and the products of a whole pool with its weights."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsel.predictors.state_space import features
from jaxsel.predictors.state_space.weights import no_weights


@pytest.mark.parametrize("length", [1, 63, 64, 75])
@pytest.mark.parametrize("alike", [False, True])
def test_linear_forms_equal_float64_in_blocks_and_with_long_embeddings(length, alike, monkeypatch):
    monkeypatch.setattr(features, "_NUMBERS", 40 * length)  # 3 blocks, of which the last two overlap
    monkeypatch.setattr(features, "_SAMPLE", 40)
    rng = np.random.default_rng(3)
    embeddings = rng.normal(2, 3, (97, length)).astype(np.float16)
    w, d = rng.normal(size=(2, length + 1)).astype(np.float32)
    root = rng.normal(size=(2 * length + 2, 2 * length + 2)).astype(np.float32)
    weights = no_weights(length)._replace(mean=jnp.concatenate([w, d]), root=jnp.asarray(root))
    scaling = features.scaling_of(embeddings)
    found = features.linear_forms(jnp.asarray(embeddings), scaling, weights, alike=alike)
    phi = np.asarray(scaling(jnp.asarray(embeddings)), np.float64)
    variance = ((phi @ (root[: length + 1] + root[length + 1 :])) ** 2).sum(1)
    np.testing.assert_allclose(found.mean, phi @ w, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found.drift, phi @ d, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found.variance, variance[::2][:40].mean() if alike else variance, rtol=1e-3)
