"""A selector's functions for a pool on a mesh: every device holds some prompts, and only batches travel between them.

    predict, score, choose      on each device, among its own prompts
    all-gather                  the scores and prompt ids that each device chose, at most batch_size per device (for a
                                rule with a shortlist, at most the length of the shortlist)
    choose again                among the gathered prompts, identically on every device

The choices equal the choices of one device, whatever the mesh. A rule makes the same choice among the prompts chosen
from each part as among all prompts (see `Rule`). Random numbers depend on the prompt's id (see `PredictFn`). An
update needs no communication.

A state may be whole on every device, as with GPS's networks. Then every device makes the same update and predicts its
part of the pool. Compilations for different meshes round differently, and the training of the networks amplifies the
difference. With GPS, the choices therefore agree for only some tens of steps.

If the size of the pool is not a multiple of the number of devices, the arrays of the state end with rows of padding.
They are never chosen, and only the shapes of the state show them.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, Key

from jaxsel.base import ChooseFn, InitFn, PredictFn, Prediction, Rollouts, Selection, State, UpdateFn
from jaxsel.runtime.placement import AXIS, padded
from jaxsel.selection.composition import choose_positions, chosen_by_score, without
from jaxsel.selection.largest_scores import choose_top_k, scores_and_ids

_WHOLE = P()  # the same on every device
_MADE = "_jaxsel_sharded"


class Parts(NamedTuple):
    """The functions of a selector. They are the cache key of its sharded functions, which are thus compiled once."""

    init: InitFn
    predict: PredictFn
    update: UpdateFn
    score: Callable[[Prediction], Float[Array, " m"]]
    choose: ChooseFn
    shortlist: Callable[[Any], Any] | None


class _Layout(NamedTuple):
    """How a pool lies on a mesh.

    Attributes:
        mesh: Mesh with the one axis `prompts`.
        num_prompts: Size of the pool, without padding.
        rows: Number of prompts per device, with padding.
        specs: PartitionSpec of each array of the state.
        is_split: Whether any array of the state is split over the devices.
    """

    mesh: Mesh
    num_prompts: int
    rows: int
    specs: State
    is_split: bool

    def on_every_device(self, function: Callable[..., Any], key: Key[Array, ""], state: State, *rest: Any, out: Any):
        """Call the function on every device, with the device's part of the state and the whole of the rest."""
        in_specs = (_WHOLE, self.specs, *(_WHOLE for _ in rest))
        # check_vma: predictors and rules need not declare which of their values differ between devices
        mapped = jax.shard_map(function, mesh=self.mesh, in_specs=in_specs, out_specs=out, check_vma=False)
        return mapped(key, state, *rest)

    def first_row(self) -> Int[Array, ""]:
        """Return the row of the pool at which this device's part starts."""
        return jax.lax.axis_index(AXIS) * self.rows


def sharded_functions(parts: Parts, mesh: Mesh, num_prompts: int) -> dict[str, Any]:
    """Return `init`, `predict`, `select` and `update` of the selector for a pool on the mesh.

    Those of the last calls are an attribute of the selector's `init`, so that they are compiled once, and freed
    together with the embeddings that a selector may hold.
    """
    made = getattr(parts.init, _MADE, None)
    if made is None:
        made = functools.lru_cache(maxsize=8)(_functions)
        with contextlib.suppress(AttributeError):  # a bound method takes no attribute
            setattr(parts.init, _MADE, made)
    return made(parts, mesh, num_prompts)


def _functions(parts: Parts, mesh: Mesh, num_prompts: int) -> dict[str, Any]:
    layout = _layout(parts, mesh, num_prompts)

    def init(key: Key[Array, ""], size: int) -> State:
        if size != num_prompts:
            raise ValueError(f"num_prompts is {size} of a pool sharded as {num_prompts} prompts; give {num_prompts}")
        shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), layout.specs)
        return jax.jit(functools.partial(_padded_init, parts, layout), out_shardings=shardings)(key)

    def predict(
        key: Key[Array, ""], state: State, prompt_ids: Int[Array, " m"] | None, first_id: Int[Array, ""] | int = 0
    ) -> Prediction:
        if prompt_ids is not None:
            look_up = functools.partial(_look_up, parts, layout)
            return layout.on_every_device(look_up, key, state, prompt_ids, first_id, out=_WHOLE)
        predict_part = functools.partial(_predict_part, parts, layout)
        prediction = layout.on_every_device(predict_part, key, state, first_id, out=P(AXIS))
        return jax.tree.map(lambda field: field[:num_prompts], prediction)

    def select(
        key: Key[Array, ""],
        state: State,
        batch_size: int,
        candidates: Int[Array, " c"] | None = None,
        excluded: Bool[Array, " N"] | None = None,
        count: Int[Array, ""] | None = None,
    ) -> Selection:
        chosen = functools.partial(_select, parts, layout, batch_size)
        return layout.on_every_device(chosen, key, state, candidates, excluded, count, out=_WHOLE)

    def update(key: Key[Array, ""], state: State, rollouts: Rollouts) -> State:
        update_part = functools.partial(_update_part, parts, layout)
        return layout.on_every_device(update_part, key, state, rollouts, out=layout.specs)

    return {"init": init, "predict": predict, "select": select, "update": update}


