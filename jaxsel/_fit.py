"""How well the networks of the amortised predictor fit, in a file that does not import Flax."""

from typing import NamedTuple

from jaxtyping import Array, Float


class Fit(NamedTuple):
    """How the last gradient step of an update went, in nats per prompt; 0 before the first.

    Attributes:
        elbo: reconstruction - kl.
        reconstruction: E_q[log p(s | z)].
        kl: KL(q || p_eta).
        gradient_norm: before it is clipped.
    """

    elbo: Float[Array, ""]
    reconstruction: Float[Array, ""]
    kl: Float[Array, ""]
    gradient_norm: Float[Array, ""]
