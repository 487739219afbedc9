"""Where predictions of mixed groups are right and wrong: by what was predicted, by visits, and over training."""

from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from jaxsel.report.cells import NUM_BINS, PARTS
from jaxsel.report.judgement import Judged
from jaxsel.report.tables import Tables
from jaxsel.report.wording import listed, percent

LARGE = 0.05
"""A gap is reported if it exceeds this probability. Predictions are called right up to it."""
MOST = 3
"""Number of gaps of one kind, and of prompts, that are named."""
_CLEAR = 3.0  # standard errors that a gap exceeds


class Gap(NamedTuple):
    """Groups whose predicted and real shares of mixed groups differ.

    Attributes:
        place: Which groups.
        what: What was predicted, and what happened.
        side: "high" or "low": how the prediction was.
    """

    place: str
    what: str
    side: str


def clear_gaps(found: Tables, method: str, number: int) -> list[Gap]:
    """Return the clearest gaps of a method: at most `number` of each kind, the clearest of each kind first."""
    one = found.judged[method]
    kinds = (_bin_gaps(one), _part_gaps(one), _step_gaps(found, method))
    return [gap for same_rank in zip_longest(*(of[:number] for of in kinds)) for gap in same_rank if gap]


def is_clear(difference: float, error: float, least: float = LARGE) -> bool:
    """Return whether a difference exceeds `least` and three standard errors. NaN, an unknown error, is infinite."""
    return bool(abs(difference) > max(least, _CLEAR * np.nan_to_num(error, nan=np.inf)))


def right_places(one: Judged) -> str:
    """Return in words where P(mixed) came true: "right where it says 20 to 50%". Neighbouring bins are joined.

    A bin came true if the shares of mixed groups that were predicted and that were observed differ by at most `LARGE`,
    and if the observed share has a standard deviation by chance of at most `LARGE`.
    """
    bins = one.curve.bins
    with np.errstate(invalid="ignore"):
        right = (bins.groups > 0) & (np.abs(bins.predicted - bins.observed) <= LARGE) & (bins.chance <= LARGE)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], right, [False]]).astype(int)))
    ranges = [f"{100 * low // NUM_BINS} to {100 * high // NUM_BINS}%" for low, high in edges.reshape(-1, 2)]
    if ranges:
        return f"right where it says {listed(ranges)}"
    unclear = float(bins.groups[bins.chance > LARGE].sum())
    return "nowhere right for sure, with so few groups" if unclear > bins.groups.sum() / 2 else "nowhere right"


def _bin_gaps(one: Judged) -> list[Gap]:
    """Return the clearest gaps by bin of P(mixed), those that concern most groups first."""
    bins = one.curve.bins
    gap = np.nan_to_num(bins.predicted - bins.observed)
    clear = (np.abs(gap) > LARGE) & (np.abs(gap) > _CLEAR * bins.chance)
    order = np.argsort(-np.abs(gap) * bins.groups * clear, kind="stable")
    return [
        Gap(
            f"where it says {100 * k // NUM_BINS} to {100 * (k + 1) // NUM_BINS}%",
            f"{percent(float(bins.observed[k]))} of {bins.groups[k]:,.0f} groups were mixed",
            "high" if gap[k] > 0 else "low",
        )
        for k in order[: int(min(clear.sum(), MOST))]
    ]


def _part_gaps(one: Judged) -> list[Gap]:
    """Return the clearest gaps by number of earlier visits, the largest first."""
    found = []
    for part, (groups, numbers) in one.by_part.items():
        excess = numbers["excess"]
        if is_clear(excess.value, excess.error):
            what = (
                f"it expects {percent(numbers['predicted'].value)} of {groups:,} groups to be mixed, and "
                f"{percent(numbers['realised'].value)} were"
            )
            gap = Gap(f"where a prompt was {PARTS[part]}", what, "high" if excess.value > 0 else "low")
            found.append((abs(excess.value), gap))
    return [gap for _, gap in sorted(found, key=lambda pair: -pair[0])[:MOST]]


def _step_gaps(found: Tables, name: str) -> list[Gap]:
    """Return the larger of the clear gaps in the first and in the last third of the judged steps."""
    cells = found.tables["cells"]
    steps, shown = np.asarray(cells["step"]), np.asarray(cells["method"]) == name
    shown &= np.asarray(cells["kind"]) == found.kinds[0]
    distinct = np.unique(steps[shown])
    if len(distinct) < 3:
        return []
    thirds = np.array_split(distinct, 3)
    gaps = []
    for said, part in (("early", thirds[0]), ("late", thirds[-1])):
        inside = shown & np.isin(steps, part)
        groups, expected, mixed, variance = (
            float(np.asarray(cells[of])[inside].sum()) for of in ("groups", "predicted", "mixed", "chance")
        )
        size = (expected - mixed) / groups
        if not is_clear(size, variance**0.5 / groups):
            continue
        what = f"it expects {percent(expected / groups)} of {groups:,.0f} groups to be mixed, and "
        side = "high" if expected > mixed else "low"
        place = f"{said} in the run (steps {part[0]:,.0f} to {part[-1]:,.0f})"
        gaps.append((abs(size), Gap(place, f"{what}{percent(mixed / groups)} were", side)))
    return [gap for _, gap in sorted(gaps, key=lambda pair: -pair[0])[:1]]
