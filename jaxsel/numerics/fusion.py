"""What XLA's CPU backend must not merge into later operations.

XLA computes a value again in each operation that uses it, unless this looks expensive. It then stores the divisions and
roots before it, one array each, or puts exponentials into the loop of a sum, where they are computed one by one.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from jaxsel.numerics import devices


def computed_once(values: Shaped[Array, "*shape"]) -> Shaped[Array, "*shape"]:
    """Return the values as numbers in memory, which are the same numbers for every use.

    Otherwise XLA may compute them again for every use, and round in another way: with a fused multiply-add here and
    without it there. A value can then lie below a threshold that is the value itself. `optimization_barrier` does not
    prevent this, because XLA's CPU backend removes it before it merges operations. A loop does, because XLA does not
    know that it runs no iterations.
    """
    if not values.size:
        return values

    def never(same: Shaped[Array, "*shape"]) -> Bool[Array, ""]:
        first = same.reshape(-1)[0].real
        return jnp.isnan(first) & (first > 0)

    return jax.lax.while_loop(never, lambda same: -same, values)


def stored_on_a_cpu(values: Shaped[Array, "*shape"]) -> Shaped[Array, "*shape"]:
    """Return the values, which XLA's CPU backend computes once and with vector instructions.

    On a GPU, where a loop makes the host wait, nothing happens.
    """
    return computed_once(values) if devices.for_a_cpu() else values


def stored_together_on_a_cpu(
    first: Float[Array, "*shape"], second: Float[Array, "*shape"]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Return both arrays, which XLA's CPU backend computes in one loop, with what they share.

    A loop of this backend has one result, so it has complex numbers as its result.
    """
    if not devices.for_a_cpu():
        return first, second
    both = computed_once(jax.lax.complex(first, second))
    return both.real, both.imag
