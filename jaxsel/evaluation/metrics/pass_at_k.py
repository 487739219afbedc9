r"""Scores of a policy on an evaluation set, from n judged completions of each problem, of which s are correct.

mean@k is the mean success rate. pass@k is the probability that at least one of k completions is correct. Both are means
over problems, so that `jaxsel.metrics.estimate` gives their standard errors over problems:

>>> import numpy as np
>>> from functools import partial
>>> from jaxsel.metrics import estimate
>>> successes, group_size = np.array([0, 1, 2, 4]), np.array([4, 4, 4, 4])
>>> print(*(f"{float(number):.3f}" for number in estimate(mean_at_k, successes, group_size)))
0.438 0.213
>>> print(*(f"{float(number):.3f}" for number in estimate(partial(pass_at_k, k=2), successes, group_size)))
0.583 0.220

The completions of one problem are not taken as independent samples: the unit of the standard errors is the problem.
They include both the noise of the completions and the choice of the problems.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxsel import _validate
from jaxsel.numerics.weighted import AnyArray, Weights, counted, mean


def mean_at_k(
    successes: Int[AnyArray, " m"], group_size: Int[AnyArray, " m"], *, weights: Weights = None
) -> Float[Array, ""]:
    """Return the mean of s / n over problems with n > 0. Each of them has the same weight, whatever its n."""
    w, s, n = counted(weights, successes=successes, group_size=group_size)
    return mean(s.astype(w.dtype) / jnp.maximum(n, 1).astype(w.dtype), jnp.where(n > 0, w, 0))


def pass_at_k(
    successes: Int[AnyArray, " m"], group_size: Int[AnyArray, " m"], *, k: int, weights: Weights = None
) -> Float[Array, ""]:
    r"""Return the mean of the unbiased estimator of pass@k over problems with n >= k.

        1 - C(n - s, k) / C(n, k) = 1 - prod_{i=0}^{k-1} (n - s - i) / (n - i)

    Reference: "Evaluating Large Language Models Trained on Code" (Chen et al. 2021, arXiv 2107.03374), equation 1.

    Args:
        successes: Correct completions of each problem.
        group_size: Judged completions of each problem. A problem with fewer than k has no estimate and does not count.
        k: Number of completions of which one must be correct.
        weights: 1 for problems that count and 0 for others. None: all count.

    Raises:
        ValueError: `k` is not a positive integer.
    """
    _validate.positive_integer(k=k)
    w, s, n = counted(weights, successes=successes, group_size=group_size)
    s, n = s[None].astype(w.dtype), n[None].astype(w.dtype)
    i = jnp.arange(k, dtype=w.dtype)[:, None]
    wrong = jnp.maximum(n - s - i, 0) / jnp.maximum(n - i, 1)
    return mean(1 - jnp.prod(wrong, axis=0), jnp.where(n[0] >= int(k), w, 0))
