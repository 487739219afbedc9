r"""The division of a fixed budget of samples among unseen prompts at test time, by predictions that stay fixed.

A prompt with the success rate p is solved at least once in k samples with probability E[1 - (1 - p)^k]. The k-th sample
adds the gain

    g_k = E[p (1 - p)^(k - 1)],    p ~ Beta(a, b) of the predicted mean and variance
    g_1 = mean,    g_(k + 1) = g_k (b + k - 1) / (a + b + k) = g_k (r b + r (k - 1)) / (1 - r + r k)

with r = variance / (mean (1 - mean)) = 1 / (a + b + 1) and r b = (1 - r) (1 - mean). In this form nothing is infinite.
At r = 0, p is known and g_k = p (1 - p)^(k - 1). At r = 1, the largest possible value, p is 0 or 1, and one sample
shows which. The gains of a prompt never increase with k. To maximise the expected number of solved prompts, each sample
therefore goes to the prompt with the largest next gain.

The computation runs once per evaluation, in NumPy on the host in float64. A step of the heap takes microseconds; a
sample of a language model takes a thousand times longer.

"Small Generalizable Prompt Predictive Models Can Steer Efficient RL Post-Training of Large Reasoning Models" (GPS,
arXiv 2602.01970) allocates by bins of the predicted success rate.
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
    """Return the number of samples for each of m prompts. The numbers sum to `budget`.

    >>> import numpy as np
    >>> allocate(np.array([0.0, 0.1, 0.5, 1.0]), 12)
    array([0, 7, 4, 1], dtype=int32)

    The numbers of samples of equal prompts differ by at most one. With a larger budget no prompt gets fewer samples.

    Args:
        prediction: Prediction of m prompts, or success rates that are taken as certain.
        budget: Total number of samples.
        strategy: "marginal" maximises the expected number of solved prompts, see `expected_solved`. Samples without any
            gain go to the prompts with the fewest samples. "bins" (GPS) divides the budget by bins of the success rate.
            "uniform" divides it evenly; the first rows get the remainder.
        at_least: Smallest number of samples per prompt.
        at_most: Largest number of samples per prompt; None: no limit.
        edges: Increasing edges of the bins. A prompt on an edge belongs to the bin above it.
        weights: Relative number of samples per prompt of each bin, from the hardest bin to the easiest. `at_least` and
            `at_most` take precedence. Bins of weight 0 get more than `at_least` only after all other prompts have
            `at_most`. Rounding follows Sainte-Laguë. The GPS paper gives no numbers. By default the second bin has the
            largest weight, and each later bin has half the weight of the bin before it.

    Raises:
        ValueError: An argument is out of its range, there is no prompt, or the limits do not allow the budget.
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
    """Return the expected number of prompts that are solved at least once.

    With true success rates, this number divided by m is the exact mean probability that a prompt is solved.

    Args:
        prediction: Prediction of m prompts, or success rates that are taken as certain.
        samples: Number of samples of each prompt.

    Raises:
        ValueError: Success rates or variances are out of their range, there is no prompt, or `samples` does not hold
            one count per prompt.
    """
    mean, failing, spread = _moments(prediction)
    samples = _validate.integers("samples", samples, low=0, high=2**31 - 1)
    if len(samples) != len(mean):
        raise ValueError(f"samples has {len(samples)} entries for {len(mean)} prompts; give one count per prompt")
    order = np.argsort(-samples, kind="stable")
    gain, failing, spread, left = mean[order], failing[order], spread[order], -samples[order]
    solved = 0.0
    for k in range(1, samples.max() + 1):
        some = slice(np.searchsorted(left, -k, side="right"))  # the prompts with k samples or more
        solved += gain[some].sum()
        gain = _next_gain(gain[some], k, failing[some], spread[some])
    return float(solved)


def _moments(prediction: Prediction | Float[AnyArray, " m"]) -> tuple[Float[np.ndarray, " m"], ...]:
    """Return the means, r b and r, in the notation of the module's docstring."""
    if isinstance(prediction, Prediction):
        mean = _validate.numbers("success_rate", prediction.success_rate, low=0, high=1)
        variance = _validate.numbers("variance", prediction.variance, low=0, high=0.25)
    else:
        mean = _validate.numbers("prediction", prediction, low=0, high=1)
        variance = np.zeros_like(mean)
    if not len(mean):
        raise ValueError("prediction has 0 prompts; give at least one")
    largest = mean * (1 - mean)
    spread = np.minimum(variance, largest) / np.where(largest > 0, largest, 1)
    return mean, (1 - spread) * (1 - mean), spread


def _next_gain(gain: _Number, k: int, failing: _Number, spread: _Number) -> _Number:
    """Return the gain of sample k + 1 from the gain of sample k. Even with rounding, their ratio is at most 1."""
    return gain * ((failing + spread * (k - 1)) / (1 - spread + spread * k))


def _gains(
    mean: Float[np.ndarray, " m"], failing: Float[np.ndarray, " m"], spread: Float[np.ndarray, " m"], at_least: int
) -> tuple[Float[np.ndarray, " m"], _Following]:
    """Return the cost of each prompt's next sample (its negative gain), and the function that gives later costs."""
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
    """Return the time at which each prompt's next sample is due, and the function that gives later times.

    The prompts of a bin take turns. One round of a bin takes the time 1 / weight.
    """
    edges = _validate.on_host("edges", edges, np.float64, "give increasing numbers from 0 to 1")
    weights = _validate.on_host("weights", weights, np.float64, "give numbers of at least 0, one more than edges")
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
    """Return the number of samples per prompt after the cheapest next samples have used up the budget.

    Among equal costs, the prompt with the fewest samples comes first, then the prompt with the smallest row.
    """
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
