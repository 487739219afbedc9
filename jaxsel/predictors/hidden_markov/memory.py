"""Steps of the hidden Markov model that move little memory, because memory traffic limits their speed.

The counts of transitions are kept as counts_0 + scale * excess. The decay of all counts then multiplies the one number
`scale`, and an update changes `excess` for visited prompts only. The state keeps the predicted belief beside the
filtered belief, so that a prediction of the pool is read from memory and not computed.

No value is computed as a difference, so small probabilities keep their relative precision. The posterior of a
transition is a ratio of small probabilities and needs this precision.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsel.base import Scalar

_SMALLEST_SCALE = 2.0**-20  # below it, `rescaled` makes the scale 1
_NOTHING = 2.0**-100  # replaces a scale of 0, because `excess` is divided by the scale


def rescaled(excess: Float[Array, "3 3 N"], scale: Float[Array, ""]) -> tuple[Float[Array, "3 3 N"], Float[Array, ""]]:
    """Return `excess` and `scale` with the same product. A scale that would soon underflow becomes 1.

    Call this function before `excess` is read: after a read, the compiler would copy `excess`.
    """
    return jax.lax.cond(
        scale < _SMALLEST_SCALE,
        lambda excess, scale: (excess * scale, jnp.ones_like(scale)),
        lambda excess, scale: (excess, scale),
        excess,
        scale,
    )


def decayed(scale: Float[Array, ""], decay: Scalar) -> Float[Array, ""]:
    """Return the scale after one step, above 0 even for a decay of 0."""
    return jnp.maximum(scale * decay, _NOTHING)


def written_over(
    old: Float[Array, "3 N"], new: Float[Array, "3 N"], *, after: Float[Array, "3 m"]
) -> Float[Array, "3 N"]:
    """Return `new`, in the buffer of `old`, once `after` has been read from `old`.

    The condition of `jnp.where` always holds, and makes the write wait for the read. Without it, the compiler copies
    the belief three times in every step, into memory that it requests from the system. At 1e7 prompts these copies take
    half of the time of a step.
    """
    return jnp.where(old >= after.min(initial=0) - 1, new, old)


def propagated(
    belief: Float[Array, "3 N"],
    excess: Float[Array, "3 3 N"],
    scale: Float[Array, ""],
    prior_counts: Float[Array, "3 3"],
) -> Float[Array, "3 N"]:
    """Return belief @ A, where A is the row-normalised counts; only the result is stored in memory."""
    rows = [[excess[i, j] for j in range(3)] for i in range(3)]
    prior = [[prior_counts[i, j] for j in range(3)] for i in range(3)]
    return jnp.stack([propagated_row(j, list(belief), rows, scale, prior) for j in range(3)])


def propagated_row(
    j: int,
    belief: list[Float[Array, " N"]],
    excess: list[list[Float[Array, " N"]]],
    scale: Float[Array, ""],
    prior_counts: list[list[Float[Array, ""]]],
) -> Float[Array, " N"]:
    """Return the probabilities of state j in belief @ A, from the rows of the arguments of `propagated`.

    Each row repeats the divisions: the compiler would store shared quotients in memory, which costs more.
    """
    first, second, third = (
        belief[i]
        * (prior_counts[i][j] + scale * excess[i][j])
        / (sum(prior_counts[i]) + scale * (excess[i][0] + excess[i][1] + excess[i][2]))
        for i in range(3)
    )
    return first + second + third
