"""The minimum of a function of few numbers, and the covariance there. All derivatives use forward mode."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_SLOPE = 1e-4  # gradient norm at convergence; in float32, rounding errors hide smaller gradients


def _forwards(function: Callable[[Float[Array, " k"]], Float[Array, ""]]) -> Callable[..., Float[Array, ""]]:
    """Return the same function, for which `jax.grad` computes the gradient in forward mode."""
    derived = jax.custom_vjp(function)

    @jax.jit
    def ahead(x: Float[Array, " k"]) -> tuple[Float[Array, ""], Float[Array, " k"]]:
        gradient, value = jax.jacfwd(lambda x: (function(x),) * 2, has_aux=True)(x)
        return value, gradient

    derived.defvjp(ahead, lambda gradient, cotangent: (cotangent * gradient,))
    return derived


def minimised(
    loss: Callable[[Float[Array, " k"]], Float[Array, ""]],
    start: Float[Array, " k"],
    value: Float[Array, ""],
    gradient: Float[Array, " k"],
    max_steps: int,
) -> tuple[Float[Array, " k"], Int[Array, ""], Array]:
    """Minimise the loss by L-BFGS. Return the minimum, the number of steps and whether the optimiser converged.

    `value` and `gradient` are those of the loss at the start. L-BFGS would compile one more copy of the loss for them.
    """
    import optax  # imported here, because at the top it would slow down `import jaxsel`

    loss, optimizer = _forwards(loss), optax.lbfgs()

    def step(carry: tuple[Any, Any]) -> tuple[Any, Any]:
        x, state = carry
        value, gradient = (optax.tree.get(state, name) for name in ("value", "grad"))
        change, state = optimizer.update(gradient, state, x, value=value, grad=gradient, value_fn=loss)
        return optax.apply_updates(x, change), state

    def goes_on(carry: tuple[Any, Any]) -> Array:
        _, state = carry
        count, slope = optax.tree.get(state, "count"), optax.tree.norm(optax.tree.get(state, "grad"))
        return (count == 0) | (count < max_steps) & (slope > _SLOPE)

    @jax.jit
    def minimise(
        x: Float[Array, " k"], value: Float[Array, ""], gradient: Float[Array, " k"]
    ) -> tuple[Float[Array, " k"], Int[Array, ""], Array]:
        state = optax.tree.set(optimizer.init(x), value=value, grad=gradient)
        x, state = jax.lax.while_loop(goes_on, step, (x, state))
        return x, optax.tree.get(state, "count"), optax.tree.norm(optax.tree.get(state, "grad")) <= _SLOPE

    return minimise(start, value, gradient)


def sandwich(curvature: Float[Array, "k k"], by_prompt: Float[Array, "p k"], prior: float) -> Float[Array, "k k"]:
    """Return H^-1 (sum_i g_i g_i' + prior) H^-1, the covariance in the docstring of `jaxsel.evaluation.fitting.fit`."""
    bread = jnp.linalg.inv(curvature)
    return bread @ (by_prompt.T @ by_prompt + prior * jnp.eye(len(bread))) @ bread
