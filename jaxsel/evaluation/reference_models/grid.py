r"""The posterior of the reference model on a grid of logits, quick enough for a report.

The model is the one of `model.py`, without embeddings. `sample` draws its hyperparameters by MCMC. This module sets
them to the mode of their posterior instead. Given the hyperparameters, the prompts are independent, and the belief
about a prompt is exact up to the width of a cell: each step is one of

    predict    p(x_{t+k} | before t+k) = integral Normal(x_{t+k}; x_t + k drift, k volatility^2) p(x_t | up to t) dx_t
    condition  p(x_t | up to t)   proportional to   Binomial(s; n, sigmoid(x_t)) p(x_t | before t)

The integral is a convolution, which the fast Fourier transform computes. A logit that leaves the grid counts as its
outermost cell, where the success rate is 0.0003 or 0.9997. The log of the normalising constants of all visits is the
log likelihood of the hyperparameters, up to a constant.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxsel.evaluation.replay import History

_CELLS, _WIDTH = 128, 0.125  # on the logits from -8 to 8
_EDGES = (np.arange(_CELLS + 1) - _CELLS / 2) * _WIDTH
_LOGITS = (_EDGES[1:] + _EDGES[:-1]) / 2
RATES = 1 / (1 + np.exp(-_LOGITS))
"""Success rates at the middles of the cells."""
_PADDED = 3 * _CELLS  # as far beyond the grid as the grid is wide, on both sides together
_LONGEST, _WIDEST, _MOST_PARTS = 8.0, 2.5, 16  # largest shift and deviation of a move in logits; parts of a long move
_FREQUENCIES = 2 * np.pi * np.fft.rfftfreq(_PADDED) / _WIDTH
_MOST_VISITS, _MOST_OF_ONE = 1000, 20  # visits that the hyperparameters are fitted to: together, and of one prompt
_PRIOR_DEVIATIONS = np.array([2.0, 3.0, 0.3, 0.5])  # of `model.priors`, in the order of `Hyperparameters`
# the fit is over mean, log spread, drift / 0.02 and log volatility, which have curvatures of similar size
_DRIFT = 0.02
_BOUNDS = ((-8.0, 8.0), (np.log(0.05), np.log(20)), (-0.3 / _DRIFT, 0.3 / _DRIFT), (np.log(0.01), 0.0))
_START = (0.0, np.log(3), 0.0, np.log(0.1))


class Hyperparameters(NamedTuple):
    """Hyperparameters of the model, in units of logits and steps.

    Attributes:
        mean: Mean of the prompts' logits at step 0.
        spread: Standard deviation of the prompts' logits at step 0.
        drift: Mean change of a logit per step.
        volatility: Standard deviation of the change of a logit per step.
    """

    mean: float
    spread: float
    drift: float
    volatility: float


class Events(NamedTuple):
    """Events of m prompts in order of time: visits, and steps whose beliefs are asked for.

    The prompts are in descending order of their numbers of events. Rows are padded with zeros.

    Attributes:
        prompt_ids: The prompts.
        length: Number of events of each prompt.
        step: Step of each event.
        successes: Successes s of the visit; 0 without one.
        group_size: Rollouts n of the visit; 0 without one.
        asked: Whether the belief is asked for.
    """

    prompt_ids: Int[np.ndarray, " m"]
    length: Int[np.ndarray, " m"]
    step: Int[np.ndarray, "m e"]
    successes: Int[np.ndarray, "m e"]
    group_size: Int[np.ndarray, "m e"]
    asked: Bool[np.ndarray, "m e"]


class Filtered(NamedTuple):
    """Beliefs about success rates, each given the prompt's visits before the step.

    Attributes:
        prompt_ids: Prompt of each belief.
        step: Step of each belief.
        probabilities: Probability of each cell of the grid, whose success rates are `RATES`.
    """

    prompt_ids: Int[np.ndarray, " k"]
    step: Int[np.ndarray, " k"]
    probabilities: Float[np.ndarray, "k cells"]

    def mean(self) -> Float[np.ndarray, " k"]:
        """Return the means of the success rates."""
        return self.probabilities @ RATES

    def quantile(self, share: float) -> Float[np.ndarray, " k"]:
        """Return the success rates below which the beliefs have this probability."""
        total = np.cumsum(self.probabilities, axis=1)
        logits = [np.interp(share, np.append(0.0, row), _EDGES) for row in total]
        return 1 / (1 + np.exp(-np.array(logits)))


def fitted(history: History, *, seed: int = 0) -> Hyperparameters:
    """Return the mode of the hyperparameters' posterior, given about 1,000 visits: at most 20 each of random prompts.

    The choice of the visits is random, so that it does not bias the fit.

    Args:
        history: The visits.
        seed: Seed of the random visits.
    """
    from scipy.optimize import minimize  # imported here, because at the top it would slow down `import jaxsel`

    some = _some(history, np.random.default_rng(seed))
    nothing = np.zeros(0, int)
    table = events(some, np.unique(some.prompt_ids), nothing, nothing)
    likelihoods = _likelihoods(table)

    def loss(scaled: np.ndarray) -> float:
        theta = _unscaled(scaled)
        prior = -0.5 * ((np.array(theta) / _PRIOR_DEVIATIONS) ** 2).sum()
        return -prior - sum(norm for _, norm in _passes(theta, table, likelihoods))

    # a closer fit would take longer, and change no belief that a chart shows
    end = minimize(loss, _START, method="L-BFGS-B", bounds=_BOUNDS, options={"ftol": 1e-4})
    return _unscaled(end.x)


def _some(history: History, rng: np.random.Generator) -> History:
    """Return the visits for a fit."""
    order = rng.permutation(len(history.step))
    prompt = history.prompt_ids[order]
    by_prompt = np.argsort(prompt, kind="stable")
    visited, first, visits = np.unique(prompt[by_prompt], return_index=True, return_counts=True)
    kept = order[by_prompt[np.arange(len(order)) - np.repeat(first, visits) < _MOST_OF_ONE]]
    shuffled = rng.permutation(len(visited))
    total = np.cumsum(np.minimum(visits, _MOST_OF_ONE)[shuffled])
    chosen = visited[shuffled[: np.searchsorted(total, _MOST_VISITS) + 1]]
    kept = np.sort(kept[np.isin(history.prompt_ids[kept], chosen)])
    return History(*(column[kept] for column in history))


def _unscaled(scaled: np.ndarray) -> Hyperparameters:
    mean, log_spread, drift, log_volatility = map(float, scaled)
    return Hyperparameters(mean, float(np.exp(log_spread)), _DRIFT * drift, float(np.exp(log_volatility)))


def filtered(history: History, theta: Hyperparameters, asked: tuple[np.ndarray, np.ndarray]) -> Filtered:
    """Return what the model believes about prompts before steps, given the history before the step.

    Args:
        history: The visits.
        theta: The hyperparameters.
        asked: The prompts and the steps, as two vectors of equal length. Equal pairs give one belief.
    """
    table = events(history, np.unique(asked[0]), *asked)
    found, where = [], []
    for column, (density, _) in enumerate(_passes(theta, table, _likelihoods(table))):
        rows = np.flatnonzero(table.asked[: len(density), column])
        found.append(density[rows])
        where.append(np.stack([table.prompt_ids[rows], table.step[rows, column]]))
    ids, step = np.concatenate(where, axis=1) if where else np.zeros((2, 0), int)
    order = np.lexsort((step, ids))
    return Filtered(ids[order], step[order], np.concatenate(found)[order] if found else np.zeros((0, _CELLS)))


def events(
    history: History,
    prompt_ids: Int[np.ndarray, " m"],
    asked_ids: Int[np.ndarray, " k"],
    asked_steps: Int[np.ndarray, " k"],
) -> Events:
    """Return the visits to the prompts together with the steps at which beliefs about prompts are asked for."""
    there = np.flatnonzero(np.isin(history.prompt_ids, prompt_ids))
    ids = np.concatenate([history.prompt_ids[there], asked_ids]).astype(int)
    steps = np.concatenate([history.step[there], asked_steps]).astype(int)
    (prompt, step), which = np.unique(np.stack([ids, steps]), axis=1, return_inverse=True)
    which = which.ravel()
    counts = [
        np.bincount(which[: len(there)], column[there], len(prompt))
        for column in (history.successes, history.group_size)
    ]
    is_asked = np.bincount(which[len(there) :], minlength=len(prompt)) > 0
    distinct, first, length = np.unique(prompt, return_index=True, return_counts=True)
    order = np.argsort(-length, kind="stable")
    row = np.argsort(order)[np.searchsorted(distinct, prompt)]
    column = np.arange(len(prompt)) - np.repeat(first, length)

    def table(values: np.ndarray) -> np.ndarray:
        filled = np.zeros((len(distinct), length.max(initial=0)), values.dtype)
        filled[row, column] = values
        return filled

    successes, group_size = (table(values.astype(int)) for values in counts)
    return Events(distinct[order], length[order], table(step), successes, group_size, table(is_asked))


def _likelihoods(table: Events) -> list[np.ndarray]:
    """Return the likelihood of every column's visits, divided by its largest value, which theta does not change."""
    failed = -np.logaddexp(0, _LOGITS)  # log sigmoid(-x)
    found = []
    for column in range(table.step.shape[1]):
        rows = int((table.length > column).sum())
        s, n = (counts[:rows, column, None] for counts in (table.successes, table.group_size))
        log_likelihood = s * _LOGITS + n * failed
        found.append(np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True)))  # large n would underflow
    return found


