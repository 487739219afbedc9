"""Standard errors of metrics, and weights that restrict a metric to a part of the pool."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, Key

from jaxsel import _validate
from jaxsel.numerics.weighted import AnyArray, Weights, checked

# P(count <= k) for a Poisson(1) variable and k < 10; for larger k it is 1 in float32
_POISSON = np.exp(-1) * np.cumsum(1 / np.cumprod([1, *range(1, 10)], dtype=float))


class Estimate(NamedTuple):
    """A metric and its standard error. Each is a float array or a pytree of float arrays, as the metric returns.

    Attributes:
        value: The metric over the rows that count.
        standard_error: The standard deviation of the metric over random samples of rows.
    """

    value: Any
    standard_error: Any


def estimate(
    metric: Callable[..., Any],
    *arrays: Any,
    weights: Weights = None,
    clusters: Int[AnyArray, " c"] | None = None,
) -> Estimate:
    r"""Return a metric with its standard error in closed form, from one backward pass instead of many resamples.

        error^2 = m / (m - 1) sum_i (w_i dT / dw_i)^2

    This is the infinitesimal jackknife, or delta method, for a metric T of m rows with weights w ("The Jackknife, the
    Bootstrap and Other Resampling Plans", Efron 1982). For a mean, error^2 is the sample variance divided by m. For a
    difference of two metrics, it includes their covariance. The error is rough where the metric has a kink: for
    calibration errors near 0, and for a maximum.

    Rows count as independent unless `clusters` groups them, for example the rows of one prompt at several steps. Then m
    is the number of clusters, and w_i dT / dw_i is summed over the rows of each cluster before it is squared.

    >>> import numpy as np
    >>> from jaxsel.metrics import mean_absolute_error
    >>> estimate(mean_absolute_error, np.array([1.0, 0.0, 1.0, 0.0]), np.array([1.0, 0.0, 1.0, 1.0]))
    Estimate(value=Array(0.25, dtype=float32), standard_error=Array(0.25, dtype=float32))

    Args:
        metric: Function called as `metric(*arrays, weights=weights)`. It returns a float array or a pytree of float
            arrays. Its value must not scale with the weights: it may be a mean, but not a sum.
        arrays: Arguments of the metric, with rows on the first axis.
        weights: 1 for rows that count and 0 for other rows. None: all rows count.
        clusters: Integers that are equal for dependent rows, for example prompt ids.

    Raises:
        ValueError: `clusters` has another length than the rows.
    """
    weights = _ones(arrays) if weights is None else checked(weights)
    together = _checked(clusters, weights)
    value, pull = jax.vjp(lambda weights: metric(*arrays, weights=weights), weights)
    flat, unravel = ravel_pytree(value)

    def summed(values: Float[Array, " m"]) -> Float[Array, " m"]:
        return values if together is None else jax.ops.segment_sum(values, together, len(values))

    count = jnp.sum(summed((weights > 0).astype(jnp.float32)) > 0).astype(jnp.float32)

    def error(direction: Float[Array, " k"]) -> Float[Array, ""]:
        (influence,) = pull(unravel(direction))
        return jnp.sqrt(jnp.sum(summed(weights * influence) ** 2) * count / (count - 1))

    errors = jax.lax.map(error, jnp.eye(flat.size, dtype=flat.dtype)).astype(flat.dtype)
    return Estimate(value, unravel(jnp.where((count > 1) & ~jnp.isnan(flat), errors, jnp.nan)))


def bootstrap(
    key: Key[Array, ""],
    metric: Callable[..., Any],
    *arrays: Any,
    weights: Weights = None,
    clusters: Int[AnyArray, " c"] | None = None,
    num_resamples: int = 200,
) -> Estimate:
    """Return a metric with its standard error over resamples: in each, every row or cluster counts Poisson(1) times.

    Only one resample is in memory at a time. Resamples in which the metric is NaN are left out.

    Args:
        key: A key, which this function consumes.
        metric: Function as in `estimate`. It need not be smooth.
        arrays: Arguments of the metric, with rows on the first axis.
        weights: 1 for rows that count and 0 for other rows. None: all rows count.
        clusters: Integers that are equal for dependent rows, for example prompt ids.
        num_resamples: Number of resamples. The relative error of the standard error is 1 / sqrt(2 num_resamples).

    Raises:
        ValueError: `num_resamples` is below 2, or `clusters` has another length than the rows.
    """
    _validate.integer_in(2, 2**31, num_resamples=num_resamples)
    weights = _ones(arrays) if weights is None else checked(weights)
    together = _checked(clusters, weights)
    value = metric(*arrays, weights=weights)
    _, unravel = ravel_pytree(value)

    def resample(key: Key[Array, ""]) -> Float[Array, " k"]:
        uniform = jax.random.uniform(key, weights.shape, jnp.float32)
        times = jnp.sum(uniform[None] >= jnp.asarray(_POISSON, jnp.float32)[:, None], axis=0).astype(jnp.float32)
        times = times if together is None else times[together]
        return ravel_pytree(metric(*arrays, weights=weights * times))[0]

    resamples = jax.lax.map(resample, jax.random.split(key, num_resamples))
    return Estimate(value, unravel(jnp.nanstd(resamples, axis=0, ddof=1)))


def _checked(clusters: Int[AnyArray, " c"] | None, weights: Float[Array, " m"]) -> Int[Array, " c"] | None:
    if clusters is None:
        return None
    if np.shape(clusters) != weights.shape:
        raise ValueError(
            f"clusters has shape {np.shape(clusters)} for {weights.shape[0]} rows; give one integer per row"
        )
    if _validate.traced(clusters):
        return jnp.unique(clusters, return_inverse=True, size=weights.shape[0])[1]  # numbered from 0
    # NumPy tells integers of 64 bits apart, which JAX cuts to 32
    return jnp.asarray(np.unique(np.asarray(clusters), return_inverse=True)[1])


def slices(
    visits: Int[AnyArray, " m"],
    last_visit: Int[AnyArray, " m"],
    step: Int[AnyArray, ""] | int,
    *,
    visit_edges: Sequence[int] = (1, 2, 5),
    waiting_edges: Sequence[int] = (1, 9, 65),
) -> dict[str, Bool[Array, " m"]]:
    """Return parts of the rows as `weights` for the metrics: by how often and how long ago each prompt was visited.

    A visit is one training step with rollouts of the prompt.

    >>> import numpy as np
    >>> parts = slices(np.array([0, 1, 3, 9]), np.array([0, 9, 2, 8]), 10)
    >>> {name: part.tolist().count(True) for name, part in parts.items()}  # doctest: +NORMALIZE_WHITESPACE
    {'all': 4, 'unseen': 1, 'seen': 3, 'visits 1': 1, 'visits 2-4': 1, 'visits 5+': 1,
     'waiting 1-8': 3, 'waiting 9-64': 0, 'waiting 65+': 0}

    Args:
        visits: Number of earlier visits to the prompt of each row.
        last_visit: Step of the last visit, ignored for prompts without a visit.
        step: Step that is predicted. A prompt that was visited in the step before has waited 1 step.
        visit_edges: Increasing lower ends of the bins of visits. The last bin has no upper end.
        waiting_edges: Increasing lower ends of the bins of steps since the last visit.

    Raises:
        ValueError: `visit_edges` or `waiting_edges` is empty or does not increase.
    """
    visits, waiting = jnp.asarray(visits), jnp.asarray(step, jnp.int32) - jnp.asarray(last_visit, jnp.int32)
    seen = visits > 0
    return {
        "all": jnp.ones_like(seen),
        "unseen": ~seen,
        "seen": seen,
        **_bins("visits", visits, seen, visit_edges=visit_edges),
        **_bins("waiting", waiting, seen, waiting_edges=waiting_edges),
    }


def _bins(
    name: str, values: Int[Array, " m"], among: Bool[Array, " m"], **argument: Sequence[int]
) -> dict[str, Bool[Array, " m"]]:
    ((argument_name, given),) = argument.items()
    _validate.listed("at least one number, increasing", **argument)
    edges = [int(edge) for edge in given]
    if not edges or any(low >= high for low, high in pairwise(edges)):
        raise ValueError(f"{argument_name} is {tuple(edges)}; give at least one number, increasing")
    closed = {
        f"{name} {low}" if high == low + 1 else f"{name} {low}-{high - 1}": among & (values >= low) & (values < high)
        for low, high in pairwise(edges)
    }
    return {**closed, f"{name} {edges[-1]}+": among & (values >= edges[-1])}


def _ones(arrays: tuple[Any, ...]) -> Float[Array, " m"]:
    if not jax.tree.leaves(arrays):
        raise ValueError("arrays is empty; give the arguments of the metric")
    return jnp.ones(np.shape(jax.tree.leaves(arrays)[0])[0], jnp.float32)
