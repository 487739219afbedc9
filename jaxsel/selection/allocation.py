r"""Test time: how many samples each unseen prompt gets of a fixed budget, by frozen predictions.

A prompt is solved at least once in k samples with probability E[1 - (1 - p)^k]; the k-th sample adds the gain

    g_k = E[p (1 - p)^(k - 1)],    p ~ Beta(a, b) of the predicted mean and variance
    g_1 = mean,    g_(k + 1) = g_k (b + k - 1) / (a + b + k) = g_k (r b + r (k - 1)) / (1 - r + r k)

with r = variance / (mean (1 - mean)) = 1 / (a + b + 1) and r b = (1 - r) (1 - mean). In this form nothing is infinite:
at r = 0, p is known and g_k = p (1 - p)^(k - 1); at r = 1, the largest there is, p is 0 or 1 and one sample tells. The
gains of a prompt never increase, so that giving each sample to the largest next gain solves the most prompts that a
budget can.

This is NumPy on the host in float64, once an evaluation: a step of the heap takes microseconds, a sample of a language
model a thousand times that. "Small Generalizable Prompt Predictive Models Can Steer Efficient RL Post-Training of Large
Reasoning Models" (GPS, arXiv 2602.01970) allocates by bins of the predicted success rate.
"""

import heapq
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Int

from jaxsel import _validate
from jaxsel.base import Prediction
from jaxsel.numerics.weighted import AnyArray

_Number = TypeVar("_Number", float, np.ndarray)
_Following = Callable[[float, int, int], float]


