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

    def ahead(x: Float[Array, " k"]) -> tuple[Float[Array, ""], Float[Array, " k"]]:
        gradient, value = jax.jacfwd(lambda x: (function(x),) * 2, has_aux=True)(x)
        return value, gradient

    derived.defvjp(ahead, lambda gradient, cotangent: (cotangent * gradient,))
    return derived


def minimised(
    loss: Callable[[Float[Array, " k"]], Float[Array, ""]], start: Float[Array, " k"], max_steps: int
) -> tuple[Float[Array, " k"], Int[Array, ""], Array]:
    """Minimise the loss by L-BFGS. Return the minimum, the number of steps and whether the optimiser converged."""
    import optax  # imported here, because at the top it would slow down `import jaxsel`

    loss, optimizer = _forwards(loss), optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        x, state, _ = carry
        value, gradient = value_and_grad(x, state=state)
        change, state = optimizer.update(gradient, state, x, value=value, grad=gradient, value_fn=loss)
        return optax.apply_updates(x, change), state, optax.tree.norm(optax.tree.get(state, "grad"))

    def goes_on(carry: tuple[Any, Any, Any]) -> Array:
        _, state, slope = carry
        return (optax.tree.get(state, "count") < max_steps) & (slope > _SLOPE)

    x, state, slope = jax.jit(lambda x: jax.lax.while_loop(goes_on, step, (x, optimizer.init(x), jnp.inf)))(start)
    return x, optax.tree.get(state, "count"), slope <= _SLOPE


def sandwich(curvature: Float[Array, "k k"], by_prompt: Float[Array, "p k"], prior: float) -> Float[Array, "k k"]:
    """Return H^-1 (sum_i g_i g_i' + prior) H^-1, the covariance in the docstring of `jaxsel.evaluation.fitting.fit`."""
    bread = jnp.linalg.inv(curvature)
    return bread @ (by_prompt.T @ by_prompt + prior * jnp.eye(len(bread))) @ bread
