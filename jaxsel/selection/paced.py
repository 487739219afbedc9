r"""The selector `paced`: the acquisition `mixed_near_target` with a target that moves during training.

    share(target) = sum_i w_i m_i,    w_i in proportion to (kernel(target, p_i) m_i)^(1 / temperature)

is the share of mixed groups that sampling with this target is predicted to have. m_i is P(0 < s < n) of prompt i, and
p_i its predicted success rate. After every step with a visit, the target moves towards the hardest target whose share
is close to the best one. This is a selector and not an acquisition, because an acquisition has no state.

The moving target, the kernel and the sampling follow ARCUS (arXiv 2609.38018). The predictions are those of the given
predictor. The predictor of ARCUS is `arc_length`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jaxsel import _validate
from jaxsel._inner import inner_constants, inner_embedded, predict_inner
from jaxsel._rows import on_changed_pool
from jaxsel._shared import shared
from jaxsel.base import (
    Prediction,
    Predictor,
    Rollouts,
    Rule,
    Selection,
    Selector,
    State,
    call_optional,
)
from jaxsel.selection.acquisition import log_kernel
from jaxsel.selection.composition import as_saved, check_takes_count, init_of, selecting
from jaxsel.selection.rules import gumbel_top_k

_TARGETS = np.linspace(0, math.pi / 2, 66, dtype=np.float32)[1:-1]  # in arc length, from hard to easy
_SAMPLE = 4096  # largest number of prompts for which the shares are predicted; of more prompts, evenly spaced rows


class PacedState(NamedTuple):
    """The state of the predictor, and the current target.

    Attributes:
        inner: State of the predictor.
        num_prompts: Size of the pool.
        angle: The target in arc length, arcsin sqrt(success rate).
    """

    inner: State
    num_prompts: Int[Array, ""]
    angle: Float[Array, ""]

    constants = inner_constants
    embedded = inner_embedded

    def with_rows(self, rows: Int[np.ndarray, " N"], fresh: "PacedState") -> "PacedState":
        """Return the state for a changed pool, see `StateMethods.with_rows`. The target stays."""
        return PacedState(on_changed_pool(self.inner, rows, fresh.inner), fresh.num_prompts, self.angle)

    def metrics(self) -> dict[str, Any]:
        """Return the metrics of the inner state, and `target`, the current target as a success rate."""
        return call_optional(self.inner, "metrics", {}) | {"target": jnp.sin(self.angle) ** 2}


def paced(
    predictor: Predictor,
    *,
    target: float = 0.5,
    temperature: float = 0.3,
    tolerance: float = 0.03,
    max_step: float = 0.005,
    rule: Rule | None = None,
    method: str = "paced",
) -> Selector:
    """Return a selector that samples near a moving target success rate, as ARCUS does (arXiv 2609.38018).

    The scores are those of `mixed_near_target(log=True)`. The target moves to the hardest one whose predicted share of
    mixed groups is at most `tolerance` below the best, by at most `max_step` per step. It stays at updates without a
    visit, and where no group can be mixed. The paper does not publish its code, and its results have not been repeated.

    The state cannot be sharded: every device would need the predictions of the prompts of the others.

    Args:
        predictor: Model of the prompts' success rates. ARCUS uses `jaxsel.arc_length()`.
        target: Success rate at which the target starts, from 1e-6 to 1 - 1e-6.
        temperature: Temperature of the sampling, at least 1e-30, as in `gumbel_top_k`.
        tolerance: Share of mixed groups that may be lost for a harder target, from 0 to 1.
        max_step: Largest change of the target per step, at least 0, in radians of arcsin sqrt(success rate).
        rule: Rule that chooses by the scores, for example with quotas. None: `gumbel_top_k(temperature)`.
        method: Name of the method in `spec`.

    Raises:
        ValueError: An argument is out of its range, or the rule's `choose` has no argument `count`.
    """
    _validate.made(Predictor, predictor=predictor)
    _validate.inner_rate(target=target)
    _validate.temperature(temperature=temperature)
    _validate.unit_interval(tolerance=tolerance)
    _validate.non_negative(max_step=max_step)
    rule = gumbel_top_k(temperature) if rule is None else rule
    _validate.made(Rule, rule=rule)
    check_takes_count(rule)

    inner_init = init_of(predictor, rule)

    def init(key: Key[Array, ""], num_prompts: int) -> PacedState:
        angle = jnp.float32(math.asin(math.sqrt(target)))
        return PacedState(inner_init(key, num_prompts), jnp.int32(num_prompts), angle)

    numbers = {"temperature": float(temperature), "tolerance": float(tolerance), "max_step": float(max_step)}
    predict, select, update = _functions(predictor.predict, predictor.update, rule.choose, **numbers)
    spec = {"method": method, "predictor": predictor.spec, "rule": rule.spec}
    spec["acquisition"] = {"name": "paced", "target": float(target), **numbers}
    return Selector(as_saved(spec), init, predict, select, update, rule=rule)


@shared
def _functions(
    inner_predict: Callable[..., Any],
    inner_update: Callable[..., Any],
    choose: Callable[..., Any],
    temperature: float,
    tolerance: float,
    max_step: float,
) -> tuple[Callable[..., Any], ...]:
    """Return the `predict`, `select` and `update` of a paced selector, given the functions of its parts."""

    def select(
        key: Key[Array, ""],
        state: PacedState,
        batch_size: int,
        candidates: Int[Array, " c"] | None = None,
        excluded: Bool[Array, " N"] | None = None,
        count: Int[Array, ""] | None = None,
    ) -> Selection:
        inner_select = selecting(inner_predict, lambda prediction: _log_score(prediction, state.angle), choose)
        return inner_select(key, state.inner, batch_size, candidates, excluded, count)

    def update(key: Key[Array, ""], state: PacedState, rollouts: Rollouts) -> PacedState:
        predict_key, update_key = jax.random.split(key)
        inner = inner_update(update_key, state.inner, rollouts)
        ids, size = rollouts.prompt_ids.astype(jnp.int32), state.num_prompts
        is_visit = (ids >= 0) & (ids < size) & (rollouts.group_size > 0)
        spacing = jnp.maximum(size.astype(jnp.float32) / _SAMPLE, 1)
        rows = (jnp.arange(_SAMPLE, dtype=jnp.float32) * spacing).astype(jnp.int32)
        prediction = inner_predict(predict_key, inner, jnp.minimum(rows, size - 1))
        wanted = _hardest(prediction, rows < size, temperature, tolerance)
        moves = is_visit.any() & (prediction.mixed.max() > 0)  # without mixed groups, no target is better than others
        step = jnp.where(moves, jnp.clip(wanted - state.angle, -max_step, max_step), 0)
        return PacedState(inner, size, state.angle + step)

    return predict_inner(inner_predict), select, update


def _log_score(prediction: Prediction, angle: Float[Array, ""]) -> Float[Array, " m"]:
    """Return the scores of `mixed_near_target(log=True)` for a target in arc length; P(mixed) = 0 has a finite one."""
    mixed = jnp.maximum(prediction.mixed, jnp.finfo(jnp.float32).tiny)
    rate = jnp.sin(angle) ** 2
    return jnp.log(mixed) + log_kernel(prediction.success_rate, angle, jnp.minimum(rate, 1 - rate))


def _hardest(
    prediction: Prediction, is_prompt: Bool[Array, " m"], temperature: float, tolerance: float
) -> Float[Array, ""]:
    """Return the hardest target whose share of mixed groups is at most `tolerance` below the best, in arc length."""

    def share(angle: Float[Array, ""]) -> Float[Array, ""]:
        weights = jax.nn.softmax(jnp.where(is_prompt, _log_score(prediction, angle) / temperature, -jnp.inf))
        return (weights * prediction.mixed).sum()

    targets = jnp.asarray(_TARGETS)
    shares = jax.vmap(share)(targets)
    return targets[jnp.argmax(shares >= shares.max() - tolerance)]
