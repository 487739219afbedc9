"""The predictors to score: with their defaults, and fitted to the first half of a history (a recorded run)."""

from typing import Any, NamedTuple

import numpy as np

import jaxsel
from experiments.calibration.ridge import ridge
from jaxsel.integrations.embeddings import embed
from jaxsel.integrations.history import Recorded

FITTED = {"mopps": (jaxsel.beta_bernoulli, "counts"), "dps": (jaxsel.hidden_markov, "states")}
"""The family of each fitted method, and the log score by which it is fitted.

"counts" is the log score of the number of successes; "states" is the log score of the event that none, some or all
rollouts succeed.
"""


class Predictors(NamedTuple):
    """Predictors by name, and the fits of the fitted ones."""

    predictors: dict[str, jaxsel.Predictor]
    fits: dict[str, jaxsel.Fitted]


def middle(recorded: Recorded) -> int:
    """Return the step at which the first half ends."""
    return recorded.history.num_steps // 2


def make_predictors(recorded: Recorded) -> Predictors:
    """Return mopps and dps, as set by hand and fitted, the predictor of arcus, and state_space.

    Where the history has texts or embeddings, there are gps and ridge too, and state_space uses the embeddings.
    """
    history = recorded.history
    early = history.before(middle(recorded))
    group_size = int(np.median(history.group_size))
    fits = {
        name: jaxsel.fit(early, family, num_prompts=recorded.num_prompts, **_sized(family, group_size))
        for name, (family, _) in FITTED.items()
    }
    predictors = {
        "mopps": jaxsel.beta_bernoulli(group_size=group_size),
        "mopps, fitted": fits["mopps"].predictor,
        "dps": jaxsel.hidden_markov(),
        "dps, fitted": fits["dps"].predictor,
        "arcus": jaxsel.arc_length(group_size=group_size),
    }
    embeddings = embeddings_of(recorded)
    predictors["state_space"] = jaxsel.state_space(embeddings, group_size=group_size)
    if embeddings is not None:
        largest = int(np.bincount(history.step).max())
        predictors["gps"] = jaxsel.amortized(
            embeddings, group_size=group_size, context_size=min(256, -(-largest // 16) * 16)
        )
        predictors["ridge"] = ridge(np.asarray(embeddings, np.float32), group_size=group_size)
    return Predictors(predictors, fits)


def embeddings_of(recorded: Recorded) -> np.ndarray | None:
    """Return the recorded embeddings, or those of the recorded texts; None without either."""
    if recorded.embeddings is None and recorded.texts is not None:
        return embed(recorded.texts, progress=False)
    return recorded.embeddings


def _sized(family: object, group_size: int) -> dict[str, Any]:
    return {"group_size": group_size} if family is jaxsel.beta_bernoulli else {}
