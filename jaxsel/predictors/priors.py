"""Beta priors of success rates, from solve rates that were published or measured before training."""

import hashlib
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from jaxsel import _validate
from jaxsel._visits import LARGEST_COUNT, are_above
from jaxsel.numerics.beta_binomial import solve_state_probabilities

_LARGEST = np.float32(1e30)


def informative_prior(
    successes: ArrayLike | Sequence[float | None] | Sequence[Sequence[float | None]],
    group_size: ArrayLike | Sequence[float | None] | None = None,
    *,
    strength: float = 3.0,
    threshold: float = 0.5,
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """Return 1 + strength * successes and 1 + strength * failures, from rollouts before training.

    This is the informative prior of MoPPS, section 4, where the base model's rollouts are counted. Pass the two results
    as `prior_alpha` and `prior_beta` to any method. For published solve rates, give `rates * group_size` as successes.

    >>> import jaxsel
    >>> jaxsel.informative_prior([4, 0, None], 4)
    (array([13.,  1.,  1.]), array([ 1., 13.,  1.]))
    >>> jaxsel.informative_prior([[1.0, 1.0, 0.0], [], [None, 0.0]])
    (array([7., 1., 1.]), array([4., 1., 4.]))

    Args:
        successes: Correct rollouts per prompt. They need not be integers. None, NaN or masked: nothing is known about
            the prompt, and its prior is uniform. Without `group_size`: the rewards of each prompt's rollouts, in lists
            of any lengths; a reward of None, NaN, infinity or under a mask does not count.
        group_size: Rollouts per prompt, one number for all prompts or one per prompt. None, NaN or masked for a prompt
            means the same as for `successes`.
        strength: Weight of a rollout before training. At 1, it counts as much as a rollout of the current policy.
        threshold: The largest reward that is not a success, for lists of rewards; compared in float32.

    Raises:
        ValueError: A count is not a number with 0 <= successes <= group_size, the strength is below 0, or the group
            size is missing and `successes` does not hold lists of rewards.
    """
    _validate.non_negative(strength=strength)
    counts: tuple[Any, Any] = (successes, group_size)
    if group_size is None:
        counts = _of_rewards(successes, threshold)
    s, n = (_counts(name, value) for name, value in zip(("successes", "group_size"), counts, strict=True))
    try:
        n = np.broadcast_to(n, s.shape)
    except ValueError as error:
        raise ValueError(
            f"successes has {len(s)} entries and group_size {len(n)}; give one number or one per prompt"
        ) from error
    if (s > n).any():
        at = int(np.argmax(s > n))
        raise ValueError(f"successes[{at}] is {s[at]:g} of {n[at]:g} rollouts; give at most group_size")
    is_known = np.isfinite(s) & np.isfinite(n)
    alpha, beta = (1 + strength * np.where(is_known, count, 0) for count in (s, n - s))
    return alpha, beta


def checked_prior(name: str, value: ArrayLike | Array) -> np.ndarray | Array:
    """Return one parameter of a Beta prior: a scalar, or a vector with one entry per prompt.

    Raises:
        ValueError: The parameter is not a number above 0 and up to 1e30, or it has another shape.
    """
    if _validate.traced(value):
        return value
    cure = "give numbers above 0 and up to 1e30, one for all prompts or one per prompt"
    prior = _validate.on_host(name, value, np.float32, cure)
    # the sum of two larger numbers may be infinite in float32
    if prior.ndim > 1 or not ((prior > 0) & (prior <= _LARGEST)).all():
        raise ValueError(f"{name} is {prior}; {cure}")
    return prior


def checked_priors(prior_alpha: ArrayLike | Array, prior_beta: ArrayLike | Array) -> dict[str, np.ndarray | Array]:
    """Return both parameters of a Beta prior by name, see `checked_prior`."""
    return {
        "prior_alpha": checked_prior("prior_alpha", prior_alpha),
        "prior_beta": checked_prior("prior_beta", prior_beta),
    }


def check_length(num_prompts: int, **priors: np.ndarray | Array) -> None:
    """Raise a ValueError if a prior with one entry per prompt does not fit the pool."""
    for name, value in priors.items():
        if value.ndim and len(value) != num_prompts:
            raise ValueError(f"{name} has {len(value)} entries for {num_prompts} prompts; give one entry per prompt")


def described(prior: np.ndarray | Array) -> float | str:
    """Return the entry for a prior in a method's spec: the number itself, or the fingerprint of a vector."""
    if prior.ndim == 0:
        return _validate.json_value(prior)
    return f"sha256:{hashlib.sha256(np.asarray(prior).tobytes()).hexdigest()[:16]}"


def evidence(
    num_prompts: int, prior_alpha: np.ndarray | Array, prior_beta: np.ndarray | Array
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """Return the successes and failures that turn the uniform prior into these priors.

    A parameter below 1 counts as 1, because counts cannot be negative. A prompt has at most as many rollouts as it may
    have in a step: with more, its belief would be as sure, and rounding in float32 could make it NaN.
    """
    check_length(num_prompts, prior_alpha=prior_alpha, prior_beta=prior_beta)
    counts = (np.maximum(np.asarray(prior, np.float32) - 1, 0) for prior in (prior_alpha, prior_beta))
    successes, failures = (np.broadcast_to(count, (num_prompts,)) for count in counts)
    share = LARGEST_COUNT / np.maximum(successes + failures, LARGEST_COUNT)
    return successes * share, failures * share


def initial_beliefs(
    prior_alpha: ArrayLike, prior_beta: ArrayLike, group_size: int, otherwise: ArrayLike | None
) -> ArrayLike | None:
    """Return P(UNSOLVED), P(MIXED) and P(SOLVED) of a prompt's first group of rollouts, one row per prior.

    A prior with both parameters 1 is uniform: nothing is known about the prompt, and its row is `otherwise`. If all
    priors are uniform, the result is `otherwise` alone.

    Args:
        prior_alpha: First parameter of the Beta priors.
        prior_beta: Second parameter, in the same form or one number.
        group_size: Rollouts per prompt.
        otherwise: Weights of the three solve states for a prompt with the uniform prior. None: equal weights.

    Raises:
        ValueError: A parameter is not a number above 0 and up to 1e30, or the two have different lengths.
    """
    alpha, beta = checked_priors(prior_alpha, prior_beta).values()
    if alpha.ndim and beta.ndim and len(alpha) != len(beta):
        raise ValueError(
            f"prior_alpha has {len(alpha)} entries and prior_beta {len(beta)}; give one number or one entry per prompt"
        )
    if np.all(alpha == 1) and np.all(beta == 1):
        return otherwise
    alpha, beta = np.broadcast_arrays(alpha, beta)
    beliefs = np.stack(solve_state_probabilities(jnp.asarray(alpha), jnp.asarray(beta), group_size), -1)
    is_known = (alpha != 1) | (beta != 1)
    return np.where(is_known[..., None], beliefs, np.asarray((1, 1, 1) if otherwise is None else otherwise) / 1)


def _of_rewards(rewards: Any, threshold: float) -> tuple[list[int], list[int]]:
    """Return the numbers of successes and of judged rollouts per prompt, from lists of rewards."""
    _validate.finite(threshold=threshold)
    _validate.listed("group_size, or one list of rewards per prompt", successes=rewards)
    successes, judged = [], []
    for row, given in enumerate(rewards):
        if isinstance(given, str) or np.ndim(given) != 1 or any(isinstance(reward, str) for reward in given):
            raise ValueError(f"successes[{row}] is {given!r:.60}; give group_size, or one list of rewards per prompt")
        given = _validate.nan_where_masked(given)
        values = _validate.on_host(f"successes[{row}]", given, np.float64, "give numbers and None")
        counted = values[np.isfinite(values)]
        successes.append(int(are_above(counted, threshold).sum()))
        judged.append(len(counted))
    return successes, judged


def _counts(name: str, value: ArrayLike | Sequence[float | None]) -> Float[np.ndarray, " N"]:
    """Return counts of at least 0 as a vector, NaN where they are missing."""
    value = _validate.nan_where_masked(value)
    counts = _validate.on_host(name, value, np.float64, "give one number per prompt, or None")  # None becomes NaN
    counts = np.atleast_1d(counts)
    if counts.ndim != 1:
        raise ValueError(f"{name} has shape {counts.shape}; give one number per prompt")
    if (wrong := (counts < 0) | np.isinf(counts)).any():
        at = int(np.argmax(wrong))
        raise ValueError(f"{name}[{at}] is {counts[at]:g}; give a number of at least 0, or None")
    return counts
