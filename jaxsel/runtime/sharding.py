"""Meshes of devices, and selectors whose pool is spread over a mesh."""

from collections.abc import Sequence
from os import environ
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Key

from jaxsel import _validate
from jaxsel.base import Selector, State
from jaxsel.runtime.placement import AXIS
from jaxsel.runtime.sharded import Parts, sharded_functions


def initialize_distributed() -> None:
    """Join the processes of a job, so that each process sees the devices of all; without a job, do nothing.

    Call it once in every process, before any other use of JAX. A second call does nothing.

    SLURM's or Open MPI's variables show that a job has several processes. JAX then takes the number of each process
    from these variables and gives each process one device of its node. A job can also set JAX_COORDINATOR_ADDRESS
    ("host:port" of the first process), JAX_NUM_PROCESSES and JAX_PROCESS_ID. On other systems call
    `jax.distributed.initialize` yourself.

    Raises:
        RuntimeError: JAX has already computed something.
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
    """Return a mesh of these devices with the one axis `prompts`; None: all devices of all processes."""
    devices = jax.devices() if devices is None else devices
    is_list = isinstance(devices, Sequence | np.ndarray) and not isinstance(devices, str) and len(devices) > 0
    if not is_list or not all(isinstance(device, jax.Device) for device in devices):
        raise ValueError(f"devices is {devices!r:.200}; give a list of JAX devices, such as jax.devices()")
    return Mesh(np.asarray(devices), (AXIS,))


def shard(selector: Selector, mesh: Mesh, num_prompts: int) -> Selector:
    """Return the selector for a pool that lies on a mesh; its choices are the same, see `jaxsel.runtime.sharded`.

    The functions take and return the same arguments, except that the state is padded. Every process passes the same
    keys, ids and rollouts in full, and receives selections and predictions in full. A prediction of the whole pool
    (`prompt_ids` None) is copied to every device.

    Args:
        selector: Selector made by `make_selector`, with a predictor whose state has `partition_specs`, or a selector
            such as `exploring(...)` that transforms one.
        mesh: Mesh with the one axis `prompts`, see `prompts_mesh`.
        num_prompts: Size of the pool, which need not be a multiple of the number of devices.

    Raises:
        ValueError: The selector is not a composition or screens prompts, the state has no `partition_specs`, or the
            mesh has other axes.
    """
    _validate.made(Selector, selector=selector)
    if selector.transforms is not None:
        inner, again = selector.transforms
        return _whole_beside(again(shard(inner, mesh, num_prompts)), mesh)
    if selector.acquisition is None or selector.rule is None:
        whose = f"the selector {selector.spec.get('method', selector.spec)!r} cannot be spread over a mesh"
        if isinstance(acquisition := selector.spec.get("acquisition"), dict) and acquisition.get("name") == "paced":
            raise ValueError(f"{whose}; leave out mesh: the moving target needs the predictions of the whole pool")
        raise ValueError(
            f"{whose}: it has no acquisition and rule; leave out mesh, or give a selector of make_selector that is not "
            "sharded yet"
        )
    if "screened" in selector.spec:
        raise ValueError(f"the selector has screened={selector.spec['screened']}; leave out screened on a mesh")
    if not isinstance(mesh, Mesh) or mesh.axis_names != (AXIS,):
        found = f"has the axes {mesh.axis_names}" if isinstance(mesh, Mesh) else f"is {mesh!r:.200}"
        raise ValueError(f"mesh {found}; give one of prompts_mesh")
    rule = selector.rule
    parts = Parts(
        selector.init, selector.predict, selector.update, selector.acquisition.score, rule.choose, rule.shortlist
    )
    return selector._replace(**sharded_functions(parts, mesh, num_prompts), acquisition=None, rule=None)


def _whole_beside(selector: Selector, mesh: Mesh) -> Selector:
    """Return the selector with every array of its state on the mesh: copied to all devices if it is not there yet."""

    def place(leaf: Array) -> Array:
        is_there = _validate.traced(leaf) or isinstance(leaf.sharding, NamedSharding)
        return leaf if is_there else jax.device_put(leaf, NamedSharding(mesh, PartitionSpec()))

    def init(key: Key[Array, ""], size: int) -> State:
        return jax.tree.map(place, selector.init(key, size))

    # a sharded selector cannot be sharded again
    return selector._replace(init=init, transforms=None)
