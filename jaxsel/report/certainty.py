"""How sure a statement about shares and scores is, also where groups or prompts are few."""

import numpy as np
from jaxtyping import Bool, Float

UNLIKELY = 0.003
"""A gap is clear if chance makes one as large less often than this, although the prediction is right."""
FEWEST_PROMPTS = 10
"""Distinct prompts that an order of two methods needs at least."""
_ERRORS = 3.0  # standard errors that a clear gap exceeds
_SIDE = 1.96  # standard errors on each side of an interval of 95%
_DRAWS = 4000
_TINY = 1e-4  # an error below this share of its number is rounding: it comes from outcomes that do not differ


def is_clear(gap: float, error: float, *, least: float, expected: float, groups: float, prompts: int) -> bool:
    """Return whether a share differs from what was expected, by more than chance explains.

    The gap must exceed `least` and three standard errors (of Student's t, as prompts may be few), and an exact binomial
    test must find it unlikely. A mean of probabilities that differ varies less than a binomial share (Hoeffding 1956).

    Args:
        gap: The expected minus the observed share.
        error: The standard error of the gap. NaN, an unknown error, is infinite.
        least: Smallest gap that matters.
        expected: The expected share.
        groups: Number of groups.
        prompts: Number of distinct prompts among them.
    """
    if not abs(gap) > max(least, t_quantile(_ERRORS, prompts) * np.nan_to_num(error, nan=np.inf)):
        return False
    return by_chance(groups, expected, expected - gap) < UNLIKELY


def t_quantile(errors: float, prompts: int) -> float:
    """Return how many estimated errors are as rarely exceeded as this many known ones; infinity for one prompt."""
    from scipy.special import ndtr, stdtrit

    return float(-stdtrit(prompts - 1, ndtr(-errors))) if prompts > 1 else np.inf


def is_known(value: float, error: float) -> bool:
    """Return whether a standard error says how sure its number is. One of 0 does not: the outcomes do not differ."""
    return bool(np.isfinite(error) and error > _TINY * abs(value))


def by_chance(groups: float, expected: float, observed: float) -> float:
    """Return the probability of an observed share at least as far off on its side, times two: a binomial test."""
    from scipy.special import bdtr, bdtrc

    expected = min(max(expected, 1e-9), 1 - 1e-9)
    number, low = round(groups), observed < expected
    # a part of a group counts in favour of the prediction; the small number is rounding
    count = np.ceil(number * observed - 1e-3) if low else np.floor(number * observed + 1e-3)
    tail = bdtr(count, number, expected) if low else bdtrc(count - 1, number, expected) if count > 0 else 1.0
    return min(1.0, 2 * float(tail))


def interval(
    observed: Float[np.ndarray, " k"], groups: Float[np.ndarray, " k"]
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Return where the true share lies with 95% confidence (Wilson 1927). Without groups it may be anything."""
    n = np.maximum(groups, 1e-9)
    share = np.where(np.asarray(groups) > 0, np.clip(observed, 0, 1), 0.5)
    middle = (share + _SIDE**2 / (2 * n)) / (1 + _SIDE**2 / n)
    side = _SIDE / (1 + _SIDE**2 / n) * np.sqrt(share * (1 - share) / n + _SIDE**2 / (4 * n**2))
    return middle - side, middle + side


def lies_within(
    expected: Float[np.ndarray, " k"], observed: Float[np.ndarray, " k"], groups: Float[np.ndarray, " k"], most: float
) -> Bool[np.ndarray, " k"]:
    """Return whether the interval of each observed share lies within `most` of the expected share."""
    low, high = interval(observed, groups)
    return (groups > 0) & (low >= expected - most) & (high <= expected + most)


def error_by_chance(error: float, expected: Float[np.ndarray, " k"], groups: Float[np.ndarray, " k"]) -> float:
    """Return how often right predictions show a calibration error as large, by simulation."""
    n, p = np.round(groups).astype(np.int64), np.clip(np.nan_to_num(expected), 0, 1)
    drawn = np.random.default_rng(0).binomial(n, p, (_DRAWS, len(n)))
    return float(np.mean(np.abs(drawn - n * p).sum(axis=1) / max(n.sum(), 1) >= error - 1e-6))
