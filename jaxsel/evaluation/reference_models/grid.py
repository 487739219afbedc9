r"""The posterior of the reference model on a grid of logits, quick enough for a report.

The model is the one of `model.py`, without embeddings. `sample` draws its hyperparameters by MCMC. This module sets
them to the mode of their posterior instead. Given the hyperparameters, the prompts are independent, and the belief
about a prompt is exact up to the width of a cell: each step is one of

    predict    p(x_{t+k} | before t+k) = integral Normal(x_{t+k}; x_t + k drift, k volatility^2) p(x_t | up to t) dx_t
    condition  p(x_t | up to t)   proportional to   Binomial(s; n, sigmoid(x_t)) p(x_t | before t)

The integral is a sum over the cells, with weights that are positive and have the mean and the variance of the move at
any volatility (`lattice.py`). For this, the grid moves with the drift, by less than a cell: further moves are by whole
cells. The success rates are exact to 0.01, except after a group of 64 that contradicts a belief narrower than a cell:
the ends of the band are then off by up to 0.02. Logits beyond -8 and 8, where the success rate is 0.0003 or 0.9997,
have the likelihoods of these, and a logit that leaves the grid counts as its outermost cell. The log of the normalising
constants of all visits is the log likelihood of the hyperparameters, up to a constant.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxsel.evaluation.reference_models import lattice
from jaxsel.evaluation.reference_models.lattice import CELLS, WIDTH
from jaxsel.evaluation.replay import History

_EDGES = (np.arange(CELLS + 1) - CELLS / 2) * WIDTH
_LOGITS = (_EDGES[1:] + _EDGES[:-1]) / 2
RATES = 1 / (1 + np.exp(-_LOGITS))
"""Success rates at the middles of the cells, before the grid is moved."""
_FARTHEST = 8.0  # logits beyond it have the likelihood of this one
_LEAST = 1e-200  # less likely cells count as 0: the processor is slow on subnormal numbers
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
        probabilities: Probability of each cell of the grid, whose success rates without the offset are `RATES`.
        offset: How far the grid is moved, in logits: by less than a cell.
    """

    prompt_ids: Int[np.ndarray, " k"]
    step: Int[np.ndarray, " k"]
    probabilities: Float[np.ndarray, "k cells"]
    offset: Float[np.ndarray, " k"]

    def mean(self) -> Float[np.ndarray, " k"]:
        """Return the means of the success rates."""
        rates = RATES / (RATES + (1 - RATES) * np.exp(-self.offset[:, None]))
        return (self.probabilities * rates).sum(axis=1)

    def quantile(self, share: float) -> Float[np.ndarray, " k"]:
        """Return the success rates below which the beliefs have this probability."""
        total = np.cumsum(self.probabilities, axis=1)
        logits = [np.interp(share, np.append(0.0, row), _EDGES) for row in total]
        return 1 / (1 + np.exp(-np.array(logits) - self.offset))


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

    def loss(scaled: np.ndarray) -> float:
        theta = _unscaled(scaled)
        prior = -0.5 * ((np.array(theta) / _PRIOR_DEVIATIONS) ** 2).sum()
        return -prior - sum(norm for _, norm in _passes(theta, table))

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
    for column, (density, _) in enumerate(_passes(theta, table)):
        rows = np.flatnonzero(table.asked[: len(density), column])
        found.append(density[rows])
        where.append(np.stack([table.prompt_ids[rows], table.step[rows, column]]))
    ids, step = np.concatenate(where, axis=1) if where else np.zeros((2, 0), int)
    order = np.lexsort((step, ids))
    probabilities = np.concatenate(found)[order] if found else np.zeros((0, CELLS))
    return Filtered(ids[order], step[order], probabilities, _frame(theta, step[order])[1])


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


def _passes(theta: Hyperparameters, table: Events) -> Iterator[tuple[np.ndarray, float]]:
    """Yield for every column the densities before its events, and its visits' log likelihood up to a constant."""
    steps, at = np.unique(table.step, return_inverse=True)
    # flat at the ends of the grid, or the likelihood would jump where theta moves the mean to the next cell
    logits = np.clip(_LOGITS + _frame(theta, steps)[1][:, None], -_FARTHEST, _FARTHEST)
    failed = -np.logaddexp(0, logits)  # log sigmoid(-x)
    at = at.reshape(table.step.shape)
    longest = int(np.diff(table.step, axis=1).max(initial=0))
    gaps = [1 << bit for bit in range(longest.bit_length())]
    moves = [lattice.move(gap * theta.drift, gap * theta.volatility**2) for gap in gaps]
    density, last = np.zeros((0, CELLS)), np.zeros(0, int)
    for column in range(table.step.shape[1]):
        rows = int((table.length > column).sum())
        step, now = table.step[:rows, column], at[:rows, column]
        if column:
            before = _moved(theta, density[:rows], last[:rows], step, moves)
        else:
            before = lattice.normal(_frame(theta, step)[0], theta.spread**2 + step * theta.volatility**2)
        s, n = (counts[:rows, column, None] for counts in (table.successes, table.group_size))
        with np.errstate(divide="ignore"):
            log_joint = np.log(before) + s * logits[now] + n * failed[now]  # the likelihood of large n would underflow
        largest = log_joint.max(axis=1, keepdims=True)
        joint = np.exp(log_joint - largest)
        joint[joint < _LEAST] = 0
        norm = joint.sum(axis=1, keepdims=True)
        yield before, float((largest + np.log(norm)).sum())
        density, last = joint / norm, step


def _frame(theta: Hyperparameters, step: Int[np.ndarray, " k"]) -> tuple[np.ndarray, np.ndarray]:
    """Return the cell around the mean of a logit without visits, and how far the grid moves to have it in the middle.

    Cells below 0 or from `CELLS` lie beyond the grid.
    """
    mean = (theta.mean + step * theta.drift - _LOGITS[0]) / WIDTH
    cell = np.floor(mean + 0.618)  # with 0.5, the fit would start where the next cell begins, and theta has no gradient
    return cell.astype(int), (mean - cell) * WIDTH


def _moved(
    theta: Hyperparameters,
    density: Float[np.ndarray, "rows cells"],
    last: Int[np.ndarray, " rows"],
    step: Int[np.ndarray, " rows"],
    moves: list[lattice.Move],
) -> Float[np.ndarray, "rows cells"]:
    """Return the densities at a step, given those after the last one: a gap is made of moves of 1, 2, 4, ... steps."""
    density = density.copy()
    left = _frame(theta, step)[0] - _frame(theta, last)[0]  # the drifts of the moves are rounded, their sum is not
    for bit, move in enumerate(moves):
        rows = np.flatnonzero((step - last) >> bit & 1)
        density[rows] = lattice.moved(density[rows], move)
        left[rows] -= move.drift
    for cells in np.unique(left[left != 0]):
        rows = np.flatnonzero(left == cells)
        density[rows] = lattice.shifted(density[rows], int(cells))
    return density
