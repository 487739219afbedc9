"""The prompts that a report shows one by one: a sample of every bin, and the most mispredicted of each method."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxsel.report.cells import NUM_BINS, Scored, belief_bins, numbered_again, parts_of, probability_bins
from jaxsel.report.material import Material, Pool
from jaxsel.report.rows import Rows
from jaxsel.report.wording import shortened
from jaxsel.runtime.table import interval

_MOST_PROMPTS = 240
_PER_BIN = 24  # prompts from each bin of each method, at most
_WORST = 12  # most mispredicted prompts of each method
_MOST_ROWS = 3000  # rows of the table of groups, per method and kind of outcome
_MOST_POINTS = 40  # steps at which a belief is shown
_LENGTH = 240  # letters of a prompt's text
BAND = 0.9
"""Probability of the band around a belief."""


class Mispredicted(NamedTuple):
    """The most mispredicted prompts of a method, worst first.

    Attributes:
        prompt_ids: The prompts.
        predicted: Mean predicted success rate over the prompt's judged groups.
        observed: Share of successes over these groups.
        groups: Number of these groups.
        rollouts: Number of their rollouts.
    """

    prompt_ids: Int[np.ndarray, " k"]
    predicted: Float[np.ndarray, " k"]
    observed: Float[np.ndarray, " k"]
    groups: Int[np.ndarray, " k"]
    rollouts: Int[np.ndarray, " k"]


def mispredicted(rows: Rows, scores: Scored, number: int = _WORST) -> Mispredicted:
    """Return the prompts whose counts were the most surprising: the lowest mean log score of the counts.

    Prompts with fewer than half as many groups as the prompt with the most groups are left out, because a single group
    may surprise by chance.
    """
    ids, which = numbered_again(rows.prompt_ids)
    groups = np.bincount(which)
    score = np.bincount(which, scores.counts) / groups
    often = np.flatnonzero(2 * groups >= groups.max())
    worst = often[np.argsort(score[often], kind="stable")[:number]]
    total, right = np.bincount(which, rows.group_size), np.bincount(which, rows.successes)
    expected = np.bincount(which, rows.prediction.success_rate * rows.group_size)
    columns = (expected[worst] / total[worst], right[worst] / total[worst], groups[worst], total[worst].astype(int))
    return Mispredicted(ids[worst], *columns)


def chosen(
    rows: Mapping[str, Rows], worst: Mapping[str, Mispredicted], pools: Mapping[str, Pool], *, seed: int = 0
) -> Int[np.ndarray, " k"]:
    """Return at most `_MOST_PROMPTS` prompts: the worst of every method, and random ones of every bin of P(mixed)."""
    rng = np.random.default_rng(seed)
    found: list[Any] = [of.prompt_ids for of in worst.values()]
    for of in [*rows.values(), *pools.values()]:
        bins = probability_bins(of.prediction.mixed)
        for number in range(NUM_BINS):
            there = of.prompt_ids[bins == number]
            if len(there):
                found.append(rng.choice(there, min(_PER_BIN, len(there)), replace=False))
    # the first of every list, then the second, and so on, so that no bin and no method goes without
    in_turn = [part[place] for place in range(max(map(len, found), default=0)) for part in found if place < len(part)]
    return np.asarray(list(dict.fromkeys(map(int, in_turn)))[:_MOST_PROMPTS], int)


def prompts(material: Material, ids: Int[np.ndarray, " k"], strata: Int[np.ndarray, " N"] | None) -> dict[str, Any]:
    """Return the columns `prompt`, `text` and, with labels, `stratum` of the prompts."""
    texts = material.texts
    columns: dict[str, Any] = {"prompt": [int(i) for i in ids]}
    columns["text"] = ["" if texts is None else shortened(str(texts[i]), _LENGTH) for i in ids]
    return columns if strata is None else {**columns, "stratum": strata[ids]}


def groups(rows: Rows, scores: Scored, ids: Int[np.ndarray, " k"], *, seed: int = 0) -> dict[str, Any]:
    """Return the judged groups of the prompts as columns: predictions, outcomes and how surprising they were."""
    at = np.flatnonzero(np.isin(rows.prompt_ids, ids))
    if len(at) > _MOST_ROWS:
        at = np.sort(np.random.default_rng(seed).choice(at, _MOST_ROWS, replace=False))
    some = rows.taken(at)
    return {
        "prompt": some.prompt_ids,
        "step": some.step,
        "bin": probability_bins(some.prediction.mixed),
        **belief_bins(some.prediction),
        "part": parts_of(some.visits),
        "mixed": some.prediction.mixed,
        "rate": some.prediction.success_rate,
        "successes": some.successes,
        "rollouts": some.group_size,
        "surprise": -scores.states[at],
    }


def present(pool: Pool, ids: Int[np.ndarray, " k"]) -> dict[str, Any]:
    """Return the latest belief about each of the prompts that the pool has."""
    at = np.flatnonzero(np.isin(pool.prompt_ids, ids))
    prediction = jax.tree.map(lambda field: np.asarray(field)[at], pool.prediction)
    return {
        "prompt": pool.prompt_ids[at],
        "rate": prediction.success_rate,
        "deviation": np.sqrt(np.maximum(prediction.variance, 0)),
        "mixed": prediction.mixed,
        "bin": probability_bins(prediction.mixed),
        **belief_bins(prediction),
        "part": parts_of(pool.visits[at]),
        "visits": pool.visits[at],
    }


def beliefs(material: Material, name: str, ids: Int[np.ndarray, " k"]) -> dict[str, Any]:
    """Return what the method believed about the prompts over time: columns prompt, step, rate, low and high."""
    seen = material.seen[name]
    parts = []
    pools = sorted(seen.pools)
    for step in (
        [pools[i] for i in np.unique(np.linspace(0, len(pools) - 1, _MOST_POINTS).astype(int))] if pools else []
    ):
        pool = seen.pools[step]
        parts.append((ids, np.full(len(ids), step), pool.success_rate[ids], pool.variance[ids]))
    for rows in (seen.ahead, seen.probes):
        at = np.flatnonzero(np.isin(rows.prompt_ids, ids))
        parts.append(
            (rows.prompt_ids[at], rows.step[at], rows.prediction.success_rate[at], rows.prediction.variance[at])
        )
    prompt, step, rate, variance = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    _, first = np.unique(np.stack([prompt, step]), axis=1, return_index=True)  # sorts by prompt and step, too
    low, high = interval(rate[first], variance[first], BAND)
    return {"prompt": prompt[first], "step": step[first], "rate": rate[first], "low": low, "high": high}


def outcomes(material: Material, ids: Int[np.ndarray, " k"]) -> dict[str, Any]:
    """Return what happened to the prompts: columns prompt, step, share of successes, counts, whether a probe, truth."""
    history, probes = material.history, material.probes
    a, b = (np.flatnonzero(np.isin(column, ids)) for column in (history.prompt_ids, probes["prompt_id"]))
    b = b[probes["group_size"][b] > 0]
    s = np.concatenate([history.successes[a], probes["successes"][b]])
    n = np.concatenate([history.group_size[a], probes["group_size"][b]])
    truth = probes["truth"][b] if "truth" in probes else np.full(len(b), np.nan)
    return {
        "prompt": np.concatenate([history.prompt_ids[a], probes["prompt_id"][b]]),
        "step": np.concatenate([history.step[a], probes["clock"][b]]),
        "share": s / n,
        "successes": s,
        "rollouts": n,
        "probe": np.concatenate([np.zeros(len(a), int), np.ones(len(b), int)]),
        "truth": np.concatenate([np.full(len(a), np.nan), truth]),
    }