def allocate(
    prediction: Prediction | Float[AnyArray, " m"],
    budget: int,
    *,
    strategy: str = "marginal",
    at_least: int = 0,
    at_most: int | None = None,
    edges: Sequence[float] | np.ndarray = (0.1, 0.3, 0.7, 0.9),
    weights: Sequence[float] | np.ndarray = (1, 8, 4, 2, 1),
) -> Int[np.ndarray, " m"]:
    """Spends exactly `budget` samples on m prompts.

    >>> import numpy as np
    >>> allocate(np.array([0.0, 0.1, 0.5, 1.0]), 12)
    array([0, 7, 4, 1], dtype=int32)

    Equal prompts get equal numbers, give or take one, and a larger budget takes from none.

    Args:
        prediction: of the prompts, uncertain; or success rates, taken for certain.
        budget: samples in all.
        strategy: "marginal" solves as many prompts as can be expected, see `expected_solved`; what nobody gains from
            any more goes to those with the fewest samples. "bins" (GPS) spends by bins of the success rate.
            "uniform" spends evenly, the rest on the first rows.
        at_least: samples that every prompt gets.
        at_most: samples that no prompt gets more than; None: no limit.
        edges: of the bins, increasing; a prompt on an edge belongs to the bin above it.
        weights: samples a prompt of each bin, from hopeless to easy, in proportion as far as `at_least` and `at_most`
            let them; bins of weight 0 get what the others have no room for. Rounded as Sainte-Laguë does. GPS gives no
            numbers; these halve from the hardest bin worth trying to the easiest.

    Raises:
        ValueError: an argument out of its range, no prompt, or a budget that the limits do not allow.
    """
    mean, failing, spread = _moments(prediction)
    size = len(mean)
    _validate.one_of(("marginal", "bins", "uniform"), strategy=strategy)
    _validate.integer_in(0, 2**31, budget=budget, at_least=at_least)
    budget, at_least = int(budget), int(at_least)
    if at_least * size > budget:
        raise ValueError(f"budget is {budget}; give {at_least * size} or more, or another at_least than {at_least}")
    at_most = budget if at_most is None else at_most
    _validate.integer_in(at_least, 2**31, at_most=at_most)
    if int(at_most) * size < budget:
        raise ValueError(f"at_most is {at_most}; give {-(-budget // size)} or more, or another budget than {budget}")
    if strategy == "uniform":
        return (budget // size + (np.arange(size) < budget % size)).astype(np.int32)
    by_gain = strategy == "marginal"
    cost, following = _gains(mean, failing, spread, at_least) if by_gain else _turns(mean, edges, weights, at_least)
    return _cheapest(cost, following, budget, at_least, int(at_most))


def expected_solved(prediction: Prediction | Float[AnyArray, " m"], samples: Int[AnyArray, " m"]) -> float:
    """How many prompts are solved at least once, as expected.

    Of true success rates and the `samples` of an allocation, it is the exact pass@budget, times m.

    Args:
        prediction: of the prompts, uncertain; or success rates, taken for certain.
        samples: what each prompt gets.

    Raises:
        ValueError: success rates or variances out of their range, no prompt, or samples that are not one count each.
    """
    mean, failing, spread = _moments(prediction)
    samples = _validate.integers("samples", samples, low=0, high=2**31 - 1)
    if len(samples) != len(mean):
        raise ValueError(f"samples has {len(samples)} entries for {len(mean)} prompts; give one each")
    order = np.argsort(-samples, kind="stable")
    gain, failing, spread, left = mean[order], failing[order], spread[order], -samples[order]
    solved = 0.0
    for k in range(1, samples.max() + 1):
        some = slice(np.searchsorted(left, -k, side="right"))  # those with k samples or more
        solved += gain[some].sum()
        gain = _next_gain(gain[some], k, failing[some], spread[some])
    return float(solved)


def _moments(prediction: Prediction | Float[AnyArray, " m"]) -> tuple[Float[np.ndarray, " m"], ...]:
    """The means, r b and r, see above."""
    if isinstance(prediction, Prediction):
        mean = _validate.numbers("success_rate", prediction.success_rate, low=0, high=1)
        variance = _validate.numbers("variance", prediction.variance, low=0, high=0.25)
    else:
        mean = _validate.numbers("prediction", prediction, low=0, high=1)
        variance = np.zeros_like(mean)
    if not len(mean):
        raise ValueError("prediction is of 0 prompts; give one at least")
    largest = mean * (1 - mean)
    spread = np.minimum(variance, largest) / np.where(largest > 0, largest, 1)
    return mean, (1 - spread) * (1 - mean), spread


def _next_gain(gain: _Number, k: int, failing: _Number, spread: _Number) -> _Number:
    """The gain of sample k + 1 from that of sample k; the ratio never exceeds 1, rounded or not."""
    return gain * ((failing + spread * (k - 1)) / (1 - spread + spread * k))


def _gains(
    mean: Float[np.ndarray, " m"], failing: Float[np.ndarray, " m"], spread: Float[np.ndarray, " m"], at_least: int
) -> tuple[Float[np.ndarray, " m"], _Following]:
    """What each prompt's next sample costs: minus its gain. And what the one after it costs."""
    gain = mean
    for k in range(1, at_least + 1):
        gain = _next_gain(gain, k, failing, spread)
    failing_of, spread_of = failing.tolist(), spread.tolist()
    return -gain, lambda cost, taken, row: _next_gain(cost, taken, failing_of[row], spread_of[row])


def _turns(
    rates: Float[np.ndarray, " m"],
    edges: Sequence[float] | np.ndarray,
    weights: Sequence[float] | np.ndarray,
    at_least: int,
) -> tuple[Float[np.ndarray, " m"], _Following]:
    """When each prompt's next sample is due: a bin's prompts take turns, a round in 1 / weight. And the one after."""
    edges, weights = np.asarray(edges, np.float64), np.asarray(weights, np.float64)
    if edges.ndim != 1 or not ((edges >= 0) & (edges <= 1)).all() or (np.diff(edges) <= 0).any():
        raise ValueError(f"edges is {edges.tolist()}; give increasing numbers from 0 to 1")
    valid = weights.shape == (len(edges) + 1,) and np.isfinite(weights).all() and (weights >= 0).all() and weights.any()
    if not valid:
        raise ValueError(f"weights is {weights.tolist()}; give {len(edges) + 1} numbers of at least 0, not all 0")
    bins = np.searchsorted(edges, rates, side="right")
    size = np.bincount(bins, minlength=len(weights))
    place = np.empty(len(rates))
    place[np.argsort(bins, kind="stable")] = np.concatenate([np.arange(n) for n in size])
    turn = (place + 0.5) / size[bins]
    with np.errstate(divide="ignore", over="ignore"):
        round_time = (1 / weights)[bins]
    turn_of, round_of = turn.tolist(), round_time.tolist()
    return (at_least + turn) * round_time, lambda cost, taken, row: (taken + turn_of[row]) * round_of[row]


def _cheapest(
    cost: Float[np.ndarray, " m"], following: _Following, budget: int, at_least: int, at_most: int
) -> Int[np.ndarray, " m"]:
    """Takes the cheapest next sample until the budget is spent; of equal ones that of the fewest samples, then row."""
    samples = [at_least] * len(cost)
    heap = list(zip(cost.tolist(), samples, range(len(samples)), strict=True))
    heapq.heapify(heap)
    for _ in range(budget - at_least * len(samples)):
        paid, taken, row = heap[0]
        samples[row] = taken = taken + 1
        if taken < at_most:
            heapq.heapreplace(heap, (following(paid, taken, row), taken, row))
        else:
            heapq.heappop(heap)
    return np.array(samples, np.int32)
