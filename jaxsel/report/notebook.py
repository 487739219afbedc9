"""What a notebook shows of a report: the page in a frame, and single charts. Neither needs a network."""

import base64
import gzip
import json
import re
from html import escape
from typing import Any

import altair as alt
import numpy as np
import vl_convert

from jaxsel.report.cells import SCORES
from jaxsel.report.charts.common import OF_BELIEF, OF_BINS, OF_KIND, OF_PART, OF_STEPS
from jaxsel.report.pieces import as_columns, filled, text_of
from jaxsel.report.tables import Table, Tables

VEGA_LITE = "application/vnd.vegalite.v6+json"
"""The MIME type under which a notebook holds the specification of a chart."""
_WIDTH = 420  # pixels of a chart on its own
_SELECTED = {part for filters in (OF_KIND, OF_PART, OF_STEPS, OF_BINS, OF_BELIEF) for part in filters.split(" && ")}
_OF_ONE_METHOD = ("map", "meaning", "present")  # tables of which a chart shows only the method in detail
_SUMS = {
    "cells": re.compile(f"groups|predicted|mixed|chance|(?:{'|'.join(SCORES)})2?|pit\\d+|cover\\d+"),
    "map": re.compile("prompts|visits|visited|waiting|rate|mixed"),
}
_SUMS["meaning"] = _SUMS["map"]


class Drawing(alt.LayerChart):
    """An Altair chart that shows itself without a network.

    A notebook gets the chart's specification with its data, which some viewers draw, and a picture for all others.
    Altair's own output loads its scripts from the network.
    """

    def _repr_mimebundle_(self, *args: Any, **kwds: Any) -> dict[str, Any]:
        spec = self.to_dict()
        picture = vl_convert.vegalite_to_png(spec)
        return {VEGA_LITE: spec, "image/png": base64.b64encode(picture).decode(), "text/plain": "an interactive chart"}


def drawing(chart: Any, found: Tables) -> Drawing:
    """Return a chart with the rows and columns that it reads of the tables.

    It shows the outcomes that the methods are judged on, and all of their groups, because it has no menus and no other
    charts to choose by.
    """
    spec = _unfiltered(chart.to_dict(validate=False))
    text = json.dumps({part: value for part, value in spec.items() if part != "params"})
    used = sorted(set(re.findall(r'"data": {"name": "(\w+)"}', text)) & set(found.tables))
    columns = set(re.findall(r"\w+", text))
    spec["datasets"] = spec.get("datasets", {}) | {name: _rows(found, name, columns) for name in used}
    spec["width"] = _WIDTH
    return Drawing.from_dict(spec)


def _unfiltered(part: Any) -> Any:
    """Return the part of a specification without the filters by what the page has selected."""
    if isinstance(part, list):
        return [made for made in map(_unfiltered, part) if made != {}]
    if not isinstance(part, dict):
        return part
    if isinstance(part.get("filter"), str):
        kept = [condition for condition in part["filter"].split(" && ") if condition not in _SELECTED]
        return {"filter": " && ".join(kept)} if kept else {}
    return {name: _unfiltered(value) for name, value in part.items()}


def _rows(found: Tables, name: str, columns: set[str]) -> list[dict[str, Any]]:
    """Return the table's rows for JSON: the sums over all columns but the given ones."""
    table = {column: np.asarray(values) for column, values in found.tables[name].items()}
    shown = np.ones(len(next(iter(table.values()))), bool)
    if "kind" in table:
        shown &= table["kind"] == found.kinds[0]
    if name in _OF_ONE_METHOD:
        shown &= table["method"] == found.methods[0]
    table = {column: values[shown] for column, values in table.items() if column in columns}
    if name in _SUMS:
        table = _summed(table, [column for column in table if _SUMS[name].fullmatch(column)])
    made = as_columns(table)["columns"]
    values = [
        np.asarray(of["levels"], object)[of["values"]].tolist() if "levels" in of else of["values"]
        for of in made.values()
    ]
    return [dict(zip(made, row, strict=True)) for row in zip(*values, strict=True)]


def _summed(table: Table, sums: list[str]) -> Table:
    """Return one row for all rows that are equal except in `sums`, which are added up."""
    others = [column for column in table if column not in sums]
    numbers: dict[tuple[Any, ...], int] = {}
    rows = zip(*(table[column].tolist() for column in others), strict=True)
    cell = np.array([numbers.setdefault(row, len(numbers)) for row in rows], int)
    distinct = dict(zip(others, zip(*numbers, strict=True), strict=False))
    return distinct | {column: np.bincount(cell, table[column], len(numbers)) for column in sums}


def frame(html: str) -> str:
    """Return the page inside of a frame, for the output of a notebook's cell.

    The page is compressed, because the file of the notebook holds it: the scripts of Vega take 0.9 MB, and 0.4 MB in
    the frame. The browser decompresses it.
    """
    page = html.encode(errors="replace")  # a text may hold a lone surrogate
    packed = base64.b64encode(gzip.compress(page, mtime=0)).decode()  # the same page gives the same bytes
    opener = filled(text_of("frame.html"), page=packed)
    style = "width: 100%; height: 900px; border: 0"
    return f'<iframe srcdoc="{escape(opener)}" style="{style}" title="jaxsel.explore"></iframe>'
