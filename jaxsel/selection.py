"""Scores -> prompts: the rules, and the composition of predictor, acquisition and rule into a selector."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxsel import _validate
from jaxsel.base import Acquisition, Predictor, Rule, Selection, Selector, State


def best(key: Key[Array, ""], scores: Float[Array, " m"], batch_size: int) -> Int[Array, " b"]:
    """The positions of the `batch_size` largest scores; of equal ones at the border, random ones.

    Without the random tie-break, a pool that nothing is known of would always give its first rows. Minus infinity and
    NaN come last: they are chosen when nothing else is left.
    """
    scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
    values, positions = _top_k(scores, batch_size)
    border = values[-1]

    def with_lottery() -> Float[Array, " m"]:
        lottery = jax.random.uniform(key, scores.shape)
        return jnp.where(scores > border, 2.0, jnp.where(scores == border, lottery, -1.0))

    def break_ties() -> Int[Array, " b"]:
        chosen = _top_k(with_lottery(), batch_size)[1]
        return chosen[jnp.argsort(-scores[chosen], stable=True)]

    return jax.lax.cond((scores >= border).sum() > batch_size, break_ties, lambda: positions)


def _top_k(scores: Float[Array, " m"], k: int) -> tuple[Float[Array, " k"], Int[Array, " k"]]:
    """`jax.lax.top_k` behind a barrier: XLA's CPU backend sorts everything when the result is sliced right away."""
    values, positions = jax.lax.optimization_barrier(jax.lax.top_k(scores, k))
    return values, positions


def top_k() -> Rule:
    """The largest scores, ties broken at random."""
    return Rule({"rule": "top_k"}, best)


def within_bounds(lower: float, upper: float) -> Rule:
    """Random ones among the scores in [lower, upper]; when too few, those nearest to the band (MoPPS's `threshold`).

    Raises:
        ValueError: bounds that are not numbers with lower <= upper.
    """
    if not lower <= upper:
        raise ValueError(f"lower is {lower} and upper is {upper}; give lower <= upper")

    def choose(key: Key[Array, ""], scores: Float[Array, " m"], batch_size: int) -> Int[Array, " b"]:
        distance = jnp.maximum(jnp.maximum(lower - scores, scores - upper), 0)
        return best(key, -distance, batch_size)

    return Rule({"rule": "within_bounds", "lower": lower, "upper": upper}, choose)


def gumbel_top_k(temperature: float = 1.0) -> Rule:
    """A sample without replacement, each draw with probability proportional to exp(score / temperature).

    (Kool, van Hoof, Welling, arXiv 1903.06059.)

    Raises:
        ValueError: a temperature that is not above 0.
    """
    _validate.positive(temperature=temperature)

    def choose(key: Key[Array, ""], scores: Float[Array, " m"], batch_size: int) -> Int[Array, " b"]:
        noise_key, tie_key = jax.random.split(key)
        return best(tie_key, scores / temperature + jax.random.gumbel(noise_key, scores.shape), batch_size)

    return Rule({"rule": "gumbel_top_k", "temperature": temperature}, choose)


def random_subset() -> Rule:
    """Uniformly random ones, whatever the scores."""

    def choose(key: Key[Array, ""], scores: Float[Array, " m"], batch_size: int) -> Int[Array, " b"]:
        lottery_key, tie_key = jax.random.split(key)
        return best(tie_key, jax.random.uniform(lottery_key, scores.shape), batch_size)

    return Rule({"rule": "random_subset"}, choose)


def make_selector(predictor: Predictor, acquisition: Acquisition, rule: Rule, *, method: str = "custom") -> Selector:
    """Composes a selector: predict, score, choose.

    Args:
        predictor: says how often each prompt would be solved.
        acquisition: turns that into scores.
        rule: chooses by the scores.
        method: a name for logs and checkpoints.
    """

    def select(
        key: Key[Array, ""], state: State, batch_size: int, candidates: Int[Array, " c"] | None = None
    ) -> Selection:
        predict_key, rule_key = jax.random.split(key)
        prediction = predictor.predict(predict_key, state, candidates)
        scores = acquisition.score(prediction)
        positions = rule.choose(rule_key, scores, batch_size)
        prompt_ids = positions if candidates is None else candidates[positions]
        return Selection(prompt_ids, scores[positions], jax.tree.map(lambda field: field[positions], prediction))

    spec = {"method": method, **predictor.spec, **acquisition.spec, **rule.spec}
    # as it comes back from a checkpoint: lists for tuples, numbers of Python for NumPy's
    spec = json.loads(json.dumps(spec, default=np.generic.item))
    return Selector(spec, predictor.init, predictor.predict, select, predictor.update)
