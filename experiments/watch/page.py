"""The page as one HTML file: served and refreshed, or written once."""

from typing import Any

from experiments.watch.charts import charts, parameters
from experiments.watch.metrics import SMOOTH
from jaxsel.report.charts.common import numbered_looks
from jaxsel.report.pieces import card, definitions, document, filled, part_menu, select, text_of
from jaxsel.report.tables import KINDS
from jaxsel.report.wording import CARDS, METHOD_WORDS, SCORE_NAMES, WORDS

_PACKAGE = "experiments.watch"
_TRAINING = {
    "probing": (
        "Between the steps",
        "Probes are fresh rollouts from which neither the policy nor the selector learns. Held-out prompts are never "
        "trained on.",
        ("probe", "Metric", {}),
    ),
    "training": ("In every step", "A metric of the batches that were trained on.", ("metric", "Metric", {})),
    "mixed": (
        "Mixed groups: expected and real",
        "Broad lines: the share of the batch's groups with right and wrong answers. Thin lines: what the run's "
        "selector expected of the same groups.",
        None,
    ),
}
"""Title, caption and menu of the charts of training; the page fills the menus."""


_CARDS = CARDS | {
    "shares": (
        "Share of mixed groups in the chosen predictions",
        "The thin lines show what the selector of each run expected, the broad grey line what happened in "
        "<b data-method></b>. The grey band is wide where groups are few.",
    ),
}


def page(snapshot: dict[str, Any], *, every: float | None) -> str:
    """Return the page as HTML.

    Args:
        snapshot: All data, as `Watched.snapshot` returns them.
        every: Seconds between two refreshes; None: the page stays as it is, and works without a server.
    """
    drawn = specifications(list(snapshot["runs"]))
    cards = [card(name, title, text, menu=_menu(menu)) for name, (title, text, menu) in _TRAINING.items()]
    more = [name for name in drawn["charts"] if name not in _TRAINING]
    scores = ("score", "Score", SCORE_NAMES)
    data = {"snapshot": snapshot, "drawn": drawn, "every": every, "scores": SCORE_NAMES, "smooth": SMOOTH}
    body = filled(
        text_of("page.html", _PACKAGE),
        training="\n".join(_controls_of_training()),
        training_cards="\n".join(cards),
        controls="\n".join(_controls()),
        cards="\n".join(card(name, *_CARDS[name], menu=_menu(scores if name == "scores" else None)) for name in more),
        words=definitions(WORDS | METHOD_WORDS),
    )
    return document(
        title="Training runs",
        style=text_of("page.css") + text_of("watch.css", _PACKAGE),
        body=body,
        data=data,
        script=text_of("linked.js") + text_of("watch.js", _PACKAGE),
        connect="" if every is None else "; connect-src 'self'",
    )


def specifications(names: list[str]) -> dict[str, Any]:
    """Return what depends on the names of the runs: `charts`, `looks` (colour and dashes) and first `parameters`."""
    looks = numbered_looks(names)
    return {
        "names": names,
        "charts": charts(names),
        "looks": {name: [looks.colours[name], looks.dashes[name]] for name in names},
        "parameters": parameters(names),
    }


def _menu(menu: tuple[str, str, dict[str, str]] | None) -> str:
    return select(*menu, "") if menu else ""


def _controls_of_training() -> list[str]:
    axis = {"step": "training steps", "rollouts": "rollouts spent on training"}
    return [
        select("at", "Along the axis", axis, "step"),
        select("smooth", "Metrics of every step", {SMOOTH: "mean of the last 20 steps", "": "as they are"}, SMOOTH),
    ]


def _controls() -> list[str]:
    return [
        select("kind", "Judged on", KINDS, "probes"),
        select("method", "Run in detail", {}, ""),
        part_menu(),
    ]