def _passes(theta: Hyperparameters, table: Events, likelihoods: list[np.ndarray]) -> Iterator[tuple[np.ndarray, float]]:
    """Yield for every column the densities before its events, and its visits' log likelihood up to a constant."""
    density, last = np.zeros((0, _CELLS)), np.zeros(0, int)
    for column, likelihood in enumerate(likelihoods):
        rows = len(likelihood)
        step = table.step[:rows, column]
        before = _at_first(theta, step) if not column else _moved(theta, density[:rows], step - last[:rows])
        joint = before * likelihood
        norm = joint.sum(axis=1, keepdims=True)
        yield before, float(np.log(norm).sum())
        density, last = joint / norm, step


def _at_first(theta: Hyperparameters, step: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows cells"]:
    """Return the probability of every cell before a prompt's first visit."""
    from scipy.special import ndtr

    deviation = np.sqrt(theta.spread**2 + step * theta.volatility**2)
    z = (_EDGES[1:-1] - theta.mean - (step * theta.drift)[:, None]) / deviation[:, None]
    return np.maximum(np.diff(ndtr(z), axis=1, prepend=0.0, append=1.0), 1e-30)


def _moved(
    theta: Hyperparameters, density: Float[np.ndarray, "rows cells"], gap: Int[np.ndarray, " rows"]
) -> Float[np.ndarray, "rows cells"]:
    """Return the densities after `gap` steps without a visit."""
    gaps, which = np.unique(gap, return_inverse=True)
    # a move so wide that it would pass the padding, and come in again at the other end, is made in several parts
    longest = int(gaps.max(initial=0))
    widths = longest * abs(theta.drift) / _LONGEST, longest * theta.volatility**2 / _WIDEST**2
    parts = min(max(int(np.ceil(max(widths))), 1), _MOST_PARTS)
    shift = np.clip(gaps * theta.drift / parts, -_LONGEST, _LONGEST)[:, None]
    variance = np.minimum(gaps * theta.volatility**2 / parts, _WIDEST**2)[:, None]
    kernels = np.exp(-_FREQUENCIES * (0.5 * variance * _FREQUENCIES + 1j * shift))[which]
    for _ in range(parts):
        wide = np.maximum(np.fft.irfft(np.fft.rfft(density, _PADDED) * kernels, _PADDED), 0)
        inside, (above, below) = wide[:, :_CELLS] + 1e-30, np.split(wide[:, _CELLS:], 2, axis=1)  # below comes last
        inside[:, 0] += below.sum(axis=1)
        inside[:, -1] += above.sum(axis=1)
        density = inside / inside.sum(axis=1, keepdims=True)
    return density
