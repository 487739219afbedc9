"""Histories of training runs, as folders of Parquet files that a crash does not damage.

This module needs `pip install "jaxsel[history]"`. A file has one row per prompt and batch. Its columns are:

* `step`: The training step.
* `clock`: How many batches the selector had observed before this batch.
* `kind`: "rollout" where the selector observed the row; "probe" for fresh rollouts that the selector did not see.
* `prompt_id`, `successes`, `group_size`: As in `jaxsel.Rollouts`. A group size of 0 means that nothing was judged.
* The fields of `jaxsel.Prediction`: What the selector predicted before it observed the row.
* `truth`: The true success rate where it is known, as in a simulation; otherwise NaN.

The file `pool.parquet` holds the prompts, for the predictors that read texts or embeddings.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxsel import _validate
from jaxsel._visits import check_counts
from jaxsel.base import Prediction
from jaxsel.evaluation.replay import History, make_history
from jaxsel.integrations._extras import extra
from jaxsel.integrations._history_pool import ABOUT, POOL, check_replaceable, pool_table, read_pool
from jaxsel.integrations.parquet_parts import PartFiles, part_files, read_table, write_table
from jaxsel.runtime.checkpoint.disk import local_path

with extra("history"):
    import pyarrow as pa

_COUNTS = ("step", "clock", "prompt_id", "successes", "group_size")
_SCHEMA = pa.schema(
    [
        *((name, pa.int32()) for name in _COUNTS),
        ("kind", pa.string()),
        *((name, pa.float32()) for name in (*Prediction._fields, "truth")),
    ]
)
Visits = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Rows of the pool, successes and group sizes, each `[b]`."""


class HistoryLog:
    """Collects rows in memory and writes them as one new file at each `flush`.

    A reader sees a file completely or not at all.

    Args:
        folder: The folder of the history, created if it is missing.
        num_prompts: Number of prompts in the pool, for the reader.
        spec: The selector's `spec`, which describes its method and settings, for the reader.
        first_step: First training step to be recorded. Rows of this step and later steps are dropped from the folder,
            because a resumed run repeats these steps.
        first_clock: Number of batches to keep; later batches are dropped from the folder. It replaces `first_step` in
            runs that observe the rollouts of a step in parts or late.
        texts: The prompts' texts.
        embeddings: The prompts' embeddings `[N, d]`, for prompts without text.

    Raises:
        ValueError: The folder holds the history of another pool, of other texts or of another method, or something
            else. Or there is not one text or embedding per prompt.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        num_prompts: int,
        spec: dict[str, Any],
        first_step: int = 0,
        first_clock: int | None = None,
        texts: Sequence[str] | None = None,
        embeddings: np.ndarray | None = None,
    ):
        folder = local_path(folder, "folder")
        _validate.positive_integer(num_prompts=num_prompts)
        num_prompts = int(num_prompts)
        about = {"num_prompts": num_prompts, "spec": spec}
        self._schema = _SCHEMA.with_metadata({ABOUT: json.dumps(about)})
        self._clock, self._num_prompts = 0, num_prompts
        kept, pool = part_files(folder), pool_table(texts, embeddings, num_prompts)
        if kept:
            _check_same(folder, _read_part(kept[0])[1], json.loads(json.dumps(about)))
        first = first_step if first_clock is None else first_clock
        check_replaceable(folder, pool, recorded=bool(kept), continued=bool(kept) and first > 0)
        self._files = PartFiles(folder)
        if pool.num_columns:
            write_table(folder / POOL, pool)
        if first_clock is None:
            self._files.drop_from("step", first_step)
            self._clock = _next_clock(folder)
        else:
            self._files.drop_from("clock", first_clock)
            self._clock = first_clock

    def observed(self, step: int, visits: Visits, prediction: Prediction, truth: np.ndarray | None = None) -> None:
        """Add a batch that the selector observes next; the next `flush` writes it.

        Args:
            step: The training step.
            visits: The batch.
            prediction: What the selector predicted for these prompts.
            truth: True success rates `[b]`; None if they are unknown.

        Raises:
            ValueError: An id is not a row of the pool, or a count is not an integer with 0 <= successes <= group_size.
        """
        self._add("rollout", step, visits, prediction, truth)
        self._clock += 1

    def probed(self, step: int, visits: Visits, prediction: Prediction, truth: np.ndarray | None = None) -> None:
        """Add fresh rollouts that the selector does not see; the arguments are the same as for `observed`."""
        self._add("probe", step, visits, prediction, truth)

    def flush(self) -> None:
        """Write the collected rows to disk."""
        self._files.flush()

    def _add(self, kind: str, step: int, visits: Visits, prediction: Prediction, truth: np.ndarray | None) -> None:
        prompt_ids, successes, group_size = visits
        check_counts(prompt_ids, successes, group_size, self._num_prompts)  # a wrong row would make all rows unreadable
        size = len(prompt_ids)
        columns = {"step": np.full(size, step), "clock": np.full(size, self._clock), "kind": np.full(size, kind)}
        columns |= {"prompt_id": prompt_ids, "successes": successes, "group_size": group_size}
        columns |= {name: np.asarray(field) for name, field in prediction._asdict().items()}
        columns["truth"] = np.full(size, np.nan) if truth is None else truth
        arrays = [pa.array(columns[field.name], field.type) for field in self._schema]
        self._files.add(pa.Table.from_arrays(arrays, schema=self._schema))


class Unwritten:
    """Has the methods of `HistoryLog` and writes nothing: for unrecorded runs, and for all processes but the first."""

    def observed(self, step: int, visits: Visits, prediction: Prediction) -> None:
        """Do nothing."""

    def probed(self, step: int, visits: Visits, prediction: Prediction) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing."""


