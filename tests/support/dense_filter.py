"""The reference model's beliefs by quadrature on logits so close together that no move is narrower than a few."""

import numpy as np
from scipy import stats


def believed_densely(history, prompt, theta):
    """Return mean and central 90% interval of the prompt's success rate before every step and after the last."""
    width = min(0.005, theta.volatility / 3)
    logits = np.arange(-16, 16, width)
    rate, reach = 1 / (1 + np.exp(-logits)), int((9 * theta.volatility + abs(theta.drift)) / width) + 1
    move = stats.norm.pdf(np.arange(-reach, reach + 1) * width, theta.drift, theta.volatility)
    density = stats.norm.pdf(logits, theta.mean, theta.spread)
    found = []
    for step in range(history.num_steps + 1):
        if step:
            density = np.convolve(density, move, "same")
        density = density / density.sum()
        ends = np.interp([0.05, 0.95], density.cumsum(), logits + width / 2)
        found.append((density @ rate, *(1 / (1 + np.exp(-ends)))))
        for row in np.flatnonzero((history.step == step) & (history.prompt_ids == prompt)):
            s, n = int(history.successes[row]), int(history.group_size[row])
            with np.errstate(divide="ignore"):
                log_density = np.log(density) + s * logits - n * np.logaddexp(0, logits)
            density = np.exp(log_density - log_density.max())
    return np.array(found)
