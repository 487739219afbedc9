"""What a report is made from: a run with the predictions of one or several methods, or a selector's present beliefs."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from jaxsel import _validate
from jaxsel.base import Prediction, Predictor, Selector
from jaxsel.evaluation.replay import History, earlier_visits
from jaxsel.methods import adaptive, dps, mopps
from jaxsel.report.rows import Replayed, Rows, at_own_sizes, known_size, replayed
from jaxsel.runtime.prompt_selector import PromptSelector
from jaxsel.selection.acquisition import thompson
from jaxsel.selection.composition import make_selector
from jaxsel.selection.rules import top_k

_MOST_PREDICTIONS = 10_000_000  # predictions that are kept of the whole pool, over all steps
_MOST_STEPS = 200
_JUDGED = [name for name in Prediction._fields if name != "draw"]  # a report shows no draws
_NO_PROBES = {name: np.zeros(0, np.int32) for name in ("clock", "prompt_id", "successes", "group_size")}


class Pool(NamedTuple):
    """What a method believes about prompts of the pool, and when they were visited.

    Attributes:
        step: Step before which the beliefs hold.
        prompt_ids: The prompts; all prompts of the pool, unless fewer were recorded.
        prediction: Predictions, with fields of shape `[k]`.
        visits: Number of visits to each prompt.
        waiting: Steps since the last visit; -1 without a visit.
    """

    step: int
    prompt_ids: Int[np.ndarray, " k"]
    prediction: Prediction
    visits: Int[np.ndarray, " k"]
    waiting: Int[np.ndarray, " k"]


class Material(NamedTuple):
    """A run and the predictions of methods for it.

    Attributes:
        num_prompts: Number of prompts in the pool.
        history: The batches of the run.
        probes: Columns of the probes, as in `jaxsel.integrations.history`.
        seen: The predictions by name of the method. Empty if nothing was judged.
        pools: The latest beliefs by name of the method.
        chosen_by: Name of the method that chose the batches, if it is known.
        texts: The prompts' texts, if they are known.
        embeddings: The prompts' embeddings `[N, d]`, if they are known.
        strata: Label of each prompt, for example its task or its source; None: no labels.
        group_sizes: Number of rollouts for which each method predicts, by its name, where it is known. The predictions
            of groups with other numbers are those of `at_own_sizes`.
    """

    num_prompts: int
    history: History
    probes: Mapping[str, np.ndarray]
    seen: dict[str, Replayed]
    pools: dict[str, Pool]
    chosen_by: str | None = None
    texts: Sequence[str] | None = None
    embeddings: Float[np.ndarray, "N d"] | None = None
    strata: Sequence[str] | None = None
    group_sizes: Mapping[str, int] = {}


def of_selector(selector: PromptSelector) -> Material:
    """Return the present beliefs of a selector, without any outcome."""
    table = selector.table()
    step = int(selector.metrics()["selector/observes"])  # steps without a judged rollout too
    visits, last = table["visits"], table["last_visit"]
    ids = np.arange(selector.num_prompts)
    pool = Pool(step, ids, selector.predict(), visits, np.where(visits > 0, step - last, -1))
    name = str(selector.spec.get("method", "the selector"))
    history = History(*(np.zeros(0, np.int32) for _ in History._fields))
    return Material(selector.num_prompts, history, _NO_PROBES, {}, {name: pool}, name)


def of_recorded(recorded: Any) -> Material:
    """Return a recorded run with the predictions that its own selector made during the run."""
    chosen_by = str(recorded.spec.get("method", "the selector"))
    history = recorded.history
    # the last batches may have no judged rollouts; then a probe after them has a clock beyond the end
    size = known_size(recorded.spec)
    ahead, probes = (
        recorded_rows(history, columns, last_step=history.num_steps) for columns in (recorded.rollouts, recorded.probes)
    )
    name = f"{chosen_by} (recorded)"
    pools = {step: _whole(probes, recorded.num_prompts, step) for step in np.unique(probes.step).tolist()}
    known = {step: pool for step, pool in pools.items() if pool is not None}
    seen = Replayed(at_own_sizes(ahead, size), at_own_sizes(probes, size), known)
    last = probes if len(probes.step) else ahead
    if not len(last.step):
        raise ValueError(
            "the history has no judged rollouts with finite predictions; give the history of a run that was trained"
        )
    # the last row of each prompt: np.unique returns the first position, so the rows are reversed
    rows = len(last.step) - 1 - np.unique(last.prompt_ids[::-1], return_index=True)[1]
    step = history.num_steps
    ids = last.prompt_ids[rows]
    visits, waiting = earlier_visits(history, ids, np.full(len(ids), step))
    pool = Pool(step, ids, last.taken(rows).prediction, visits, waiting)
    return Material(
        recorded.num_prompts, history, recorded.probes, {name: seen}, {name: pool}, chosen_by, recorded.texts,
        recorded.embeddings, group_sizes={} if size is None else {name: size},
    )  # fmt: skip


def of_methods(
    history: History,
    methods: Mapping[str, Selector | Predictor] | None,
    *,
    num_prompts: int,
    probes: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
) -> Material:
    """Return a run with the predictions of methods that are replayed on it.

    Raises:
        ValueError: The history is empty, a method is neither a `Selector` nor a `Predictor`, or a prediction is not
            finite.
    """
    if not len(history.step):
        raise ValueError("the history has no judged rollouts; give the history of a run that was trained")
    probes = _NO_PROBES if probes is None else probes
    seen, pools, sizes = {}, {}, {}
    for name, selector in (default_methods(history) if methods is None else methods).items():
        if isinstance(selector, Predictor):
            selector = make_selector(selector, thompson(), top_k())
        if not isinstance(selector, Selector):
            raise ValueError(
                f"methods[{name!r}] is a {type(selector).__name__}; give a Selector such as jaxsel.mopps(), "
                "or a Predictor such as jaxsel.kalman()"
            )
        steps = _pool_steps(history.num_steps, num_prompts)
        found = replayed(history, probes, selector, num_prompts=num_prompts, seed=seed, pool_steps=steps)
        ids, end = np.arange(num_prompts), history.num_steps
        for of in (found.ahead, found.probes):
            _check_finite(name, of.prediction, of.prompt_ids, of.step)
        for step, whole in found.pools.items():
            _check_finite(name, whole, ids, np.full(num_prompts, step))
        sizes[name] = known_size(selector.spec)
        seen[name] = found._replace(
            ahead=at_own_sizes(found.ahead, sizes[name]), probes=at_own_sizes(found.probes, sizes[name])
        )
        pools[name] = Pool(end, ids, found.pools[end], *earlier_visits(history, ids, np.full(num_prompts, end)))
    known = {name: size for name, size in sizes.items() if size is not None}
    return Material(num_prompts, history, probes, seen, pools, group_sizes=known)


def _check_finite(name: str, prediction: Prediction, prompt_ids: np.ndarray, step: np.ndarray) -> None:
    for field in _JUDGED:
        values = np.asarray(getattr(prediction, field))
        wrong = ~np.isfinite(values)
        if wrong.any():
            at = int(np.argmax(wrong))
            raise ValueError(
                f"methods[{name!r}] predicts a {field} of {values[at]} for prompt {prompt_ids[at]} before step "
                f"{step[at]}; give a method whose predictions are finite"
            )


def default_methods(history: History) -> dict[str, Selector]:
    """Return the methods that need no embeddings, for the group size of the history; dps needs one of at least 2."""
    group_size = int(np.median(history.group_size))
    methods = {"mopps": mopps, "dps": dps, "adaptive": adaptive}
    return {name: make(group_size=group_size) for name, make in methods.items() if name != "dps" or group_size > 1}


def _pool_steps(num_steps: int, num_prompts: int) -> list[int]:
    """Return the steps before which the whole pool is predicted: evenly spread, and the last step among them."""
    number = int(np.clip(_MOST_PREDICTIONS // num_prompts, 2, _MOST_STEPS + 1))
    return np.unique(np.linspace(0, num_steps, number).astype(int)).tolist()


def recorded_rows(history: History, columns: Mapping[str, np.ndarray], *, last_step: int | None = None) -> Rows:
    """Return the judged groups of a recorded run, of its batches or of its probes, with their recorded predictions.

    Args:
        history: The batches, from which the numbers of earlier visits are counted.
        columns: The recorded columns, as in `jaxsel.integrations.history`.
        last_step: The largest step of a row; the clock of a later row is lowered to it. None: no limit.
    """
    judged = (columns["group_size"] > 0) & _are_finite(columns)
    columns = {name: column[judged] for name, column in columns.items()}
    step = columns["clock"] if last_step is None else np.minimum(columns["clock"], last_step)
    fields: Any = [columns[name] for name in Prediction._fields]
    prediction = Prediction(*fields)
    ids = columns["prompt_id"]
    return Rows(prediction, step, ids, columns["successes"], columns["group_size"], *earlier_visits(history, ids, step))


def _are_finite(columns: Mapping[str, np.ndarray]) -> Bool[np.ndarray, " r"]:
    """Return which rows have a prediction whose numbers are all finite, and warn of the others."""
    finite = np.all([np.isfinite(columns[name]) for name in Prediction._fields], axis=0)
    if not finite.all():
        warnings.warn(
            f"{int((~finite).sum()):,} of {len(finite):,} recorded predictions are not finite, so they are left out; "
            "replay methods on the history to judge these groups too",
            stacklevel=2,
        )
    return finite


def _whole(probes: Rows, num_prompts: int, step: int) -> Prediction | None:
    """Return the predictions of a probe by prompt if it judged the whole pool, or else None."""
    rows = np.flatnonzero(probes.step == step)
    if len(rows) != num_prompts:
        return None
    rows = rows[np.argsort(probes.prompt_ids[rows])]
    return jax.tree.map(lambda field: field[rows], probes.prediction)


def recorded_in(folder: Path) -> Any:
    """Return the history in a folder, which is the folder `history` of a run or the run's own folder.

    Raises:
        ValueError: Neither holds a history.
    """
    from jaxsel.integrations.history import read_history  # it needs pyarrow, which is an extra

    return read_history(history_folder(folder))


def history_folder(folder: Path) -> Path:
    """Return the folder of the history: `history` in a run's folder, or else the folder itself."""
    inner = folder / "history"
    return inner if inner.is_dir() and not any(folder.glob("part-*.parquet")) else folder


