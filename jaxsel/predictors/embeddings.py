"""Checks, a fingerprint and standardised features for the embeddings of a pool.

All functions read one block of rows at a time, so the embeddings may be in a memory-mapped file.
"""

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from jaxsel import _validate

_ROWS = 2**14
_ROUNDING = 2 * np.finfo(np.float32).eps  # largest relative deviation of a column that varies through rounding alone


class Features(NamedTuple):
    """A map from embeddings to the inputs of the networks of `amortized`: direction and logarithm of the norm.

    Over the pool, each feature has mean 0 and variance 1. A feature that does not vary, up to rounding, is 0.

    Attributes:
        shift: The mean of each raw feature over the pool.
        scale: The reciprocal standard deviation of each raw feature, or 0 if the feature does not vary.
    """

    shift: Float[Array | np.ndarray, " f"]
    scale: Float[Array | np.ndarray, " f"]

    def __call__(self, embeddings: Float[Array, "*batch d"]) -> Float[Array, "*batch f"]:
        """Return the f = d + 1 features in float32, for embeddings of any floating-point type."""
        raw = _raw_features(embeddings)
        shift, scale = (jnp.broadcast_to(vector, raw.shape) for vector in self)
        return (raw - shift) * scale


def checked(embeddings: ArrayLike | Array) -> Float[np.ndarray | Array, "N d"]:
    """Return the embeddings as an array, on the device or in the file where they are.

    Numbers of 64 bits or more become float32. Numbers in the byte order of another machine get the order of this one.

    Raises:
        ValueError: The embeddings are not a matrix of floating-point numbers, or the norm of a row is not finite in
            float32.
    """
    _validate.unmasked("embeddings", embeddings, "embed these prompts again or drop them")
    try:
        array = embeddings if isinstance(embeddings, jax.Array | np.ndarray) else np.asarray(embeddings)
    except (TypeError, ValueError, RuntimeError) as error:  # for example a torch tensor on a GPU
        raise ValueError(
            f"embeddings is not an array on the host ({error}); give a matrix, or for a torch tensor "
            "embeddings.detach().float().cpu().numpy()"
        ) from error
    if jnp.issubdtype(array.dtype, np.floating) and (array.dtype.itemsize > 4 or not array.dtype.isnative):
        narrow = np.float32 if array.dtype.itemsize > 4 else array.dtype.newbyteorder("=")
        with np.errstate(over="ignore"):
            array = array.astype(narrow)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"embeddings has shape {array.shape}; give a matrix, one row per prompt")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"embeddings is of type {array.dtype}; give float16, bfloat16 or float32")
    first = 0
    for block in blocks(array):
        with np.errstate(over="ignore"):
            finite = np.isfinite((block.astype(np.float32) ** 2).sum(1))
        if not finite.all():
            row = first + int(np.argmin(finite))
            raise ValueError(
                f"embeddings[{row}] has a norm that is not finite in float32; embed that prompt again or drop it"
            )
        first += len(block)
    return array


def on_device(embeddings: Float[np.ndarray | Array, "N d"], made_with: int | None) -> Float[Array, "N d"]:
    """Return the embeddings as a JAX array. On a CPU, a read-only memory-mapped file is read in place.

    An array that can still be written is copied, so that later writes do not change a state.

    Args:
        embeddings: The embeddings.
        made_with: Their checksum when the method was made.

    Raises:
        ValueError: The embeddings were changed since then.
    """
    if _is_read_only_file(embeddings):
        return jax.device_put(embeddings, may_alias=True)
    if checksum(embeddings) != made_with:
        raise ValueError(
            "embeddings were changed after the method was made, so that it is another method now; make the method "
            "again, or give it a copy of the array"
        )
    return jnp.array(embeddings)


def _is_read_only_file(embeddings: Float[np.ndarray | Array, "N d"]) -> bool:
    return isinstance(embeddings, np.memmap) and not embeddings.flags.writeable


def checksum(embeddings: Float[np.ndarray | Array, "N d"]) -> int | None:
    """Return a checksum of numbers that their owner can change, quicker than the fingerprint; None for all others."""
    if isinstance(embeddings, jax.Array) or _is_read_only_file(embeddings):
        return None
    found = 0
    for block in blocks(embeddings):
        found = zlib.crc32(block.tobytes(), found)
    return found


def fingerprint(embeddings: Float[np.ndarray | Array, "N d"]) -> str:
    """Return a hash of the numbers, their type and their shape."""
    digest = hashlib.sha256(f"{embeddings.dtype} {embeddings.shape}".encode())
    for block in blocks(embeddings):
        digest.update(block.tobytes())
    return f"sha256:{digest.hexdigest()[:16]}"


def features(embeddings: Float[np.ndarray | Array, "N d"]) -> Features:
    """Return the map to the features, with the mean and deviation of each feature over the pool."""
    shift, scale = standardisation(_raw_features(block) for block in blocks(embeddings))
    if scale[-1] >= 1e3:  # the log norm has a variance of at most 1e-6, as unit vectors have through rounding
        scale[-1] = 0
    return Features(shift, scale)


def standardisation(
    matrices: Iterable[Float[np.ndarray | Array, "m f"]],
) -> tuple[Float[np.ndarray, " f"], Float[np.ndarray, " f"]]:
    """Return the mean of each column over all matrices, and its reciprocal standard deviation.

    The reciprocal is 0 for a column that does not vary, up to the rounding of float32.
    """
    count, mean, squares = 0, np.float64(0), np.float64(0)  # of the deviations from the mean
    for matrix in matrices:
        rows = np.asarray(matrix, np.float64)
        share, change = len(rows) / (count + len(rows)), rows.mean(0) - mean
        squares = squares + ((rows - rows.mean(0)) ** 2).sum(0) + count * share * change**2
        count, mean = count + len(rows), mean + share * change
    variance = squares / count
    varies = variance > (_ROUNDING * mean) ** 2 + 1e-20
    scale = np.where(varies, 1 / np.sqrt(np.where(varies, variance, 1)), 0)
    return np.asarray(mean, np.float32), np.asarray(scale, np.float32)


def _raw_features(embeddings: Float[np.ndarray | Array, "*batch d"]) -> Float[Array, "*batch f"]:
    vectors = jnp.asarray(embeddings, jnp.float32)
    length = jnp.maximum(jnp.sqrt((vectors * vectors).sum(-1, keepdims=True)), 1e-6)
    return jnp.concatenate([vectors / length, jnp.log(length)], -1)


def blocks(embeddings: Float[np.ndarray | Array, "N d"]) -> Iterator[np.ndarray]:
    """Yield the embeddings on the host, one block of rows at a time."""
    for start in range(0, len(embeddings), _ROWS):
        yield np.asarray(embeddings[start : start + _ROWS])
