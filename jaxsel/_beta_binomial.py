"""A count of successes whose rate is a Beta variable."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def solve_state_probabilities(
    alpha: Float[Array, "*shape"], beta: Float[Array, "*shape"], group_size: int
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"], Float[Array, "*shape"]]:
    r"""P(s = 0), P(0 < s < n) and P(s = n) of a Beta-Binomial count.

    P(s = n) = B(a + n, b) / B(a, b), the product over k < n of (a + k) / (a + b + k), which keeps its precision
    where the difference of log-gammas does not. The mixed probability is MaPP's (arXiv 2609.34990).
    """
    total = alpha + beta

    def product(shape: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        result = jnp.ones_like(total)
        for k in range(group_size):
            result = result * (shape + k) / (total + k)
        return result

    solved = product(alpha)
    unsolved = product(beta) if group_size > 1 else 1 - solved
    return unsolved, jnp.maximum(1 - unsolved - solved, 0), solved
