r"""The filter of ARCUS (arXiv 2609.38018): per prompt a Kalman filter in arc length, with a drift that the pool shares.

    p   = sin(x)^2
    x_t = x_{t-1} + v sin(2 x) + N(0, q)          per step, for every prompt
    z   = arcsin sqrt((s + 3/8) / (n + 3/4))      at a visit with 0 < s < n,    R = 1 / (4 n + 2)
    z   = 0 for s = 0, pi / 2 for s = n           R = 1 / (2 n)

The drift moves every logit by 4 v per step: dx/dt = v sin(2 x) has the solution tan x_t = e^{2 v t} tan x_0. So a
belief of any age takes one formula with the sum of v since the last visit, and an update touches the visited prompts
only. The drift also stretches the variance, by (dx_t / dx_0)^2; this is left out, as in the paper. A variance grows at
most up to the prior's.

v and q are learned from the innovations e = z - E[x_t] of revisited prompts, k steps after their last visit. With P_0
and P_k, the variances of x at that visit and now, S = P_k + R, and g = k sin(2 E[x_t]), the change of E[x_t] with v,

    v = sum g (e + g v') / S  /  (sum g^2 / S + 1 / 0.02^2)                 v': mean of v since that visit
    q = (sum k (e^2 - P_0 - R) / S^2 + q_0 / q_0^2) / (sum k^2 / S^2 + 1 / q_0^2),    q_0 = 0.001

where q is at least 0 and at most the prior's variance. The sums forget 2% at every step with a revisit. These weights
and priors are ours: the paper fits v and q by moments of innovations too, but has no public code. A variance that has
grown to the prior's says nothing about q. v also takes up what the prior gets wrong, for example in a pool that is
nearly unsolvable; it does not measure progress.

`kalman` is a filter of this kind without drift, whose q is a setting.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Key

from jaxsel import _validate
from jaxsel._rows import with_moved
from jaxsel._shared import shared
from jaxsel._visits import merge_visits
from jaxsel.base import Prediction, Predictor, Rollouts
from jaxsel.predictors.kalman import SCALES, conditioned, drawn_and_predicted

_SCALE = SCALES["arcsine"]
_KEPT = 0.98  # of the sums, at every step with a revisit
_DRIFT_SPREAD = 0.02  # standard deviation of the prior of v
_FIRST_DIFFUSION = 0.001  # q_0
_MOST_DRIFT = 20.0  # sum of v, which moves a logit by 80


class Moments(NamedTuple):
    """The discounted sums over the innovations of revisited prompts, see the module's docstring.

    Attributes:
        drift: sum g (e + g v') / S.
        drift_weight: sum g^2 / S.
        diffusion: sum k (e^2 - P_0 - R) / S^2.
        diffusion_weight: sum k^2 / S^2.
    """

    drift: Float[Array, ""]
    drift_weight: Float[Array, ""]
    diffusion: Float[Array, ""]
    diffusion_weight: Float[Array, ""]


class Motion(NamedTuple):
    """How far beliefs have moved up to some step, since the first one.

    Attributes:
        drift: Sum of v over the steps.
        diffusion: Sum of q over the steps.
    """

    drift: Float[Array, "*axes"]
    diffusion: Float[Array, "*axes"]


class ArcLengthState(NamedTuple):
    """The Gaussian beliefs about N prompts, and what is learned about their motion.

    Attributes:
        mean: Mean of x at each prompt's last visit, or when it came into the pool.
        variance: Variance of x at that time.
        last_step: Step of the last visit; 0 before the first visit.
        step: Number of updates so far.
        moved: The motion up to now.
        moved_before: The motion up to each prompt's last visit, or until it came into the pool, N entries each.
        moments: The sums from which drift and diffusion follow.
    """

    mean: Float[Array, " N"]
    variance: Float[Array, " N"]
    last_step: Int[Array, " N"]
    step: Int[Array, ""]
    moved: Motion
    moved_before: Motion
    moments: Moments

    @property
    def drift(self) -> Float[Array, ""]:
        """v, in radians per step."""
        return self.moments.drift / (self.moments.drift_weight + _DRIFT_SPREAD**-2)

    @property
    def diffusion(self) -> Float[Array, ""]:
        """q, in radians^2 per step."""
        found = (self.moments.diffusion + 1 / _FIRST_DIFFUSION) / (self.moments.diffusion_weight + _FIRST_DIFFUSION**-2)
        return jnp.clip(found, 0, _SCALE.variance)

    def partition_specs(self) -> "ArcLengthState":
        """Return specs that put the whole state on every device, because all devices learn from all innovations."""
        return jax.tree.map(lambda leaf: P(), self)

    def with_rows(self, rows: Int[np.ndarray, " N"], fresh: "ArcLengthState") -> "ArcLengthState":
        """Return the state for a changed pool, see `StateMethods.with_rows`. Drift and diffusion stay."""
        now = jax.tree.map(lambda total: jnp.full(len(rows), total, jnp.float32), self.moved)
        before = with_moved(self.moved_before, now, Motion._fields, rows)
        return with_moved(self, fresh, ("mean", "variance", "last_step"), rows)._replace(moved_before=before)

    def metrics(self) -> dict[str, Any]:
        """Return `drift` in logits per step, and `diffusion` in radians^2 per step."""
        return {"drift": 4 * self.drift, "diffusion": self.diffusion}


class Belief(NamedTuple):
    """The Gaussian beliefs about m prompts at one step.

    Attributes:
        mean: Mean of x.
        variance: Variance of x.
        at_visit: Variance of x at the last visit, P_0.
        drifted: Sum of v since the last visit.
    """

    mean: Float[Array, " m"]
    variance: Float[Array, " m"]
    at_visit: Float[Array, " m"]
    drifted: Float[Array, " m"]


@shared
def arc_length(*, group_size: int = 8) -> Predictor:
    """Return the predictor of `arcus`: one Kalman filter per prompt, whose drift and diffusion are learned.

    A belief is Gaussian in x = arcsin sqrt(success rate), as in ARCUS (arXiv 2609.38018). Per step, x moves by
    v sin(2 x), which is 4 v in logits, and its variance grows by q. Both are learned from the innovations of revisited
    prompts, as in the paper. It has no public code: the weights and priors of this fit are ours, see the docstring of
    the module. v also takes up what the prior of the success rates, nearly uniform, gets wrong.

    Args:
        group_size: n, the rollouts per prompt for which `unsolved`, `mixed` and `solved` are predicted.

    Raises:
        ValueError: `group_size` is no positive integer.
    """
    _validate.positive_integer(group_size=group_size)
    group_size = int(group_size)

    def init(key: Key[Array, ""], num_prompts: int) -> ArcLengthState:
        del key
        mean = jnp.full(num_prompts, _SCALE.mean, jnp.float32)
        variance = jnp.full(num_prompts, _SCALE.variance, jnp.float32)
        never = jnp.zeros(num_prompts, jnp.int32)
        before = Motion(*_zeros(2, num_prompts))
        moved, moments = Motion(*_zeros(2)), Moments(*_zeros(4))
        return ArcLengthState(mean, variance, never, jnp.int32(0), moved, before, moments)

    def predict(
        key: Key[Array, ""],
        state: ArcLengthState,
        prompt_ids: Int[Array, " m"] | None,
        first_id: Int[Array, ""] | int = 0,
    ) -> Prediction:
        belief = _believed(state, state.moved, prompt_ids)
        return drawn_and_predicted(key, belief.mean, belief.variance, prompt_ids, first_id, _SCALE, group_size)

    return Predictor({"name": "arc_length", "group_size": group_size}, init, predict, _update)


def _zeros(count: int, *shape: int) -> list[Float[Array, "..."]]:
    """Return arrays of their own: an update gives the memory of each back to JAX, and so can share none."""
    return [jnp.zeros(shape, jnp.float32) for _ in range(count)]


def _believed(state: ArcLengthState, moved: Motion, prompt_ids: Int[Array, " m"] | None) -> Belief:
    rows = slice(None) if prompt_ids is None else prompt_ids
    drifted, spread = (now - before[rows] for now, before in zip(moved, state.moved_before, strict=True))
    factor = jnp.exp(jnp.clip(drifted, -_MOST_DRIFT, _MOST_DRIFT))
    # tan x grows by the square of the factor, also where it is infinite; float32(pi / 2) has a cosine below 0
    sine, cosine = jnp.sin(state.mean[rows]), jnp.maximum(jnp.cos(state.mean[rows]), 0)
    at_visit = state.variance[rows]
    variance = jnp.minimum(at_visit + spread, _SCALE.variance)
    return Belief(jnp.arctan2(sine * factor, cosine / factor), variance, at_visit, drifted)


def _update(key: Key[Array, ""], state: ArcLengthState, rollouts: Rollouts) -> ArcLengthState:
    """Return the state after one step: visited prompts are conditioned on their rollouts, and the moments grow."""
    del key
    num_prompts = len(state.mean)
    visits = merge_visits(rollouts, num_prompts)
    ids, rows = visits.prompt_ids, jnp.minimum(visits.prompt_ids, num_prompts - 1)
    step, moved = state.step + 1, Motion(state.moved.drift + state.drift, state.moved.diffusion + state.diffusion)
    belief = _believed(state, moved, rows)
    z, noise = _observed(visits.successes.astype(jnp.float32), visits.group_size.astype(jnp.float32))
    age = jnp.where((ids < num_prompts) & (state.last_step[rows] > 0), step - state.last_step[rows], 0)
    state = state._replace(
        moved=moved,
        moved_before=jax.tree.map(lambda old, now: old.at[ids].set(now, mode="drop"), state.moved_before, moved),
        moments=_learned(state.moments, belief, z, noise, age.astype(jnp.float32)),
    )
    return conditioned(state, ids, step, belief.mean, belief.variance, z, noise)


def _observed(s: Float[Array, " b"], n: Float[Array, " b"]) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """Return z and R for s successes in groups of n."""
    mixed, noise = _SCALE.observed(s, n)
    z = jnp.where(s == 0, 0, jnp.where(s == n, np.pi / 2, mixed))
    return z, jnp.where((s == 0) | (s == n), 1 / (2 * jnp.maximum(n, 1)), noise)


def _learned(
    moments: Moments, belief: Belief, z: Float[Array, " b"], noise: Float[Array, " b"], age: Float[Array, " b"]
) -> Moments:
    """Return the moments after these innovations; an age of 0 marks a row that is no revisit."""
    innovation, spread, turn = z - belief.mean, belief.variance + noise, jnp.sin(2 * belief.mean)
    slope, grows = age * turn, jnp.where(belief.variance < _SCALE.variance, age, 0)
    terms = Moments(
        slope * (innovation + turn * belief.drifted) / spread,
        slope**2 / spread,
        grows * (innovation**2 - belief.at_visit - noise) / spread**2,
        grows**2 / spread**2,
    )
    kept = jnp.where(age.any(), _KEPT, 1)
    return jax.tree.map(lambda total, term: kept * total + term.sum(), moments, terms)
