"""The gold standard of the followed prompts: what the reference model believes about them before each step."""

from typing import Any

import numpy as np
from jaxtyping import Int

from jaxsel.evaluation.reference_models import grid
from jaxsel.evaluation.replay import History
from jaxsel.report.followed import BAND

GOLD = "gold standard"
_MOST_VISITS = 100_000  # visits of all followed prompts together, so that a small pool and a long run take seconds
_MOST_POINTS = 48  # steps of one prompt
_EVEN_POINTS = 9  # steps that are evenly spread over the run


def gold_standard(history: History, ids: Int[np.ndarray, " k"], *, seed: int = 0) -> dict[str, Any]:
    """Return the reference model's beliefs about the prompts: columns prompt, step, rate, low and high.

    Every belief is made from the same batches as a method's belief before the step, and from no later ones. The steps
    are those of the prompt's visits, the steps after these, and some more; at most 48 of them.

    Args:
        history: The batches of the run.
        ids: The prompts. If they have more than 100,000 visits together, the last of them are left out.
        seed: Seed of the random visits to which the model's hyperparameters are fitted.
    """
    visits = np.bincount(history.prompt_ids, minlength=int(ids.max(initial=-1)) + 1)[ids]
    ids = ids[np.cumsum(visits) <= _MOST_VISITS]
    asked = [np.stack([np.full_like(steps, prompt), steps]) for prompt, steps in _steps(history, ids)]
    pairs = np.concatenate(asked, axis=1) if asked else np.zeros((2, 0), int)
    found = grid.filtered(history, grid.fitted(history, seed=seed), (pairs[0], pairs[1]))
    low, high = (found.quantile(share) for share in ((1 - BAND) / 2, (1 + BAND) / 2))
    return {"prompt": found.prompt_ids, "step": found.step, "rate": found.mean(), "low": low, "high": high}


def _steps(history: History, ids: Int[np.ndarray, " k"]) -> list[tuple[int, Int[np.ndarray, " p"]]]:
    """Return for every prompt the steps at which its belief is shown."""
    even = np.linspace(0, history.num_steps, _EVEN_POINTS).astype(int)
    rows = np.flatnonzero(np.isin(history.prompt_ids, ids))
    prompt, visit = history.prompt_ids[rows], history.step[rows].astype(int)
    found = []
    for i in map(int, ids):
        at = visit[prompt == i]
        steps = np.unique(np.concatenate([even, at, at + 1]))
        few = np.unique(np.linspace(0, len(steps) - 1, _MOST_POINTS).astype(int))
        found.append((i, steps[few]))
    return found
