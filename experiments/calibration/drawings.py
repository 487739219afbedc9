"""The figures of a setting (recorded runs that differ only in the seed), for its section of the page.

A probe is a set of fresh rollouts from which no method learns; it tests what a method predicted before it. Without
probes, the batches test what a method predicted before each of them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.calibration.evaluate import CALIBRATION, ERROR
from experiments.calibration.scoring import LEVELS, Rows, is_mixed
from experiments.reporting.page import Drawing
from jaxsel import metrics, plotting

_DRAWN = ("mopps", "dps", "gps", "ridge")

# all methods share these programs; without jit, each of their operations has one
_table = jax.jit(partial(metrics.reliability, binning="mass", num_bins=10))
_covered = jax.jit(partial(metrics.success_coverage, levels=LEVELS))


@jax.jit
def _pit_shares(rows: Rows) -> jax.Array:
    pit = metrics.randomised_pit(jax.random.key(0), rows.prediction, rows.successes, rows.group_size)
    return metrics.uniformity(pit).shares


def drawings(raw: dict[str, Rows], corrected: dict[str, Rows], by_part: dict[str, Any]) -> list[Drawing]:
    """Return the figures of a setting.

    Args:
        raw: Probes, or batches, with the predictions of every method.
        corrected: The same rows with recalibrated predictions.
        by_part: Scores of every method, by a prompt's number of earlier visits (steps with rollouts of it) and by the
            steps since its last visit.
    """
    names = [name for name in _DRAWN if name in raw]
    staleness = "by earlier visits to the prompt and steps since the last visit."
    return [
        Drawing(
            _figure(lambda axes: _reliability(axes, raw, names)),
            "Reliability diagram of the predicted probability of a mixed group",
            "As predicted. On the diagonal, as many groups are mixed as predicted; above it, more.",
        ),
        Drawing(
            _figure(lambda axes: _reliability(axes, corrected, names)),
            "Reliability diagram after recalibration",
            "After isotonic recalibration, learnt online from the batches alone.",
        ),
        Drawing(
            _figure(lambda axes: _coverage(axes, raw)),
            "Coverage of central intervals of the number of correct answers",
            "The share of outcomes in the intervals: below the diagonal the intervals are too narrow.",
        ),
        Drawing(
            _pits({name: raw[name] for name in names}),
            "PIT histograms",
            "A U shape means too narrow predictions, a hill too wide ones.",
        ),
        Drawing(
            _figure(lambda axes: _parts(axes, by_part, names, ERROR, "mean absolute error against s / n"), height=4.6),
            "Error of the success rate by visits and staleness",
            f"The error of the success rate, {staleness}",
        ),
        Drawing(
            _figure(
                lambda axes: _parts(axes, by_part, names, CALIBRATION, "expected calibration error of P(mixed)"),
                height=4.6,
            ),
            "Calibration error by visits and staleness",
            f"The calibration error of P(mixed), {staleness}",
        ),
    ]


def _reliability(axes: Any, rows: dict[str, Rows], names: Sequence[str]) -> None:
    for name in names:
        table = _table(rows[name].prediction.mixed, is_mixed(rows[name]))
        plotting.reliability_diagram(axes, table, label=name, event="a mixed group")
    axes.legend(frameon=False, fontsize=8)


def _coverage(axes: Any, rows: dict[str, Rows]) -> None:
    for name, of in rows.items():
        covered = _covered(of.prediction, of.successes, of.group_size)
        plotting.coverage_curve(axes, np.array(LEVELS), covered, label=name)
    axes.legend(frameon=False, fontsize=8)


def _parts(axes: Any, by_part: dict[str, Any], names: Sequence[str], metric: str, label: str) -> None:
    for position, name in enumerate(names):
        found = {part: s[metric] for part, s in by_part[name].items() if np.isfinite(s[metric]["mean"])}
        values, errors = ([s[key] for s in found.values()] for key in ("mean", "standard_error"))
        place = {"position": position, "num_positions": len(names)}
        plotting.by_part(axes, list(found), values, errors, label=name, metric=label, **place)
    axes.figure.legend(loc="outside lower center", ncols=len(names), frameon=False, fontsize=8)


def _figure(draw: Callable[[Any], None], height: float = 3.6) -> Figure:
    figure = Figure((4.4, height), layout="constrained")
    axes = figure.subplots()
    draw(axes)
    plotting.tidy(axes)
    return figure


def _pits(rows: dict[str, Rows]) -> Figure:
    figure = Figure((4.4, 3.6), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey=True)
    for ax, (name, of) in zip(axes.flat, rows.items(), strict=False):
        plotting.pit_histogram(ax, _pit_shares(of), label=name)
        ax.set_title(name, fontsize=9)
        ax.set_xlabel("")
        ax.label_outer()
    for ax in axes.flat[len(rows) :]:
        ax.set_visible(False)
    figure.supxlabel("probability integral transform of the outcome", fontsize=10)
    return figure
