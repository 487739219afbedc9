"""Run folders in any condition: finished, stopped halfway, or damaged by a crash."""

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from experiments.reporting.summaries import Records, probes
from experiments.running.config import CONFIG, flat, read_settings
from jaxsel.integrations.folders import everything_below
from rl.run_folder.log import METRICS, read_metrics

# Runs that differ only in these settings form one group. `seed` replaces `train.seed` and `warm_start.seed`; the
# settings after them change no result. Others that a resumed run may change do, such as `train.steps`.
_NO_DIFFERENCE = (
    *("seed", "train.seed", "warm_start.seed", "resume", "threads", "tracker", "train.save_policy"),
    *("train.checkpoint_every", "train.gradient_checkpointing", "train.history", "train.keep_completions"),
)


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        folder: Path of the folder, as it was found.
        settings: Settings by dotted name, such as `method.name`; empty where they are lost.
        records: Metrics of every step; empty where they are lost.
        trouble: Reason why the run does not count; empty for a finished run.
    """

    folder: Path
    settings: dict[str, Any]
    records: Records
    trouble: str

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.settings.get("seed", 0)

    @property
    def choices(self) -> dict[str, Any]:
        """The settings that change the result, without the seed."""
        return {name: value for name, value in self.settings.items() if name not in _NO_DIFFERENCE}


def find_runs(places: list[Path]) -> list[Run]:
    """Return all runs in and below the places, each once.

    A job that never started has no folder yet, so it is missing here.

    Raises:
        ValueError: A place is not a folder, or contains no run.
    """
    found: dict[Path, Path] = {}
    for place in places:
        if not place.is_dir():
            raise ValueError(f"{place} is not a folder; give folders of runs or sweeps")
        folders = run_folders(place)
        if not folders:
            raise ValueError(f"there is no run in {place}; give a folder with a metrics.jsonl in it or below it")
        for folder in folders:
            found.setdefault(folder.resolve(), folder)
    return _once([read_run(folder) for folder in sorted(found.values(), key=natural)])


def run_folders(place: Path) -> list[Path]:
    """Return the folders of all runs in and below a place, also in linked folders, each once, seed 2 before seed 10."""
    marks = (path for path in everything_below(place) if path.name in (METRICS, ".hydra"))
    return sorted({mark.parent for mark in marks}, key=natural)


def read_run(folder: Path) -> Run:
    """Return the part of a run that its folder holds."""
    settings, lost = settings_of(folder)
    try:
        records = read_metrics(folder / METRICS)
        _check_sound(records)
    except (OSError, ValueError) as error:
        return Run(folder, settings, [], "; ".join(filter(None, (f"metrics.jsonl cannot be read ({error})", lost))))
    return Run(folder, settings, records, _trouble(records, settings, lost))


def _check_sound(records: Records) -> None:
    """Refuse a record out of order, without the number of its rollouts, or with anything but numbers and None."""
    for number, record in enumerate(records, 1):
        wrong = [f"{name} is no number" for name, value in record.items() if not (value is None or _is_number(value))]
        if not wrong and not math.isfinite(record.get("rollouts") or math.nan):
            wrong = ["rollouts is missing"]
        if not wrong and record["step"] != number - 1:
            wrong = [f"it holds step {record['step']} in place of {number - 1}"]
        if wrong:
            raise ValueError(f"line {number}: {wrong[0]}; put back a copy of the file, or delete the line")


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float):
        return False
    try:
        float(value)
    except OverflowError:  # an integer beyond all floats
        return False
    return True


def _trouble(records: Records, settings: dict[str, Any], lost: str) -> str:
    if not records:
        return "; ".join(filter(None, ("no steps", lost)))
    last, updates = records[-1], "train/mixed_share" in records[-1]  # only the record of the final probe has no update
    done, steps = last["step"] + updates, settings.get("train.steps")
    if lost:
        return f"{done} steps; {lost}"
    if done > steps:
        return f"{done} steps, but the settings say {steps}: they belong to another run"
    if done < steps or updates:
        return f"{done} of {steps} steps{', but not the probe after the last' if done == steps else ''}"
    if not len(probes([last], "held_out_accuracy")[1]):
        return f"{done} of {steps} steps, but the probe after the last found no held-out accuracy"
    return ""


def settings_of(folder: Path) -> tuple[dict[str, Any], str]:
    """Return the settings of the run in a folder by dotted name, and the reason if they are lost."""
    # config.json holds the run's own settings. Hydra's file may hold those of a later command that failed to resume it.
    said = []
    for name, read in ((CONFIG, read_settings), (".hydra/config.yaml", _hydra_settings)):
        if not (folder / name).exists():
            continue
        try:
            settings = read(folder)
        except (OSError, ValueError, AttributeError, YAMLError, OmegaConfBaseException):
            said.append(f"{name} cannot be read")
            continue
        if isinstance(settings.get("train.steps"), int) and isinstance(settings.get("seed", 0), int):
            return settings, ""
        said.append(f"{name} is {'incomplete' if settings else 'empty'}")
    return {}, "; ".join(said) or "no settings (neither config.json nor .hydra/config.yaml)"


def _hydra_settings(folder: Path) -> dict[str, Any]:
    return flat(OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "config.yaml")))  # type: ignore[arg-type]


def _once(runs: list[Run]) -> list[Run]:
    """Mark finished runs that repeat another run: a copy that counts as a second seed makes errors look smaller."""
    first: dict[str, Path] = {}
    kept = []
    for run in runs:
        what = repr((run.seed, sorted(run.choices.items())))
        if not run.trouble and first.setdefault(what, run.folder) != run.folder:
            run = replace(run, trouble=f"the same settings and seed as {first[what]}")
        kept.append(run)
    return kept


def natural(path: Path) -> list[Any]:
    """Return a sort key that puts seed 2 before seed 10."""
    return [int(part) if number else part for number, part in _parts(str(path))]


def _parts(text: str) -> list[tuple[bool, str]]:
    return [(bool(i % 2), part) for i, part in enumerate(re.split("([0-9]+)", text))]
