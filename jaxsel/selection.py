"""Scores -> prompts: the rules, and the composition of predictor, acquisition and rule into a selector."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxsel import _validate, random
from jaxsel._compact import count_true, true_positions
from jaxsel._largest import kth_largest
from jaxsel._largest import top_k as descending
from jaxsel.base import Acquisition, ChooseFn, Predictor, Rule, Selection, Selector, State


def best(
    key: Key[Array, ""], scores: Float[Array, " m"], batch_size: int, prompt_ids: Int[Array, " m"] | None = None
) -> Int[Array, " b"]:
    """The positions, ascending, of the `batch_size` largest scores; of equal ones at the border, random ones.

    Without the random tie-break, a pool that nothing is known of would always give its first rows. The lottery draws
    by prompt id, so that the best of each part of a pool, put together, hold the best of the pool. Minus infinity and
    NaN come last: they are chosen when nothing else is left. Rows with an id below 0 come after even those.
    """
    values = scores if prompt_ids is None else jnp.where(prompt_ids < 0, -jnp.inf, scores)
    border = kth_largest(values, batch_size)
    reach = (values >= border) | (jnp.isnan(values) & (border == -jnp.inf))

    def draw_lots() -> Int[Array, " b"]:
        lot = random.uniform(key, _ids(prompt_ids, scores))
        # the smallest lots win: lots are finest near 0
        rank = jnp.where(values > border, 1.0, jnp.where(reach, -lot, -2.0))
        if prompt_ids is not None:
            rank = jnp.where(prompt_ids < 0, -3.0, rank)
        return true_positions(rank >= kth_largest(rank, batch_size), batch_size)

    return jax.lax.cond(count_true(reach) > batch_size, draw_lots, lambda: true_positions(reach, batch_size))


def _ids(prompt_ids: Int[Array, " m"] | None, scores: Float[Array, " m"]) -> Int[Array, " m"]:
    return jnp.arange(scores.shape[0], dtype=jnp.int32) if prompt_ids is None else prompt_ids


def chosen_by_score(
    choose: ChooseFn,
    key: Key[Array, ""],
    scores: Float[Array, " m"],
    batch_size: int,
    prompt_ids: Int[Array, " m"] | None,
) -> tuple[Float[Array, " b"], Int[Array, " b"]]:
    """The scores and ids of the chosen, from the best score to the worst, NaN last; no ids: the positions."""
    chosen = choose(key, scores, batch_size, prompt_ids)
    chosen = chosen[descending(scores[chosen], batch_size)[1]]
    return scores[chosen], chosen if prompt_ids is None else prompt_ids[chosen]


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

    def choose(
        key: Key[Array, ""], scores: Float[Array, " m"], batch_size: int, prompt_ids: Int[Array, " m"] | None = None
    ) -> Int[Array, " b"]:
        distance = jnp.maximum(jnp.maximum(lower - scores, scores - upper), 0)
        return best(key, -distance, batch_size, prompt_ids)

    return Rule({"rule": "within_bounds", "lower": lower, "upper": upper}, choose)


def gumbel_top_k(temperature: float = 1.0) -> Rule:
    """A sample without replacement, each draw with probability proportional to exp(score / temperature).

    (Kool, van Hoof, Welling, arXiv 1903.06059.)

    Raises:
        ValueError: a temperature that is not above 0.
    """
    _validate.positive(temperature=temperature)

    def choose(
        key: Key[Array, ""], scores: Float[Array, " m"], batch_size: int, prompt_ids: Int[Array, " m"] | None = None
    ) -> Int[Array, " b"]:
        noise_key, tie_key = jax.random.split(key)
        uniform = random.uniform(noise_key, _ids(prompt_ids, scores))
        gumbel = -jnp.log(-jnp.log1p(-uniform))  # finest where it is largest
        return best(tie_key, scores / temperature + gumbel, batch_size, prompt_ids)

    return Rule({"rule": "gumbel_top_k", "temperature": temperature}, choose)


def random_subset() -> Rule:
    """Uniformly random ones, whatever the scores."""

    def choose(
        key: Key[Array, ""], scores: Float[Array, " m"], batch_size: int, prompt_ids: Int[Array, " m"] | None = None
    ) -> Int[Array, " b"]:
        return best(key, jnp.zeros_like(scores), batch_size, prompt_ids)

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
        scores = acquisition.score(predictor.predict(predict_key, state, candidates))
        scores, prompt_ids = chosen_by_score(rule.choose, rule_key, scores, batch_size, candidates)
        # predicted again, with the same draws: the whole pool's other fields are not worth computing
        return Selection(prompt_ids, scores, predictor.predict(predict_key, state, prompt_ids))

    spec = {"method": method, **predictor.spec, **acquisition.spec, **rule.spec}
    # as it comes back from a checkpoint: lists for tuples, numbers of Python for NumPy's
    spec = json.loads(json.dumps(spec, default=np.generic.item))
    return Selector(spec, predictor.init, predictor.predict, select, predictor.update, acquisition, rule)
