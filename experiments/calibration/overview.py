"""The part of an evaluation that is kept in git: one figure of all settings, and the main numbers of each history.

A history is one recorded run. The histories of a setting differ only in the seed.
"""

from pathlib import Path
from typing import Any

from experiments.calibration.evaluate import CALIBRATION, WITHOUT_PROBES, scored
from experiments.reporting import drawing
from jaxsel import plotting

_TARGET = 0.03  # the calibration error that the claim of `experiments.calibration` allows
_WAYS = {"as predicted": ("black", "o"), "isotonic": ("blue", "D"), "isotonic, on probes": ("green", "s")}
_HEADLINE = (
    f"Recalibration on random batches reaches the target ({_TARGET}, dashed). On batches that a method chose, "
    "some predictors need probes, which are fresh rollouts of random prompts"
)


def overview(means: dict[str, Any], path: Path) -> Path:
    """Draw the calibration error of P(mixed) for every method and setting, as predicted and recalibrated.

    P(mixed) is the predicted probability that some but not all rollouts of a prompt are correct.
    """
    size = (3.2 * len(means) + 1, 3.6)
    figure, axes = drawing.plt.subplots(1, len(means), figsize=size, layout="constrained", sharey=True, squeeze=False)
    for ax, (label, mean) in zip(axes[0], means.items(), strict=True):
        names = list(scored(mean))
        ways = {"as predicted": {name: scores[CALIBRATION] for name, scores in scored(mean).items()}}
        ways |= {way: scores for way, scores in mean["recalibrated"].items() if way in _WAYS}
        for way, scores in ways.items():
            colour, marker = _WAYS[way]
            values, errors = ([scores[name][key] for name in names] for key in ("mean", "standard_error"))
            look = {"color": plotting.COLOURS[colour], "marker": marker, "linestyle": "none", "capsize": 2}
            ax.errorbar(values, range(len(names)), xerr=errors, label=way, **look)
        if mean["probe"]:
            ax.axvline(_TARGET, color=plotting.COLOURS["grey"], linewidth=1, linestyle=(0, (5, 3)))
        ax.set(xlabel="calibration error of P(mixed)", yticks=range(len(names)), yticklabels=names, xlim=(0, None))
        ax.set_title(drawing.plain(label if mean["probe"] else f"{label}\nwithout probes: on the batches"), fontsize=10)
        plotting.tidy(ax)
    axes[0, 0].invert_yaxis()
    handles = max((ax.get_legend_handles_labels() for ax in axes[0]), key=lambda found: len(found[1]))
    figure.legend(*handles, loc="outside lower center", ncols=len(_WAYS), frameon=False)
    any_probes = any(mean["probe"] for mean in means.values())
    figure.suptitle(_HEADLINE if any_probes else WITHOUT_PROBES, wrap=not any_probes)
    return drawing.save(figure, path)


def compact(numbers: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of one history that a result keeps beside the mean of its setting.

    The scores are under "probe", or under "ahead" for a history without probes.
    """
    kept = ("chosen_by", "num_prompts", "steps", "rollouts", "probe_rollouts", "ceiling", "fitted")
    means = {method: {metric: score["mean"] for metric, score in of.items()} for method, of in scored(numbers).items()}
    return {name: numbers[name] for name in kept} | {"probe" if numbers["probe"] else "ahead": means}