def with_prompts(
    material: Material,
    texts: Sequence[str] | None,
    embeddings: ArrayLike | None,
    strata: Sequence[Any] | None,
) -> Material:
    """Return the material with what the caller knows about the prompts.

    Raises:
        ValueError: An argument does not have one entry per prompt, or embeddings are not finite.
    """
    vectors = None if embeddings is None else _vectors(embeddings)
    given = {"texts": texts, "embeddings": vectors, "strata": strata}
    for name, values in given.items():
        if values is not None and len(values) != material.num_prompts:  # pyright: ignore[reportArgumentType]
            size = len(values)  # pyright: ignore[reportArgumentType]
            cure = "give one per prompt, in the order of the pool"
            if material.chosen_by is None and size > material.num_prompts:  # a History does not know its pool
                cure += f", or num_prompts={size} if the last prompts were never visited"
            raise ValueError(f"{name} has {size} entries for a pool of {material.num_prompts} prompts; {cure}")
    if texts is not None:
        material = material._replace(texts=list(texts))  # a column of pandas is read by label, not by position
    if vectors is not None:
        material = material._replace(embeddings=vectors)
    if strata is not None:
        material = material._replace(strata=[str(label) for label in strata])
    return material


def _vectors(embeddings: ArrayLike) -> Float[np.ndarray, "N d"]:
    with np.errstate(over="ignore"):  # an overflow is infinite, and refused
        vectors = _validate.on_host("embeddings", embeddings, np.float32, "give one vector per prompt")
    if vectors.ndim != 2 or not vectors.shape[1]:
        raise ValueError(
            f"embeddings has shape {vectors.shape}; give one vector per prompt, of shape [N, d] with d > 0"
        )
    if not np.isfinite(vectors).all():
        row = int(np.argmin(np.isfinite(vectors).all(1)))
        raise ValueError(f"embeddings[{row}] is not finite in 32 bits; embed that prompt again")
    return vectors


def checked_size(history: History, num_prompts: int | None) -> int:
    """Return the size of the pool; None: just large enough for the history.

    Raises:
        ValueError: The pool is too small for the history.
    """
    needed = int(history.prompt_ids.max(initial=-1)) + 1
    if num_prompts is None:
        return max(needed, 1)
    _validate.positive_integer(num_prompts=num_prompts)
    if num_prompts < needed:
        raise ValueError(
            f"num_prompts is {num_prompts}, but the history visits prompt {needed - 1}; give at least {needed}"
        )
    return num_prompts
