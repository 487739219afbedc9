"""The words of a page: names in its menus, titles and captions of its charts, a glossary, and texts cut to a length."""

import re

NOT_DRAWN = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML cannot hold. In a chart, they end the process that makes its picture."""
SCORE_NAMES = {
    "states": "log score of none, some or all correct (nats, higher is better)",
    "counts": "log score of the number correct (nats, higher is better)",
    "brier": "Brier score of a mixed group (lower is better)",
    "error": "error of the predicted success rate (lower is better)",
}
COLOUR_NAMES = {
    "prompts": "number of prompts",
    "visits": "visits per prompt",
    "waiting": "steps since the last visit",
    "rate": "predicted success rate",
    "mixed": "predicted probability of a mixed group",
}
WORDS = {
    "group": "The rollouts of one prompt in one training step.",
    "mixed group": "A group with some correct and some wrong rollouts. Only mixed groups teach a policy under GRPO.",
    "visit": "A training step in which the prompt was in the batch.",
    "probe": "Fresh rollouts of the pool between training steps, from which no method learns.",
    "log score": "The logarithm of the probability that the method gave to what happened. Its unit is the nat: a "
    "method that is 0.1 nats better gave what happened 1.1 times the probability. A probability below "
    "1e-9 counts as 1e-9.",
    "Brier score": "The mean of (predicted probability - outcome)², where the outcome of a mixed group is 1.",
    "surprise": "The negative log score of one group: how unlikely the method thought its outcome.",
    "standard error": "How far a number would typically move if other prompts of the same kind had been judged. All "
    "groups of one prompt count as one observation.",
    "grey band": "Where 95% of the values fall by chance if the predictions are right (a consistency band).",
    "CORP curve": "The increasing curve nearest to the outcomes (isotonic regression). It needs no bins.",
    "PIT": "The probability integral transform: the predicted probability of a smaller outcome than the real one.",
}
REPORT_WORDS = {
    "gold standard": "The posterior of a reference model in which the logit of each prompt's success rate is a random "
    "walk. Before a step it has seen the prompt's earlier batches, as a method has, but no later ones, no probes and "
    "no embeddings. The walk's four settings, the same for all prompts, are fitted to the whole run.",
}
"""Words that only a report has, not the live page."""
METHOD_WORDS = {
    "uniform": "Random prompts. It predicts as mopps does, so that its predictions can be compared.",
    "mopps": "MoPPS, Model Predictive Prompt Selection: each prompt's successes and failures are counted, and old "
    "counts fade. Other prompts' outcomes change nothing. It chooses prompts near a success rate of one half.",
    "threshold": "The predictions of mopps. It chooses random prompts whose success rate seems neither low nor high.",
    "dps": "DPS, Dynamics-Predictive Sampling: each prompt moves between unsolved, mixed and solved (a hidden Markov "
    "model). It chooses the likeliest to be mixed.",
    "gps": "GPS, Generalizable Predictive Prompt Selection: one neural network learns from all outcomes and from the "
    "embeddings of the prompts. It chooses prompts near a success rate of one half that differ from each other.",
    "adaptive": "The method of jaxsel: success rates drift, and prompts teach about each other (a state-space model, "
    "with embeddings or without). It prefers prompts whose rewards vary most.",
    "arcus": "ARCUS: a Kalman filter per prompt, whose beliefs drift as the policy learns. It prefers prompts that are "
    "likely to be mixed and near a target success rate, which moves to the hardest one that loses few mixed groups.",
    "state_space": "The predictor of adaptive alone.",
    "kalman": "A Kalman filter per prompt: beliefs widen between visits.",
    "arc_length": "The predictor of arcus alone.",
}
"""The built-in methods in a sentence or two each, by the name that they have on a page."""
CARDS = {
    "reliability": (
        "Do predicted probabilities come true?",
        "A dot on the diagonal came true as often as predicted; below it the prediction was too high. Larger dots "
        "stand for more groups. The grey bars show where the dots of <b data-method></b> would be by chance. The thin "
        "line is the CORP curve of all groups. <b>Drag or click here to choose predictions.</b>",
    ),
    "shares": (
        "Share of mixed groups: expected and real",
        "The thin lines show what each method expected, the broad grey line what happened. The grey band is wide where "
        "groups are few: it holds the share of many such groups with 95% probability.",
    ),
    "scores": (
        "Score over training",
        "It shows the <span data-score></span>. The band of two standard errors is wide where groups are few. "
        "<b>Drag or click here to choose steps.</b>",
    ),
    "pit": (
        "Are the predicted distributions right? (PIT)",
        "For <b data-method></b>. Bars in the grey band are as flat as they should be. High ends: its distributions "
        "are too narrow. High middle: too wide. A slope: predictions are too high (left) or too low (right).",
    ),
    "coverage": (
        "Do the intervals hold what they promise? (coverage)",
        "Below the diagonal the predicted intervals hold too few outcomes: they are too narrow.",
    ),
    "map": (
        "Map of the pool",
        "What <b data-method></b> believed about every prompt at the end of the run. Left: prompts that it takes to be "
        "hardly ever solved; right: nearly always solved. Top: it is unsure of the success rate; bottom: sure. The "
        "colour is the <span data-colour></span>. The ring is the followed prompt. <b>Drag here "
        "to choose predictions</b>: the other charts and the table then show the groups that were predicted so, at any "
        "step.",
    ),
    "meaning": (
        "Map of the embeddings",
        "Prompts with similar embeddings are close. The directions are the two principal components. The colour is the "
        "<span data-meaning_colour></span>.",
    ),
    "trajectory": (
        "One prompt over training",
        "Lines: what each method believed before each step. The band holds the success rate with 90% probability, "
        "according to <b data-method></b>. The broad line with a band of its own: the gold standard, which a good "
        "method is close to. Circles and diamonds: observed shares of correct rollouts. "
        "Choose another prompt in the table below.",
    ),
}
"""Title and caption of every chart, as HTML."""


def shortened(text: str, length: int) -> str:
    """Return the text on one line, cut to at most `length` letters."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"


def percent(share: float) -> str:
    """Return a probability as a percentage: whole numbers, and one digit below 10%."""
    return f"{100 * share:.0f}%" if abs(share) >= 0.0995 else f"{100 * share:.1f}%"


def listed(names: list[str]) -> str:
    """Return the names as in a sentence: "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def counted(number: int, what: str) -> str:
    """Return a number with its noun: "1 group" or "1,200 groups"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
