"""The networks of GPS (`jaxsel.amortized`) in float64 NumPy, written out. Weights are nested dictionaries of arrays."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

Weights = Mapping[Any, Any]


def prompt_features(embeddings: ArrayLike) -> np.ndarray:
    """Return [N, d + 1]: direction and logarithm of the length, each with mean 0 and variance 1 over the pool."""
    vectors = np.asarray(embeddings, float)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    raw = np.concatenate([vectors / length, np.log(length)], 1)
    return (raw - raw.mean(0)) / raw.std(0)


def decoded(decoder: Weights, prompts: ArrayLike, latent: ArrayLike = ()) -> np.ndarray:
    """Return [m, 2]: an MLP of the latent and the prompt's features, plus a linear function of the features."""
    prompts, latent = np.asarray(prompts, float), np.asarray(latent, float)
    first = _kernel(decoder["prompt"])
    if latent.size:
        first = np.concatenate([_kernel(decoder["latent"]), first])
    inputs = np.concatenate([np.tile(latent, (len(prompts), 1)), prompts], 1)
    hidden = np.maximum(inputs @ first + np.asarray(decoder["prompt"]["bias"], float), 0)
    hidden = np.maximum(_linear(decoder["hidden"], hidden), 0)
    level = np.asarray(decoder["level"], float) * np.sqrt(prompts.shape[1])
    return prompts @ _kernel(decoder["direct"]) + level + hidden @ _kernel(decoder["outputs"])


def encoded(encoder: Weights, prompts: ArrayLike, successes: ArrayLike, group_size: ArrayLike):
    """Return mean and scale of the latent, from a pre-norm Transformer whose tokens are visits, without positions."""
    prompts, s, n = (np.asarray(column, float) for column in (prompts, successes, group_size))
    tokens = np.concatenate([prompts, np.log((s + 0.5) / (n - s + 0.5))[:, None], np.log(1 + n)[:, None]], 1)
    tokens = _linear(encoder["inputs"], tokens)
    for layer in encoder["layers"].values() if len(tokens) else ():
        tokens = tokens + _attention(layer["attention"], _normed(layer["attention_norm"], tokens))
        hidden = _gelu(_linear(layer["hidden"], _normed(layer["hidden_norm"], tokens)))
        tokens = tokens + _linear(layer["outputs"], hidden)
    pooled = _normed(encoder["norm"], tokens).mean(0) if len(tokens) else np.zeros(tokens.shape[1])
    mean, raw_scale = np.split(_linear(encoder["outputs"], pooled), 2)
    return mean, 0.1 + 0.9 * special.expit(raw_scale)


def beta_shapes(outputs: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return alpha = c m and beta = c (1 - m), the parameters of a Beta distribution.

    m is the sigmoid of the first output and c is 2 exp of the second; both outputs are first bounded by tanh.
    """
    logit, spread = np.moveaxis(np.asarray(outputs, float), -1, 0)
    concentration = 2 * np.exp(5 * np.tanh(spread / 5))
    return concentration * success_rate(outputs), concentration * special.expit(-8 * np.tanh(logit / 8))


def success_rate(outputs: ArrayLike) -> np.ndarray:
    return special.expit(8 * np.tanh(np.asarray(outputs, float)[..., 0] / 8))


def log_prob(likelihood: str, outputs: ArrayLike, successes: ArrayLike, group_size: ArrayLike) -> np.ndarray:
    """Return the log probability of the number of successes in each group of rollouts."""
    if likelihood == "beta_binomial":
        return stats.betabinom.logpmf(successes, group_size, *beta_shapes(outputs))
    if likelihood == "binomial":
        return stats.binom.logpmf(successes, group_size, success_rate(outputs))
    return stats.norm.logpdf(np.asarray(successes) / np.asarray(group_size), success_rate(outputs), 0.2)


def kl_divergence(first: tuple[ArrayLike, ArrayLike], second: tuple[ArrayLike, ArrayLike]) -> float:
    """Return KL(first || second) of independent normals, given as means and scales."""
    (m, s), (m0, s0) = (tuple(np.asarray(part, float) for part in gaussian) for gaussian in (first, second))
    return float((np.log(s0 / s) + (s**2 + (m - m0) ** 2) / (2 * s0**2) - 0.5).sum())


def _kernel(layer: Weights) -> np.ndarray:
    return np.asarray(layer["kernel"], float)


def _linear(layer: Weights, x: np.ndarray) -> np.ndarray:
    return x @ _kernel(layer) + np.asarray(layer["bias"], float)


def _normed(layer: Weights, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scale, bias = (np.asarray(layer[name], float) for name in ("scale", "bias"))
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * scale + bias


def _attention(layer: Weights, x: np.ndarray) -> np.ndarray:
    query, key, value = (
        np.einsum("cw,whd->hcd", x, _kernel(layer[name])) + np.asarray(layer[name]["bias"], float)[:, None]
        for name in ("query", "key", "value")
    )
    weights = special.softmax(query @ key.swapaxes(1, 2) / np.sqrt(query.shape[-1]), axis=-1)
    return np.einsum("hcd,hdw->cw", weights @ value, _kernel(layer["out"])) + np.asarray(layer["out"]["bias"], float)


def _gelu(x: np.ndarray) -> np.ndarray:
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