class Recorded(NamedTuple):
    """The history that `read_history` found.

    Attributes:
        num_prompts: Number of prompts in the pool.
        spec: The `spec` of the selector that chose the batches.
        history: The batches that the selector observed, for `jaxsel.replay`. Its `step` is the column `clock`.
        rollouts: All rows that the selector observed, as columns by name.
        probes: All rows of fresh rollouts that the selector did not see, as columns by name.
        texts: The prompts' texts, where they were recorded.
        embeddings: The prompts' embeddings `[N, d]`, where they were recorded.
    """

    num_prompts: int
    spec: dict[str, Any]
    history: History
    rollouts: dict[str, np.ndarray]
    probes: dict[str, np.ndarray]
    texts: list[str] | None
    embeddings: np.ndarray | None


def read_history(folder: str | Path) -> Recorded:
    """Read the history of a run, which may still be running, have ended or have crashed.

    Raises:
        ValueError: The folder holds no history, or one of its files is damaged or of another kind.
    """
    folder = local_path(folder, "folder")
    parts = part_files(folder)
    if not parts:
        raise ValueError(f"{folder} holds no history (part-*.parquet); give the folder `history` of a run")
    return read_parts(parts)._replace(**read_pool(folder / POOL))


def read_parts(parts: Sequence[Path]) -> Recorded:
    """Read one or more files of a history, without texts and embeddings, for a reader that follows a running run.

    Raises:
        ValueError: A file is damaged, or is not of this history.
    """
    tables, abouts = zip(*map(_read_part, parts), strict=True)
    about = abouts[0]
    for part, other in zip(parts, abouts, strict=True):
        if other != about:
            raise ValueError(f"{part} and {parts[0].name} are of different pools or methods; keep one run per folder")
    table = pa.concat_tables(tables)
    rollouts, probes = (_columns(table, kind) for kind in ("rollout", "probe"))
    first = int(rollouts["clock"].min(initial=np.iinfo(np.int32).max))  # later files of a long run begin far from 0
    history = make_history(
        rollouts["clock"] - first,
        rollouts["prompt_id"],
        rollouts["successes"],
        rollouts["group_size"],
        num_prompts=about["num_prompts"],
    )
    history = history._replace(step=history.step + first)
    return Recorded(about["num_prompts"], about["spec"], history, rollouts, probes, None, None)


def _check_same(folder: Path, recorded: dict[str, Any], about: dict[str, Any]) -> None:
    if recorded != about:
        raise ValueError(f"{folder} holds the history of another pool or method; give another folder")


def _read_part(part: Path) -> tuple[pa.Table, dict[str, Any]]:
    """Return the rows of a file, and the description of its pool and method.

    Raises:
        ValueError: The file is damaged, or `HistoryLog` did not write it.
    """
    table = read_table(part)
    try:
        about = json.loads((table.schema.metadata or {})[ABOUT])
        return table.select(_SCHEMA.names).cast(_SCHEMA), {name: about[name] for name in ("num_prompts", "spec")}
    except (KeyError, TypeError, ValueError) as error:
        found = ", ".join(table.column_names)
        raise ValueError(
            f"{part} is not a file of a history, but a table with the columns {found}; give the folder `history` of a "
            "run, and keep other files elsewhere"
        ) from error


def first_clock(folder: Path) -> int:
    """Return the smallest clock of the recorded batches; 2^31 without a batch."""
    return next((int(clocks.min()) for clocks in _clocks(part_files(folder))), 2**31)


def _next_clock(folder: Path) -> int:
    """Return how many batches the selector had observed after the last recorded batch."""
    return next((1 + int(clocks.max()) for clocks in _clocks(reversed(part_files(folder)))), 0)


def _clocks(parts: Iterable[Path]) -> Iterator[np.ndarray]:
    """Yield the clocks of every file that holds a batch."""
    for part in parts:
        clocks = _columns(_read_part(part)[0], "rollout")["clock"]
        if len(clocks):
            yield clocks


def _columns(table: pa.Table, kind: str) -> dict[str, np.ndarray]:
    """Return the rows of one kind as NumPy columns."""
    rows = table.filter(pa.array(np.array(table["kind"].to_pylist()) == kind))
    return {name: rows[name].to_numpy() for name in rows.column_names if name != "kind"}
