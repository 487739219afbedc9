"""Groups of runs that differ only in the seed, with labels that name the settings in which the groups differ."""

from dataclasses import dataclass
from typing import Any

from experiments.collect.folders import Run
from experiments.reporting.spread import over_seeds
from experiments.reporting.summaries import summary
from experiments.running.method_config import METHOD_NAMES

_BY_VALUE = ("task", "method.name")
_HELD_OUT = ("task", "held_out_size")


@dataclass(frozen=True)
class Group:
    """Finished runs of the same settings.

    Attributes:
        label: Settings in which the groups differ.
        panel: Name of the figure's panel: the part of the label that tells which held-out prompts are tested.
        line: Name of the line in the panel: the rest of the label. Neither name is empty.
        runs: Runs, ordered by seed.
    """

    label: str
    panel: str
    line: str
    runs: list[Run]

    def numbers(self) -> dict[str, dict[str, float]]:
        """Return `summaries.summary` of the runs, as the mean over seeds and its standard error."""
        return over_seeds([summary(run.records) for run in self.runs])


def grouped(runs: list[Run]) -> list[Group]:
    """Return the groups of the finished runs, with baseline methods first and numeric settings in order."""
    done = sorted((run for run in runs if not run.trouble), key=lambda run: run.seed)
    names = dict.fromkeys([*_HELD_OUT, "method.name", *sorted({name for run in done for name in run.choices})])
    differ = [name for name in names if len({repr(run.choices.get(name)) for run in done}) > 1]
    found: dict[str, list[Run]] = {}
    for run in sorted(done, key=lambda run: [_rank(name, run.choices.get(name)) for name in differ]):
        found.setdefault(repr([run.choices.get(name) for name in differ]), []).append(run)
    return [_group(group, differ) for group in found.values()]


def common(runs: list[Run]) -> dict[str, Any]:
    """Return the settings in which all finished runs agree."""
    done = [run.choices for run in runs if not run.trouble]
    return {
        name: value
        for name, value in (done[0].items() if done else ())
        if all(name in one and one[name] == value for one in done)
    }


def _group(runs: list[Run], differ: list[str]) -> Group:
    choices = runs[0].choices
    ends = [_end(name) for name in differ]

    def said(names: list[str]) -> str:
        return ", ".join(_said(name, choices.get(name), short=ends.count(_end(name)) == 1) for name in names)

    method = str(choices.get("method.name", "all"))
    panel = said([name for name in differ if name in _HELD_OUT]) or str(choices.get("task", "held-out prompts"))
    line = said([name for name in differ if name not in _HELD_OUT]) or method
    return Group(said(differ) or method, panel, line, runs)


def _end(name: str) -> str:
    return name.rpartition(".")[2]


def _said(name: str, value: Any, *, short: bool) -> str:
    if name in _BY_VALUE:
        return _printable(str(value))
    shown = "unset" if value is None else repr(value) if value == "" else _printable(str(value))
    return f"{_end(name) if short else name}={shown}"


def _printable(text: str) -> str:
    """Return the text with escapes for characters that cannot be printed, such as a new line or a lone surrogate."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _rank(name: str, value: Any) -> tuple[bool, float, str]:
    if name == "method.name" and value in METHOD_NAMES:
        return False, METHOD_NAMES.index(value), ""
    return (False, value, "") if isinstance(value, int | float) else (True, 0, str(value))
