"""Where predictions of mixed groups are right and wrong: by what was predicted, by visits, and over training."""

from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from jaxsel.report.cells import NUM_BINS, PARTS, step_bins
from jaxsel.report.certainty import UNLIKELY, by_chance, is_clear, lies_within
from jaxsel.report.judgement import Judged, sampled
from jaxsel.report.rows import is_mixed
from jaxsel.report.tables import Tables
from jaxsel.report.wording import listed, percent

LARGE = 0.05
"""A gap is reported if it exceeds this probability. Predictions are called right up to it."""
MOST = 3
"""Number of gaps of one kind, and of prompts, that are named."""


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


def right_places(one: Judged) -> str:
    """Return in words where P(mixed) came true: "right where it says 20 to 50%". Neighbouring bins are joined.

    A bin came true if the 95% interval of its share of mixed groups lies within `LARGE` of the predicted share.
    """
    bins = one.curve.bins
    right = lies_within(bins.predicted, bins.observed, bins.groups, LARGE)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], right, [False]]).astype(int)))
    ranges = [f"{100 * low // NUM_BINS} to {100 * high // NUM_BINS}%" for low, high in edges.reshape(-1, 2)]
    if ranges:
        return f"right where it says {listed(ranges)}"
    triples = zip(bins.groups, np.nan_to_num(bins.predicted), np.nan_to_num(bins.observed), strict=True)
    wrong = np.array([abs(said - came) > LARGE and by_chance(n, said, came) < UNLIKELY for n, said, came in triples])
    unclear = float(bins.groups[~wrong].sum())
    return "nowhere right for sure, with so few groups" if unclear > bins.groups.sum() / 2 else "nowhere right"


def _bin_gaps(one: Judged) -> list[Gap]:
    """Return the clearest gaps by bin of P(mixed), those that concern most groups first."""
    bins = one.curve.bins
    gap = np.nan_to_num(bins.predicted - bins.observed)
    clear = np.zeros(NUM_BINS, bool)
    for k in np.flatnonzero(bins.groups):
        error, prompts = one.sampled[int(k)]
        share, number = float(bins.predicted[k]), float(bins.groups[k])
        clear[k] = is_clear(gap[k], error, least=LARGE, expected=share, groups=number, prompts=prompts)
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
        if part_is_wrong(one, part):
            what = (
                f"it expects {percent(numbers['predicted'].value)} of {groups:,} groups to be mixed, and "
                f"{percent(numbers['realised'].value)} were"
            )
            gap = Gap(f"where a prompt was {PARTS[part]}", what, "high" if excess.value > 0 else "low")
            found.append((abs(excess.value), gap))
    return [gap for _, gap in sorted(found, key=lambda pair: -pair[0])[:MOST]]


def part_is_wrong(one: Judged, part: str) -> bool:
    """Return whether the share of mixed groups of a part of `PARTS`, if it has groups, is clearly not as predicted."""
    if part not in one.by_part:
        return False
    groups, numbers = one.by_part[part]
    (gap, error), share, prompts = numbers["excess"], numbers["predicted"].value, one.sampled[part].prompts
    return is_clear(gap, error, least=LARGE, expected=share, groups=groups, prompts=prompts)


def _step_gaps(found: Tables, name: str) -> list[Gap]:
    """Return the larger of the clear gaps in the first and in the last third of the judged steps."""
    cells = found.tables["cells"]
    steps, shown = np.asarray(cells["step"]), np.asarray(cells["method"]) == name
    shown &= np.asarray(cells["kind"]) == found.kinds[0]
    distinct = np.unique(steps[shown])
    if len(distinct) < 3:
        return []
    thirds = np.array_split(distinct, 3)
    rows = getattr(found.material.seen[name], found.kinds[0])
    bins, gap = step_bins(rows.step), rows.prediction.mixed - is_mixed(rows)
    gaps = []
    for said, part in (("early", thirds[0]), ("late", thirds[-1])):
        inside = shown & np.isin(steps, part)
        groups, expected, mixed = (
            float(np.asarray(cells[of])[inside].sum()) for of in ("groups", "predicted", "mixed")
        )
        size, there = (expected - mixed) / groups, np.isin(bins, part)
        if abs(size) <= LARGE:
            continue
        error, prompts = sampled(gap[there], rows.prompt_ids[there])
        if not is_clear(size, error, least=LARGE, expected=expected / groups, groups=groups, prompts=prompts):
            continue
        first, last = rows.step[there].min(), rows.step[there].max()
        what = f"it expects {percent(expected / groups)} of {groups:,.0f} groups to be mixed, and "
        side = "high" if expected > mixed else "low"
        place = f"{said} in the run (steps {first:,} to {last:,})"
        gaps.append((abs(size), Gap(place, f"{what}{percent(mixed / groups)} were", side)))
    return [gap for _, gap in sorted(gaps, key=lambda pair: -pair[0])[:1]]
