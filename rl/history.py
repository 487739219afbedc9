"""What a run saw, on disk: a folder of Parquet files that only grows, and that a crash does not spoil.

One row a prompt and batch: `step` (of training), `clock` (observations of the selector before this one), `kind`
("rollout": the selector observed it; "probe": fresh rollouts that it did not see), `prompt_id`, `successes`,
`group_size` (0: nothing was judged), what was predicted before: the fields of `jaxsel.Prediction`; and `truth`, the
true success rate where that is known, in a simulation. The prompts themselves are in `pool.parquet`, for the predictors
that read them.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import jaxsel
from rl._files import replaced_when_complete

_COUNTS = ("step", "clock", "prompt_id", "successes", "group_size")
_SCHEMA = pa.schema(
    [
        *((name, pa.int32()) for name in _COUNTS),
        ("kind", pa.string()),
        *((name, pa.float32()) for name in (*jaxsel.Prediction._fields, "truth")),
    ]
)
_ABOUT = b"jaxsel"
_POOL = "pool.parquet"
Visits = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Rows of the pool, successes, group sizes: each `[b]`."""


class HistoryLog:
    """Collects rows and appends them as one file a `flush`: a reader sees a file whole or not at all.

    Args:
        folder: made when missing.
        num_prompts: the size of the pool; a reader needs it.
        spec: of the selector, for the reader.
        first_step: rows from this step on are of work that is done again, and are dropped.
        texts: of the prompts.
        embeddings: of the prompts `[N, d]`, where there is no text to embed.

    Raises:
        ValueError: the folder holds the history of another pool or method.
    """

    def __init__(
        self,
        folder: Path,
        *,
        num_prompts: int,
        spec: dict[str, Any],
        first_step: int = 0,
        texts: Sequence[str] | None = None,
        embeddings: np.ndarray | None = None,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        about = {"num_prompts": num_prompts, "spec": spec}
        self._schema = _SCHEMA.with_metadata({_ABOUT: json.dumps(about)})
        self._tables: list[pa.Table] = []
        self._clock = 0
        kept = _parts(folder)
        self._next = len(kept)
        if kept and _about(kept[0]) != json.loads(json.dumps(about)):
            raise ValueError(f"{folder} holds the history of another pool or method; give another folder")
        columns: dict[str, Any] = {} if texts is None else {"text": pa.array(texts, pa.string())}
        if embeddings is not None:
            rows = pa.array(np.asarray(embeddings, np.float32).ravel())
            columns["embedding"] = pa.FixedSizeListArray.from_arrays(rows, embeddings.shape[1])
        if columns:
            _write(folder / _POOL, pa.table(columns))
        for number, part in enumerate(kept):
            table = _read(part)
            early = table.filter(pa.array(table["step"].to_numpy() < first_step))
            if "rollout" in early["kind"].to_pylist():
                self._clock = 1 + max(_columns(early, "rollout")["clock"].tolist())
            if len(early) < len(table):
                _write(part, early)
                for later in kept[number + 1 :]:
                    later.unlink()
                self._next = number + 1
                break

    def observed(
        self, step: int, visits: Visits, prediction: jaxsel.Prediction, truth: np.ndarray | None = None
    ) -> None:
        """A batch that the selector observes next, and what it predicted of it; on disk after the next `flush`."""
        self._add("rollout", step, visits, prediction, truth)
        self._clock += 1

    def probed(self, step: int, visits: Visits, prediction: jaxsel.Prediction, truth: np.ndarray | None = None) -> None:
        """Fresh rollouts that the selector does not see."""
        self._add("probe", step, visits, prediction, truth)

    def flush(self) -> None:
        """Writes what was collected."""
        if self._tables:
            _write(self._folder / f"part-{self._next:06d}.parquet", pa.concat_tables(self._tables))
            self._next += 1
            self._tables = []

    def _add(
        self, kind: str, step: int, visits: Visits, prediction: jaxsel.Prediction, truth: np.ndarray | None
    ) -> None:
        prompt_ids, successes, group_size = visits
        size = len(prompt_ids)
        columns = {"step": np.full(size, step), "clock": np.full(size, self._clock), "kind": np.full(size, kind)}
        columns |= {"prompt_id": prompt_ids, "successes": successes, "group_size": group_size}
        columns |= {name: np.asarray(field) for name, field in prediction._asdict().items()}
        columns["truth"] = np.full(size, np.nan) if truth is None else truth
        arrays = [pa.array(columns[field.name], field.type) for field in self._schema]
        self._tables.append(pa.Table.from_arrays(arrays, schema=self._schema))


class Unwritten:
    """Has the methods of `HistoryLog`, for ranks that do not write and runs that are not recorded."""

    def observed(self, step: int, visits: Visits, prediction: jaxsel.Prediction) -> None:
        """Does nothing."""

    def probed(self, step: int, visits: Visits, prediction: jaxsel.Prediction) -> None:
        """Does nothing."""

    def flush(self) -> None:
        """Does nothing."""


class Recorded(NamedTuple):
    """What `read_history` found.

    Attributes:
        num_prompts: the size of the pool.
        spec: of the selector that chose.
        history: what it observed, for `jaxsel.replay`; its steps are the selector's clock.
        rollouts: all that it observed, as columns; those of `_SCHEMA`.
        probes: likewise, fresh rollouts that it did not see.
        texts: of the prompts, where they were recorded.
        embeddings: of the prompts `[N, d]`, likewise.
    """

    num_prompts: int
    spec: dict[str, Any]
    history: jaxsel.History
    rollouts: dict[str, np.ndarray]
    probes: dict[str, np.ndarray]
    texts: list[str] | None
    embeddings: np.ndarray | None


def read_history(folder: str | Path) -> Recorded:
    """The history of a run that goes on, ended or crashed.

    Raises:
        ValueError: there is none, or a file of it is damaged.
    """
    parts = _parts(Path(folder))
    if not parts:
        raise ValueError(f"{folder} holds no history (part-*.parquet); give the folder `history` of a run")
    tables = [_read(part) for part in parts]
    table = pa.concat_tables(tables)
    about = _about(parts[0])
    rollouts, probes = (_columns(table, kind) for kind in ("rollout", "probe"))
    history = jaxsel.make_history(
        rollouts["clock"],
        rollouts["prompt_id"],
        rollouts["successes"],
        rollouts["group_size"],
        num_prompts=about["num_prompts"],
    )
    return Recorded(about["num_prompts"], about["spec"], history, rollouts, probes, *_pool(Path(folder) / _POOL))


def _pool(path: Path) -> tuple[list[str] | None, np.ndarray | None]:
    """Texts and embeddings of the prompts, as far as they were recorded."""
    columns = _read(path) if path.exists() else pa.table({})
    texts = columns["text"].to_pylist() if "text" in columns.column_names else None
    if "embedding" not in columns.column_names:
        return texts, None
    lists = columns["embedding"].combine_chunks()
    return texts, lists.flatten().to_numpy().reshape(len(lists), -1)


def _about(part: Path) -> dict[str, Any]:
    return json.loads(_read(part).schema.metadata[_ABOUT])


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); put back a copy of it, or delete the history and start the run anew"
        ) from error


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def _write(path: Path, table: pa.Table) -> None:
    with replaced_when_complete(path) as file:
        pq.write_table(table, file)


def _columns(table: pa.Table, kind: str) -> dict[str, np.ndarray]:
    """The rows of that kind."""
    rows = table.filter(pa.array(np.array(table["kind"].to_pylist()) == kind))
    return {name: rows[name].to_numpy() for name in rows.column_names if name != "kind"}
