"""All tables of a report, in plain NumPy: small enough for a page, whatever the size of the pool."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxsel.report import followed, maps
from jaxsel.report.cells import Scored, cells, scored
from jaxsel.report.followed import Mispredicted, mispredicted
from jaxsel.report.gold import gold_standard
from jaxsel.report.judgement import Corp, Judged, best_of, corp, judged
from jaxsel.report.material import Material
from jaxsel.report.rows import Rows

KINDS = {"probes": "fresh rollouts of the pool (probes)", "ahead": "the batches of the run"}
"""Kinds of outcomes, the better one first, and their plain names."""
Table = dict[str, Any]


class Tables(NamedTuple):
    """What a report shows.

    Attributes:
        material: What the tables were made from.
        methods: Names of the methods, the best one first.
        kinds: The kinds of outcomes that there are; the first one is what the methods are judged on.
        judged: The judgement of each method. Empty without outcomes.
        worst: The most mispredicted prompts of each method.
        strata: The labels of the prompts, by size; None without labels.
        tables: Columns by name of each table: `cells`, `curve`, `map`, `meaning`, `prompts`, `groups`, `present`,
            `beliefs`, `outcomes` and `gold`. Tables of several methods have a column `method`, and those of several
            kinds of outcomes a column `kind`.
    """

    material: Material
    methods: list[str]
    kinds: list[str]
    judged: dict[str, Judged]
    worst: dict[str, Mispredicted]
    strata: list[str] | None
    tables: dict[str, Table]


def tables(material: Material, *, seed: int = 0) -> Tables:
    """Return the tables of a report.

    Args:
        material: The run, or the selector's beliefs.
        seed: Seed of the random prompts that the report follows.
    """
    rows = {kind: {name: getattr(seen, kind) for name, seen in material.seen.items()} for kind in KINDS}
    kinds = [kind for kind in KINDS if all(len(of.step) for of in rows[kind].values()) and rows[kind]]
    scores = {kind: {name: scored(of) for name, of in rows[kind].items()} for kind in kinds}
    labels, strata = (None, None) if material.strata is None else maps.numbered(material.strata)
    if not kinds:
        ids = followed.chosen({}, {}, material.pools, seed=seed)
        return Tables(material, list(material.pools), [], {}, {}, labels, _of_pools(material, ids, strata))
    main = kinds[0]
    best = best_of(scores[main])
    verdicts = {name: judged(of, scores[main][name], scores[main][best]) for name, of in rows[main].items()}
    methods = sorted(verdicts, key=lambda name: -np.nan_to_num(verdicts[name].numbers["states"].value, nan=-np.inf))
    worst = {name: mispredicted(rows[main][name], scores[main][name]) for name in methods}
    ids = followed.chosen(rows[main], worst, material.pools, seed=seed)
    made = _of_pools(material, ids, strata) | _of_groups(rows, scores, kinds, ids)
    made["curve"] = _joined(
        {
            (name, kind): _curve(verdicts[name].curve if kind == main else corp(rows[kind][name]))
            for kind in kinds
            for name in methods
        }
    )
    made["beliefs"] = _joined({(name, None): followed.beliefs(material, name, ids) for name in methods})
    made["outcomes"] = followed.outcomes(material, ids)
    made["gold"] = gold_standard(material.history, ids, seed=seed)
    return Tables(material, methods, kinds, verdicts, worst, labels, made)


def _of_pools(material: Material, ids: np.ndarray, strata: np.ndarray | None) -> dict[str, Table]:
    pools = material.pools
    made = {
        "map": _joined({(name, None): maps.beliefs(pool, strata) for name, pool in pools.items()}),
        "present": _joined({(name, None): followed.present(pool, ids) for name, pool in pools.items()}),
        "prompts": followed.prompts(material, ids, strata),
    }
    if material.embeddings is not None:
        places = maps.flattened(material.embeddings)
        made["meaning"] = _joined({(name, None): maps.meanings(places, pool, strata) for name, pool in pools.items()})
        at = places[np.asarray(made["prompts"]["prompt"], int)]
        made["prompts"] |= {"x": at[:, 0], "y": at[:, 1]}
    return made


def _of_groups(
    rows: Mapping[str, Mapping[str, Rows]],
    scores: Mapping[str, Mapping[str, Scored]],
    kinds: list[str],
    ids: np.ndarray,
) -> dict[str, Table]:
    pairs = [(name, kind) for kind in kinds for name in rows[kind]]
    return {
        "cells": _joined(
            {(name, kind): cells(rows[kind][name], scores[kind][name], by_belief=True) for name, kind in pairs}
        ),
        "groups": _joined(
            {(name, kind): followed.groups(rows[kind][name], scores[kind][name], ids) for name, kind in pairs}
        ),
    }


def _curve(curve: Corp) -> Table:
    return {"predicted": curve.predicted, "observed": curve.observed}


def _joined(parts: Mapping[tuple[str, str | None], Table]) -> Table:
    """Return one table of all parts, with the columns `method` and, where it is known, `kind`."""
    found: dict[str, list[Any]] = {}
    for (method, kind), table in parts.items():
        length = len(next(iter(table.values())))
        own = {"method": np.full(length, method, object)}
        if kind is not None:
            own["kind"] = np.full(length, kind, object)
        for name, column in (own | table).items():
            found.setdefault(name, []).append(column)
    return {name: np.concatenate(columns) for name, columns in found.items()}
