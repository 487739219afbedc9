"""The step's pass over the pool as one kernel for CUDA GPUs, written in Pallas and compiled by Triton.

XLA writes two beliefs in two loops, and reads all transition counts for every row of the second belief. The kernel
reads each number once: 12 numbers per prompt in, 6 out. Both beliefs are written in place.

Pallas is imported when the kernel is used, because this import takes 0.08 s, a third of the import of jaxsel.
"""

import importlib.util

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsel.numerics import devices
from jaxsel.predictors.hidden_markov.memory import propagated_row

_BLOCK = 1024  # prompts per program of the grid
_OLDEST = 8.0  # the compute capability from which on Triton is supported
_Belief = Float[Array, "3 N"]


def is_available(num_prompts: int) -> bool:
    """Return whether the kernel can run here. Positions in the counts, nine per prompt, must fit 32-bit integers."""
    return not devices.for_a_cpu() and 9 * (num_prompts + _BLOCK) < 2**31 and _supported()


def _supported() -> bool:
    is_new_enough = float(getattr(jax.devices()[0], "compute_capability", 0)) >= _OLDEST
    # an experimental module, which a later JAX may move
    return is_new_enough and importlib.util.find_spec("jax.experimental.pallas.triton") is not None


def moved_on(
    old: _Belief,
    new: _Belief,
    excess: Float[Array, "3 3 N"],
    scale: Float[Array, ""],
    prior_counts: Float[Array, "3 3"],
    *,
    after: Float[Array, "3 m"],
    interpret: bool = False,
) -> tuple[_Belief, _Belief]:
    """Return `new` in the buffer of `old`, and new @ A in the buffer of `new`.

    Args:
        old: The belief to overwrite, whose values are not read.
        new: The belief before the step.
        excess: See `HMMState`.
        scale: See `HMMState`.
        prior_counts: See `HMMState`.
        after: What was read from `old`. It does not affect the result; with it, the kernel waits for this read.
        interpret: Run the kernel without a GPU, slowly, for tests.
    """
    from jax.experimental import pallas
    from jax.experimental.pallas import triton

    size = new.shape[1]
    numbers = jnp.concatenate([prior_counts.ravel(), jnp.stack([scale, after.min(initial=0)])])
    numbers = jnp.pad(numbers.astype(jnp.float32), (0, 16 - len(numbers)))  # Triton wants a power of two

    def kernel(_, new_ref, excess_ref, numbers_ref, filtered_ref, predicted_ref) -> None:
        start = pallas.program_id(0) * _BLOCK
        inside = start + jnp.arange(_BLOCK) < size

        def row_of(reference, row: int) -> Float[Array, " block"]:
            return triton.load(reference.at[pallas.ds(row * size + start, _BLOCK)], mask=inside, other=1.0)

        def write(reference, row: int, value: Float[Array, " block"]) -> None:
            triton.store(reference.at[pallas.ds(row * size + start, _BLOCK)], value, mask=inside)

        prior = [[numbers_ref[3 * i + j] for j in range(3)] for i in range(3)]
        belief = [row_of(new_ref, i) for i in range(3)]
        counts = [[row_of(excess_ref, 3 * i + j) for j in range(3)] for i in range(3)]
        for j in range(3):
            write(filtered_ref, j, belief[j])
            write(predicted_ref, j, propagated_row(j, belief, counts, numbers_ref[9], prior))

    flat = jax.ShapeDtypeStruct((3 * size,), jnp.float32)
    filtered, predicted = pallas.pallas_call(
        kernel,
        out_shape=(flat, flat),
        grid=(pallas.cdiv(size, _BLOCK),),
        input_output_aliases={0: 0, 1: 1},
        compiler_params=triton.CompilerParams(num_warps=4),
        interpret=interpret,
    )(old.ravel(), new.ravel(), excess.ravel(), numbers)
    return filtered.reshape(3, size), predicted.reshape(3, size)
