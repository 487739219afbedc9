"""The reference model's beliefs by brute force: a hidden Markov model on a fine grid of logits, one step at a time."""

import numpy as np
from scipy import stats

GRID = np.linspace(-14, 14, 701)
RATE = 1 / (1 + np.exp(-GRID))


def believed(history, prompt, step, theta):
    """Return the distribution of the prompt's logit before the step, and the log likelihood of its visits till then."""
    density = stats.norm.pdf(GRID, theta.mean, theta.spread)
    density = density / density.sum()
    move = stats.norm.pdf(GRID[:, None], GRID[None] + theta.drift, theta.volatility)
    move = move / move.sum(axis=0)
    total = 0.0
    for t in range(step):
        here = (history.step == t) & (history.prompt_ids == prompt)
        for s, n in zip(history.successes[here], history.group_size[here], strict=True):
            density = density * RATE**s * (1 - RATE) ** (n - s)
            total += np.log(density.sum())
            density = density / density.sum()
        density = move @ density
    return density, total


def mean_and_interval(density, level):
    """Return the mean of the success rate and the ends of its central interval."""
    tails = np.interp([(1 - level) / 2, (1 + level) / 2], density.cumsum(), GRID + (GRID[1] - GRID[0]) / 2)
    return (density @ RATE, *(1 / (1 + np.exp(-tails))))
