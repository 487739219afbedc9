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

from jaxsel.report.page import columns_of, template
from jaxsel.report.tables import Tables

VEGA_LITE = "application/vnd.vegalite.v6+json"
"""The MIME type under which a notebook holds the specification of a chart."""
_WIDTH = 420  # pixels of a chart on its own
_SCALE = 1.5  # pixels of its picture per pixel of the chart


class Drawing(alt.LayerChart):
    """An Altair chart that shows itself without a network.

    A notebook gets the chart's specification with its data, which some viewers draw, and a picture for all others.
    Altair's own output loads its scripts from the network.
    """

    def _repr_mimebundle_(self, *args: Any, **kwds: Any) -> dict[str, Any]:
        spec = self.to_dict()
        picture = vl_convert.vegalite_to_png(spec, scale=_SCALE)
        return {VEGA_LITE: spec, "image/png": base64.b64encode(picture).decode(), "text/plain": "an interactive chart"}


def drawing(chart: Any, found: Tables) -> Drawing:
    """Return a chart with the rows and columns that it reads of the tables.

    It shows the outcomes that the methods are judged on, because it has no menu to choose others.
    """
    spec = chart.to_dict(validate=False)
    text = json.dumps(spec)
    used = sorted(set(re.findall(r'"data": {"name": "(\w+)"}', text)) & set(found.tables))
    spec["datasets"] = spec.get("datasets", {}) | {name: _rows(found, name, text) for name in used}
    spec["width"] = _WIDTH
    return Drawing.from_dict(spec)


def _rows(found: Tables, name: str, text: str) -> list[dict[str, Any]]:
    """Return the table's rows for JSON, with the columns that are named in the text of a specification."""
    table = found.tables[name]
    if "kind" in table:
        shown = np.asarray(table["kind"]) == found.kinds[0]
        table = {column: np.asarray(values)[shown] for column, values in table.items()}
    named = set(re.findall(r"\w+", text))
    columns = {
        column: np.asarray(of["levels"], object)[of["values"]].tolist() if "levels" in of else of["values"]
        for column, of in columns_of(table)["columns"].items()
        if column in named
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def frame(html: str) -> str:
    """Return the page inside of a frame, for the output of a notebook's cell.

    The page is compressed, because the file of the notebook holds it: the scripts of Vega take 0.9 MB, and 0.4 MB in
    the frame. The browser decompresses it.
    """
    packed = base64.b64encode(gzip.compress(html.encode(), mtime=0)).decode()  # the same page gives the same bytes
    opener = template("frame.html", page=packed)
    style = "width: 100%; height: 900px; border: 0"
    return f'<iframe srcdoc="{escape(opener)}" style="{style}" title="jaxsel.explore"></iframe>'
