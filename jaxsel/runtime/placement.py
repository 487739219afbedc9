"""Pads arrays of a pool for a mesh of devices, and copies them to the host and back to the devices.

On a mesh the length of an array along the axis `prompts` is the next multiple of the number of devices. Entries after
the pool's last prompt are padding, and never reach the host.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, Shaped

AXIS = "prompts"


def padded(array: Shaped[Array, "..."], spec: P, length: int) -> Shaped[Array, "..."]:
    """Return the array, padded with zeros to `length` along the axis that `spec` splits."""
    axes = tuple(spec)
    if AXIS not in axes:
        return array
    at = axes.index(AXIS)
    return jnp.pad(array, [(0, length - size if axis == at else 0) for axis, size in enumerate(array.shape)])


def shape_of_pool(array: Shaped[Array | np.ndarray, "..."], num_prompts: int) -> tuple[int, ...]:
    """Return the shape without the padding along the axis of the prompts."""
    axes = _axes(array)
    at = axes.index(AXIS) if AXIS in axes else None
    return tuple(num_prompts if axis == at else size for axis, size in enumerate(array.shape))


def to_host(array: Shaped[Array | np.ndarray, "..."], num_prompts: int) -> Shaped[np.ndarray, "..."]:
    """Return a copy on the host, without padding.

    All processes of a mesh call this together, and each gets the whole array. The devices send their parts one after
    the other, so that no device holds the whole array.
    """
    pool = tuple(map(slice, shape_of_pool(array, num_prompts)))
    if isinstance(array, np.ndarray) or array.is_fully_addressable or array.is_fully_replicated:
        return np.array(np.asarray(array)[pool])
    mesh, axes = array.sharding.mesh, _axes(array)  # pyright: ignore[reportAttributeAccessIssue]
    parts = [np.asarray(_part_everywhere(mesh, axes, array, np.int32(part))) for part in range(mesh.size)]
    return np.concatenate(parts, axes.index(AXIS))[pool]


def to_devices(array: Shaped[np.ndarray, "..."], like: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """Return a copy with the shape and placement of `like`, padded with zeros. Every device gets its own part only."""
    if not _axes(like) and like.is_fully_addressable:
        # jnp.array would compile a program per shape
        return jax.device_put(np.asarray(array, like.dtype), may_alias=False)
    whole = np.zeros(like.shape, like.dtype)
    whole[tuple(map(slice, array.shape))] = array
    return jax.make_array_from_callback(like.shape, like.sharding, lambda part: np.asarray(whole[part]))


def _axes(array: Shaped[Array | np.ndarray, "..."]) -> tuple[str | None, ...]:
    """Return the mesh axis that each array axis is split on; nothing for an array on one device or on the host."""
    return tuple(getattr(getattr(array, "sharding", None), "spec", ()))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _part_everywhere(
    mesh: Mesh, axes: tuple[str | None, ...], array: Shaped[Array, "..."], part: Int[Array, ""] | np.int32
) -> Shaped[Array, "..."]:
    """Copy one device's part of the array to all devices."""

    def send(local: Shaped[Array, "..."], part: Int[Array, ""] | np.int32) -> Shaped[Array, "..."]:
        return jax.lax.psum(jnp.where(jax.lax.axis_index(AXIS) == part, local, 0), AXIS)

    return jax.shard_map(send, mesh=mesh, in_specs=(P(*axes), P()), out_specs=P(), check_vma=False)(array, part)