def _layout(parts: Parts, mesh: Mesh, num_prompts: int) -> _Layout:
    state = jax.eval_shape(lambda: parts.init(jax.random.key(0), num_prompts))
    if not hasattr(state, "partition_specs"):
        raise ValueError(
            f"the state {type(state).__name__} has no partition_specs(), so it cannot be spread over a mesh; leave out "
            "mesh, or write partition_specs for a state of your own, see StateMethods"
        )
    specs = state.partition_specs()
    is_split = any(AXIS in tuple(spec) for spec in jax.tree.leaves(specs, is_leaf=lambda leaf: isinstance(leaf, P)))
    return _Layout(mesh, num_prompts, -(-num_prompts // mesh.size), specs, is_split)


def _padded_init(parts: Parts, layout: _Layout, key: Key[Array, ""]) -> State:
    state, length = parts.init(key, layout.num_prompts), layout.rows * layout.mesh.size
    return jax.tree.map(lambda leaf, spec: padded(leaf, spec, length), state, layout.specs)


def _look_up(
    parts: Parts,
    layout: _Layout,
    key: Key[Array, ""],
    state: State,
    prompt_ids: Int[Array, " m"],
    first_id: Int[Array, ""] | int = 0,
) -> Prediction:
    """Return, on every device, the predictions of the devices that hold the prompts."""
    if not layout.is_split:
        return parts.predict(key, state, prompt_ids, first_id)
    first_row = layout.first_row()
    row = prompt_ids - first_row
    is_here = (row >= 0) & (row < layout.rows)
    # Prompts of other devices read different rows here, not all row 0. Equal rows have equal draws, which would be
    # rejected all together, and rejected draws are drawn again for a few rows at a time.
    prediction = parts.predict(key, state, row % layout.rows, first_id + first_row)
    return jax.tree.map(lambda field: jax.lax.psum(jnp.where(is_here, field, 0), AXIS), prediction)


def _predict_part(
    parts: Parts, layout: _Layout, key: Key[Array, ""], state: State, first_id: Int[Array, ""] | int = 0
) -> Prediction:
    """Return the predictions of this device's prompts."""
    if layout.is_split:
        return parts.predict(key, state, None, first_id + layout.first_row())
    own = jnp.minimum(layout.first_row() + jnp.arange(layout.rows, dtype=jnp.int32), layout.num_prompts - 1)
    return parts.predict(key, state, own, first_id)


def _select(
    parts: Parts,
    layout: _Layout,
    batch_size: int,
    key: Key[Array, ""],
    state: State,
    candidates: Int[Array, " c"] | None,
    excluded: Bool[Array, " N"] | None,
    count: Int[Array, ""] | None,
) -> Selection:
    predict_key, rule_key = jax.random.split(key)
    if candidates is None:
        part = parts.score(_predict_part(parts, layout, predict_key, state))
        scores, ids = _finalists(parts, layout, batch_size, rule_key, state, part, excluded, count)
    else:
        scores = parts.score(_look_up(parts, layout, predict_key, state, candidates))
        ids = without(candidates, excluded)
    _, scores, ids = chosen_by_score(parts.choose, rule_key, scores, batch_size, ids, state, count)
    return Selection(ids, scores, _look_up(parts, layout, predict_key, state, ids))


def _finalists(
    parts: Parts,
    layout: _Layout,
    batch_size: int,
    key: Key[Array, ""],
    state: State,
    scores: Float[Array, " r"],
    excluded: Bool[Array, " N"] | None,
    count: Int[Array, ""] | None,
) -> tuple[Float[Array, " f"], Int[Array, " f"]]:
    """Return, on every device, the scores and ids of the prompts that each device chose; ids below 0 are padding."""
    ids = layout.first_row() + jnp.arange(layout.rows, dtype=jnp.int32)
    ids = without(jnp.where(ids < layout.num_prompts, ids, -1), excluded)
    shortlist = parts.shortlist
    if shortlist is None:
        at_most = None if count is None else jnp.minimum(count, layout.rows)
        chosen = choose_positions(parts.choose, key, scores, min(batch_size, layout.rows), ids, state, at_most)
    else:
        at_most = None if count is None else jnp.minimum(shortlist(count), layout.rows)
        chosen = choose_top_k(key, scores, min(shortlist(batch_size), layout.rows), ids, count=at_most)
    return jax.lax.all_gather(scores_and_ids(chosen, scores, ids), AXIS, tiled=True)


def _update_part(parts: Parts, layout: _Layout, key: Key[Array, ""], state: State, rollouts: Rollouts) -> State:
    """Update this device's part; the predictor ignores rows outside it."""
    if not layout.is_split:
        return parts.update(key, state, rollouts)
    ids = rollouts.prompt_ids
    row = jnp.where(ids < layout.num_prompts, ids - layout.first_row(), -1)
    return parts.update(key, state, rollouts._replace(prompt_ids=row))
