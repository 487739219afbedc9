"""The tables and figures of a setting, as sections of a page."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.calibration.evaluate import CALIBRATION, CORRECTIONS, ERROR, Evaluation, averaged, pooled
from experiments.calibration.judge import LEVELS, Rows, is_mixed
from experiments.reporting.page import Drawing, Section, Table
from experiments.reporting.spread import shown
from jaxsel import metrics, plotting

_STATES = ("UNSOLVED", "MIXED", "SOLVED")
_DRAWN = ("mopps", "dps", "gps", "ridge")
_COLUMNS = {
    "spearman": "Spearman",
    ERROR: "error",
    "log score": "log score, counts",
    "state log score": "log score, states",
    "state F1": "F1 of states",
    "Brier": "Brier, mixed",
    CALIBRATION: "ECE, mixed",
    "mixed, excess": "mixed, predicted less came",
    "90% covers": "90% covers",
    "PIT distance": "PIT distance",
}
HOW_TO_READ = """Every method goes through the same recorded batches and predicts the pool before each probe: fresh
rollouts of all of its prompts, or of a random part that stays the same, which no method learns from. Probes of the
second half count; what is fitted, is fitted on the first. Brackets hold standard errors: over histories where there are
several, and else over prompts.

`Spearman` is the rank correlation of the predicted success rate with s / n, which someone who knew the true rates
would not bring above the ceiling; `error` the mean absolute error against s / n, of which the noise of n rollouts is a
part. Log scores are in nats, of the number of correct answers (as a Beta-Binomial of the predicted mean and variance)
and of the solve state (none, some or all correct). `Brier` and `ECE`, the expected calibration error, judge P(mixed),
the probability that some but not all answers are correct. `90% covers` says how often the central 90% interval holds
the outcome: above 0.9 intervals are too wide. `PIT distance` is how far the ranks of outcomes among predictions are
from uniform: 0 is perfect."""


def section(label: str, evaluations: Sequence[Evaluation]) -> Section:
    """All of one setting."""
    numbers = [one.numbers for one in evaluations]
    mean, first = averaged(numbers), numbers[0]
    ceilings = np.mean([one["ceiling"] for one in numbers])
    text = (
        f"{len(numbers)} {'history' if len(numbers) == 1 else 'histories'} of {first['num_prompts']:,} prompts and "
        f"{first['steps']} steps, batches chosen by {first['chosen_by']}: {first['rollouts']:,} rollouts to train on, "
        f"and {first['probe_rollouts']:,} more for the probes of {first['probed']:,} prompts. The ceiling of Spearman "
        f"is {ceilings:.3f}."
    )
    names = list(mean["probe"])
    raw, corrected = (
        {name: pooled([getattr(one, which)[name] for one in evaluations]) for name in names}
        for which in ("raw", "corrected")
    )
    return Section(label, text, _drawings(raw, corrected, mean["by_part"]), _tables(mean, numbers))


def _tables(mean: dict[str, Any], by_history: Sequence[dict[str, Any]]) -> list[Table]:
    probe = Table(
        ["method", *_COLUMNS.values()],
        [[name, *(shown(scores[metric]) for metric in _COLUMNS)] for name, scores in mean["probe"].items()],
        "On probes of the whole pool, second half",
    )
    recalibrated = Table(
        ["method", "as predicted", *CORRECTIONS],
        [
            [name, shown(scores[CALIBRATION]), *(shown(mean["recalibrated"][how][name]) for how in CORRECTIONS)]
            for name, scores in mean["probe"].items()
        ],
        "Expected calibration error of P(mixed), as predicted and recalibrated: on the batches that were chosen, which"
        " are known anyway, or on earlier probes, which cost rollouts",
    )
    ahead = Table(
        ["method", "log score, counts", "log score, states", "Spearman", "ECE, mixed"],
        [
            [name, *(shown(s[m]) for m in ("log score", "state log score", "spearman", CALIBRATION))]
            for name, s in mean["ahead"].items()
        ],
        "One step ahead, on the batches that were chosen, second half: as the papers judge",
    )
    fitted = Table(
        ["method", "history", "parameter", "fitted", "gain on the second half, nats a visit"],
        [row for number, one in enumerate(by_history) for row in _fitted_rows(one["fitted"], number)],
        "Fitted to the first half, with standard errors; the gain in the log score that each is fitted by, over the"
        " values set by hand",
    )
    return [probe, recalibrated, ahead, fitted]


def _fitted_rows(fits: dict[str, Any], number: int) -> list[list[str]]:
    rows = []
    for method, fit in fits.items():
        for name, value in fit["parameters"].items():
            values, errors = (np.atleast_1d(x) for x in (value, fit["standard_errors"][name]))
            for i, pair in enumerate(zip(values, errors, strict=True)):
                which = f"{name} from {_STATES[i]}" if np.ndim(values) > 1 else name
                cells = [f"{v:.2f} ({e:.2f})" for v, e in zip(*map(np.atleast_1d, pair), strict=True)]
                parameter = f"{which}: {_STATES[i]}" if np.shape(value) == (3,) else which
                rows.append([method, number + 1, parameter, ", ".join(cells), shown(fit["gain"])])
    return rows


def _drawings(raw: dict[str, Rows], corrected: dict[str, Rows], by_part: dict[str, Any]) -> list[Drawing]:
    names = [name for name in _DRAWN if name in raw]

    def reliability(rows: dict[str, Rows]) -> Callable[[Any], None]:
        def draw(axes: Any) -> None:
            for name in names:
                table = metrics.reliability(
                    rows[name].prediction.mixed, is_mixed(rows[name]), binning="mass", num_bins=10
                )
                plotting.reliability_diagram(axes, table, label=name, event="a mixed group")
            axes.legend(frameon=False, fontsize=8)

        return draw

    def coverage(axes: Any) -> None:
        for name, rows in raw.items():
            covered = metrics.success_coverage(rows.prediction, rows.successes, rows.group_size, LEVELS)
            plotting.coverage_curve(axes, np.array(LEVELS), covered, label=name)
        axes.legend(frameon=False, fontsize=8)

    def parts(metric: str, axis: str) -> Callable[[Any], None]:
        def draw(axes: Any) -> None:
            for position, name in enumerate(names):
                found = {part: s[metric] for part, s in by_part[name].items() if np.isfinite(s[metric]["mean"])}
                values, errors = ([s[key] for s in found.values()] for key in ("mean", "standard_error"))
                plotting.by_part(
                    axes, list(found), values, errors, label=name, metric=axis, position=position,
                    num_positions=len(names),
                )  # fmt: skip
            axes.figure.legend(loc="outside lower center", ncols=len(names), frameon=False, fontsize=8)

        return draw

    return [
        Drawing(
            _figure(reliability(raw)),
            "Reliability diagram of the predicted probability of a mixed group",
            "As predicted. On the diagonal, as many groups are mixed as was promised; above it, more.",
        ),
        Drawing(
            _figure(reliability(corrected)),
            "Reliability diagram after recalibration",
            "The same after isotonic recalibration, learnt online from the batches alone.",
        ),
        Drawing(
            _figure(coverage),
            "Coverage of central intervals of the number of correct answers",
            "How often intervals hold the outcome: below the diagonal they are too narrow.",
        ),
        Drawing(_pits({name: raw[name] for name in names}), "PIT histograms", "A U says too narrow, a hill too wide."),
        Drawing(
            _figure(parts(ERROR, "mean absolute error against s / n"), height=4.6),
            "Error of the success rate by visits and staleness",
            "The error of the success rate, by visits to the prompt before and steps since the last.",
        ),
        Drawing(
            _figure(parts(CALIBRATION, "expected calibration error of P(mixed)"), height=4.6),
            "Calibration error by visits and staleness",
            "The calibration error of P(mixed), likewise.",
        ),
    ]


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
        pit = metrics.randomised_pit(jax.random.key(0), of.prediction, of.successes, of.group_size)
        plotting.pit_histogram(ax, metrics.uniformity(pit).shares, label=name)
        ax.set_title(name, fontsize=9)
        ax.set_xlabel("")
        ax.label_outer()
    for ax in axes.flat[len(rows) :]:
        ax.set_visible(False)
    figure.supxlabel("probability integral transform of what came", fontsize=10)
    return figure
