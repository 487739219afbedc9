"""The pool on a mesh of devices: every device holds some of the prompts, and only batches travel between them.

    predict, score, choose      on each device, of its own prompts
    all-gather                  of what each chose: scores and prompt ids, at most batch_size a device
    choose again                among those, the same on every device

A rule chooses the same again among what was chosen of each part, and what is random depends on the prompt's id (see
`Rule` and `PredictFn`): the choices are those of one device, whatever the mesh. An update needs no communication. A
state that is whole everywhere (GPS's networks) is updated alike on every device, which predicts its part of the pool;
other compilations round otherwise, and as training amplifies that, GPS's choices agree for some tens of steps only.

Where the mesh does not divide the pool, the state ends in rows of no prompt. They are never chosen, and only the shapes
of the state show them.
"""

import functools
from collections.abc import Callable, Sequence
from os import environ
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, Key

from jaxsel import _validate
from jaxsel.base import ChooseFn, InitFn, PredictFn, Prediction, Rollouts, Selection, Selector, State, UpdateFn
from jaxsel.runtime.placement import AXIS, padded
from jaxsel.selection.rules import best, choose_positions, chosen_by_score, looked_up, without

_WHOLE = P()  # the same on every device


def initialize_distributed() -> None:
    """Joins the processes of a job into one, each of which then sees the devices of all; alone it does nothing.

    Call it once in every process before anything else of JAX; a second call does nothing. A job of several processes
    is known by SLURM's or Open MPI's variables, from which JAX takes who is who and gives each process one device
    of its node; or by JAX_COORDINATOR_ADDRESS ("host:port" of the first process) with JAX_NUM_PROCESSES and
    JAX_PROCESS_ID. Elsewhere call `jax.distributed.initialize` yourself.

    Raises:
        RuntimeError: JAX has computed something already.
    """
    slurm_tasks = environ.get("SLURM_NTASKS", "1") if "SLURM_STEP_NODELIST" in environ else "1"
    tasks = max(int(slurm_tasks), int(environ.get("OMPI_COMM_WORLD_SIZE", "1")))
    if jax.distributed.is_initialized() or (tasks == 1 and "JAX_COORDINATOR_ADDRESS" not in environ):
        return
    num_processes, process_id = (environ.get(name) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
    jax.distributed.initialize(
        num_processes=None if num_processes is None else int(num_processes),
        process_id=None if process_id is None else int(process_id),
    )


def prompts_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the one axis `prompts`, of these devices; None: of all, those of other processes included."""
    return Mesh(np.asarray(jax.devices() if devices is None else devices), (AXIS,))


def shard(selector: Selector, mesh: Mesh, num_prompts: int) -> Selector:
    """The selector for a pool that lies on a mesh; its choices are the same.

    The functions take and return what they did, except that the state is padded. Keys, ids and rollouts are given
    whole, the same in every process, and selections and predictions come back so. To predict the whole pool at once
    (None) brings it onto every device.

    Args:
        selector: made by `make_selector`, of a predictor whose state has `partition_specs`.
        mesh: with the one axis `prompts`, see `prompts_mesh`.
        num_prompts: the size of the pool, any.

    Raises:
        ValueError: a selector that is no composition, a state without `partition_specs`, or another mesh.
    """
    _validate.made(Selector, selector=selector)
    if selector.acquisition is None or selector.rule is None:
        raise ValueError(f"{selector.spec} has no acquisition and rule; give a selector of make_selector, not sharded")
    if mesh.axis_names != (AXIS,):
        raise ValueError(f"mesh has the axes {mesh.axis_names}; give one of prompts_mesh")
    rule = selector.rule
    parts = _Parts(
        selector.init, selector.predict, selector.update, selector.acquisition.score, rule.choose, rule.shortlist
    )
    return selector._replace(**_sharded(parts, mesh, num_prompts), acquisition=None, rule=None)


class _Parts(NamedTuple):
    """What a selector is made of: functions, so that the same selector is sharded and compiled only once."""

    init: InitFn
    predict: PredictFn
    update: UpdateFn
    score: Callable[[Prediction], Float[Array, " m"]]
    choose: ChooseFn
    shortlist: Callable[[int], int] | None


@functools.lru_cache(maxsize=64)
def _sharded(parts: _Parts, mesh: Mesh, num_prompts: int) -> dict[str, Any]:
    init, predict, update, score, choose, shortlist = parts
    specs = _partition_specs(jax.eval_shape(lambda: init(jax.random.key(0), num_prompts)))
    rows = -(-num_prompts // mesh.size)  # a device
    is_split = any(AXIS in tuple(spec) for spec in jax.tree.leaves(specs, is_leaf=lambda leaf: isinstance(leaf, P)))

    def on_mesh(function: Callable[..., Any], key: Key[Array, ""], state: State, *rest: Any, out: Any = _WHOLE) -> Any:
        """Calls the function on every device, with its part of the state and the whole of the rest."""
        in_specs = (_WHOLE, specs, *(_WHOLE for _ in rest))
        # check_vma: predictors and rules are anybody's, and need not say which of their values differ between devices
        mapped = jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out, check_vma=False)
        return mapped(key, state, *rest)

    def first_row() -> Int[Array, ""]:
        return jax.lax.axis_index(AXIS) * rows

    def look_up(key, state, prompt_ids, first_id=0):
        """On every device what the one that has the prompt predicts of it."""
        if not is_split:
            return predict(key, state, prompt_ids, first_id)
        row = prompt_ids - first_row()
        is_here = (row >= 0) & (row < rows)
        # % rows, not 0: equal rows have equal draws, and what is rejected is drawn again a few rows at a time
        prediction = predict(key, state, row % rows, first_id + first_row())
        return jax.tree.map(lambda field: jax.lax.psum(jnp.where(is_here, field, 0), AXIS), prediction)

    def predict_part(key, state, first_id=0):
        if not is_split:
            return predict(key, state, jnp.minimum(first_row() + jnp.arange(rows), num_prompts - 1), first_id)
        return predict(key, state, None, first_id + first_row())

    def contenders(predict_key, rule_key, state, excluded, count, batch_size):
        """On every device the scores and ids of the best of each; ids below 0 are no prompts."""
        scores = score(predict_part(predict_key, state))
        ids = first_row() + jnp.arange(rows, dtype=jnp.int32)
        ids = without(jnp.where(ids < num_prompts, ids, -1), excluded)
        if shortlist is None:
            at_most = None if count is None else jnp.minimum(count, rows)
            chosen = choose_positions(choose, rule_key, scores, min(batch_size, rows), ids, state, at_most)
        else:
            at_most = None if count is None else jnp.minimum(shortlist(count), rows)
            chosen = best(rule_key, scores, min(shortlist(batch_size), rows), ids, count=at_most)
        return jax.lax.all_gather(looked_up(chosen, scores, ids), AXIS, tiled=True)

    def select_everywhere(key, state, candidates, excluded, count, batch_size):
        predict_key, rule_key = jax.random.split(key)
        if candidates is None:
            scores, ids = contenders(predict_key, rule_key, state, excluded, count, batch_size)
        else:
            scores, ids = score(look_up(predict_key, state, candidates)), without(candidates, excluded)
        scores, ids = chosen_by_score(choose, rule_key, scores, batch_size, ids, state, count)
        return Selection(ids, scores, look_up(predict_key, state, ids))

    def update_part(key, state, rollouts):
        if not is_split:
            return update(key, state, rollouts)
        ids = rollouts.prompt_ids
        row = jnp.where(ids < num_prompts, ids - first_row(), -1)
        return update(key, state, rollouts._replace(prompt_ids=row))  # ignores the rows of others

    def sharded_init(key: Key[Array, ""], size: int) -> State:
        if size != num_prompts:
            raise ValueError(f"num_prompts is {size} of a pool sharded as {num_prompts} prompts; give the same")

        def padded_init(key):
            return jax.tree.map(lambda leaf, spec: padded(leaf, spec, rows * mesh.size), init(key, size), specs)

        return jax.jit(padded_init, out_shardings=jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs))(key)

    def sharded_predict(
        key: Key[Array, ""],
        state: State,
        prompt_ids: Int[Array, " m"] | None,
        first_id: Int[Array, ""] | int = 0,
    ) -> Prediction:
        if prompt_ids is not None:
            return on_mesh(look_up, key, state, prompt_ids, first_id)
        prediction = on_mesh(predict_part, key, state, first_id, out=P(AXIS))
        return jax.tree.map(lambda field: field[:num_prompts], prediction)

    def sharded_select(
        key: Key[Array, ""],
        state: State,
        batch_size: int,
        candidates: Int[Array, " c"] | None = None,
        excluded: Bool[Array, " N"] | None = None,
        count: Int[Array, ""] | None = None,
    ) -> Selection:
        everywhere = functools.partial(select_everywhere, batch_size=batch_size)
        return on_mesh(everywhere, key, state, candidates, excluded, count)

    def sharded_update(key: Key[Array, ""], state: State, rollouts: Rollouts) -> State:
        return on_mesh(update_part, key, state, rollouts, out=specs)

    return {"init": sharded_init, "predict": sharded_predict, "select": sharded_select, "update": sharded_update}


def _partition_specs(state: State) -> Any:
    if not hasattr(state, "partition_specs"):
        raise ValueError(f"{type(state).__name__} has no partition_specs(); write one, as that of BetaState")
    return state.partition_specs()
