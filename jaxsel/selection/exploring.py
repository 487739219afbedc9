"""The selector `exploring`: a part of every batch for the prompts that waited longest for a visit.

`exploring` transforms a selector and not a rule, because a rule has no state and not every predictor remembers the last
visits. It stores the steps of the last visits beside the state of the given (inner) selector, and so works with every
predictor.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jaxsel import _validate
from jaxsel._inner import inner_constants, inner_embedded, predict_inner
from jaxsel._rows import moved, on_changed_pool
from jaxsel._shared import shared
from jaxsel.base import Rollouts, Selection, Selector, State, call_optional
from jaxsel.numerics.compaction import count_true
from jaxsel.selection.composition import takes_count, without
from jaxsel.selection.largest_scores import choose_top_k, ids_or_positions, scores_and_ids


class ExploringState(NamedTuple):
    """The state of the inner selector, and the last visit of every prompt.

    Attributes:
        inner: State of the inner selector.
        last_visit: Step of the last visit, counted from 0. Before the first visit, the step before the prompt joined
            the pool: -1 at the start.
        step: Number of steps so far.
    """

    inner: State
    last_visit: Int[Array, " N"]
    step: Int[Array, ""]

    constants = inner_constants
    embedded = inner_embedded

    def with_rows(self, rows: Int[np.ndarray, " N"], fresh: "ExploringState") -> "ExploringState":
        """Return the state for a changed pool, see `StateMethods.with_rows`. New prompts wait from now on."""
        inner = on_changed_pool(self.inner, rows, fresh.inner)
        arrived = fresh.last_visit + self.step  # the step before the next one
        return ExploringState(inner, moved(self.last_visit, arrived, rows), self.step)

    def metrics(self) -> dict[str, Any]:
        """Return the metrics of the inner state, and `longest_wait`, the longest current wait of a prompt in steps."""
        return call_optional(self.inner, "metrics", {}) | {"longest_wait": self.step - 1 - self.last_visit.min()}


def exploring(selector: Selector, *, share: float = 0.1, after: int | None = None) -> Selector:
    """Return the selector with a part of every batch for the prompts that waited longest for a visit.

    A prompt without a visit has waited since it joined the pool, so at the start the unvisited prompts come first.
    Among equal waits the choice is random. The inner selector chooses the other prompts.

    With `after`, every wait is bounded: in a pool of N prompts it is at most after + N / batch_size steps, if every
    chosen prompt is observed. If `after` is below N / batch_size, most prompts are chosen for their wait and few for
    their scores.

    A prompt whose rollouts never get a reward (a group size of 0) stays unvisited. Exclude such prompts, or they are
    chosen again and again.

    Args:
        selector: Selector of `make_selector`, for example `jaxsel.adaptive()`.
        share: Smallest part of each batch for the longest waits, from 0 to 1, rounded up to whole prompts. A batch of
            one prompt thus depends on waits alone.
        after: Number of steps without a visit after which a prompt is chosen whatever its score. Such prompts may fill
            the batch. None: only `share` limits the waits.

    Raises:
        ValueError: An argument is out of its range, or the selector's `select` has no arguments `excluded` and `count`.
    """
    _check(selector, share, after)

    def init(key: Key[Array, ""], num_prompts: int) -> ExploringState:
        return ExploringState(selector.init(key, num_prompts), jnp.full(num_prompts, -1, jnp.int32), jnp.int32(0))

    share, after = float(share), None if after is None else int(after)
    predict, select, update = _functions(selector.predict, selector.select, selector.update, share, after)
    rule = {"name": "exploring", "rule": selector.spec.get("rule"), "share": share, "after": after}
    again = functools.partial(exploring, share=share, after=after)
    return Selector(selector.spec | {"rule": rule}, init, predict, select, update, transforms=(selector, again))


@shared
def _functions(
    inner_predict: Callable[..., Any],
    inner_select: Callable[..., Any],
    inner_update: Callable[..., Any],
    share: float,
    after: int | None,
) -> tuple[Callable[..., Any], ...]:
    """Return the `predict`, `select` and `update` of an exploring selector, given those of its inner selector."""

    def select(
        key: Key[Array, ""],
        state: ExploringState,
        batch_size: int,
        candidates: Int[Array, " c"] | None = None,
        excluded: Bool[Array, " N"] | None = None,
        count: Int[Array, ""] | None = None,
    ) -> Selection:
        wait_key, select_key = jax.random.split(key)
        wanted = jnp.int32(batch_size) if count is None else count
        ids, number = _longest_waits(wait_key, state, batch_size, without(candidates, excluded), wanted, share, after)
        taken = _with_rows(excluded, ids, len(state.last_visit))
        # both calls use one key, so that a prompt has the same draw in both; a rule chooses at least 1 prompt
        choose: Any = functools.partial(inner_select, select_key, state.inner, batch_size)
        longest = choose(ids, None, jnp.maximum(number, 1))
        others = choose(candidates, taken, jnp.maximum(wanted - number, 1))
        return _together(longest, number, others, wanted - number)

    def update(key: Key[Array, ""], state: ExploringState, rollouts: Rollouts) -> ExploringState:
        inner, last_visit = inner_update(key, state.inner, rollouts), _last_visit(state, rollouts)
        return ExploringState(inner, last_visit, state.step + 1)

    return predict_inner(inner_predict), select, update


def _check(selector: Selector, share: float, after: int | None) -> None:
    _validate.made(Selector, selector=selector)
    _validate.unit_interval(share=share)
    if after is not None:
        _validate.positive_integer(after=after)
    if not share and after is None:
        raise ValueError("share is 0 and after is None; give a share above 0, or give after")
    if "excluded" not in inspect.signature(selector.select).parameters or not takes_count(selector):
        raise ValueError(f"selector {selector.spec} cannot exclude and count prompts; give a selector of make_selector")


def _last_visit(state: ExploringState, rollouts: Rollouts) -> Int[Array, " N"]:
    num_prompts, ids = len(state.last_visit), rollouts.prompt_ids
    is_visit = (ids >= 0) & (ids < num_prompts) & (rollouts.group_size > 0)
    return state.last_visit.at[jnp.where(is_visit, ids, num_prompts)].set(state.step, mode="drop")


def _with_rows(mask: Bool[Array, " N"] | None, ids: Int[Array, " b"], num_prompts: int) -> Bool[Array, " N"]:
    """Return the mask of the pool with these ids set to True as well; ids below 0 are padding."""
    mask = jnp.zeros(num_prompts, bool) if mask is None else mask
    return mask.at[jnp.where(ids < 0, num_prompts, ids)].set(True, mode="drop")


def _longest_waits(
    key: Key[Array, ""],
    state: ExploringState,
    batch_size: int,
    prompt_ids: Int[Array, " m"] | None,
    wanted: Int[Array, ""],
    share: float,
    after: int | None,
) -> tuple[Int[Array, " b"], Int[Array, ""]]:
    """Return the ids of the prompts that are chosen for their wait, padded with -1, and the number of these prompts."""
    last_visit = state.last_visit if prompt_ids is None else state.last_visit[jnp.maximum(prompt_ids, 0)]
    wait = (state.step - last_visit).astype(jnp.float32)  # 1 for a prompt of the last step
    # a little less, because float32 may round a product such as 0.1 * 70 up, and `ceil` would add a prompt
    number = jnp.ceil((1 - 1e-6) * share * wanted.astype(jnp.float32)).astype(jnp.int32)
    if share:
        number = jnp.maximum(number, jnp.minimum(wanted, 1))
    if after is not None:
        is_overdue = (wait > after) & (ids_or_positions(prompt_ids, wait) >= 0)
        number = jnp.minimum(jnp.maximum(number, count_true(is_overdue).astype(jnp.int32)), wanted)
    positions = choose_top_k(key, wait, batch_size, prompt_ids, count=jnp.maximum(number, 1))
    return jnp.where(number > 0, scores_and_ids(positions, wait, prompt_ids)[1], -1), number


def _together(first: Selection, num_first: Int[Array, ""], second: Selection, num_second: Int[Array, ""]) -> Selection:
    """Return one selection of the first rows of both selections, best score first and padded with the id -1."""
    batch_size = len(first.prompt_ids)
    place = jnp.arange(batch_size, dtype=jnp.int32)
    is_padding = jnp.concatenate([place >= num_first, place >= num_second])
    ids, scores, prediction = jax.tree.map(lambda *columns: jnp.concatenate(columns), first, second)
    order = jnp.lexsort((_descending(scores), is_padding.astype(jnp.int32)))[:batch_size]
    ids, scores = jnp.where(is_padding, -1, ids), jnp.where(is_padding, -jnp.inf, scores)
    return Selection(ids[order], scores[order], jax.tree.map(lambda field: field[order], prediction))


def _descending(scores: Float[Array, " m"]) -> Float[Array, " m"]:
    """Return numbers whose ascending order is the descending order of the scores, NaN last."""
    return jnp.where(jnp.isnan(scores), jnp.inf, -scores)
