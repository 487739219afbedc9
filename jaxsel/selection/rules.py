"""Scores -> prompts: the rules, and the composition of predictor, acquisition and rule into a selector."""

import inspect
import json

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jaxsel import _validate
from jaxsel.base import Acquisition, ChooseFn, Embedded, Predictor, Rule, Selection, Selector, State, embedded_in
from jaxsel.numerics import random
from jaxsel.numerics.compaction import count_true, true_positions
from jaxsel.numerics.largest import kth_largest
from jaxsel.numerics.largest import top_k as descending

_HUGE = 1e30


def best(
    key: Key[Array, ""],
    scores: Float[Array, " m"],
    batch_size: int,
    prompt_ids: Int[Array, " m"] | None = None,
    state: State = None,
    count: Int[Array, ""] | None = None,
) -> Int[Array, " b"]:
    """The positions, ascending, of the `batch_size` largest scores; of equal ones at the border, random ones.

    Without the random tie-break, a pool that nothing is known of would always give its first rows. The lottery draws
    by prompt id, so that the best of each part of a pool, put together, hold the best of the pool. Minus infinity and
    NaN come last: they are chosen when nothing else is left. Rows with an id below 0 come after even those.

    With `count`, which may be traced, `count` of at most `batch_size` are chosen; m fills up what follows them.
    """
    del state
    wanted = batch_size if count is None else count
    values = scores if prompt_ids is None else jnp.where(prompt_ids < 0, -jnp.inf, scores)
    border = kth_largest(values, wanted, batch_size)
    reach = (values >= border) | (jnp.isnan(values) & (border == -jnp.inf))

    def draw_lots() -> Int[Array, " b"]:
        lot = random.uniform(key, _ids(prompt_ids, scores))
        # the smallest lots win: lots are finest near 0
        rank = jnp.where(values > border, 1.0, jnp.where(reach, -lot, -2.0))
        if prompt_ids is not None:
            rank = jnp.where(prompt_ids < 0, -3.0, rank)
        last = kth_largest(rank, wanted, batch_size)
        # Several share the last rank where lots collide, and where there are fewer prompts than asked for.
        return jax.lax.cond(
            count_true(rank >= last) == wanted,
            lambda: true_positions(rank >= last, batch_size),
            lambda: _first(rank, last, wanted, batch_size),
        )

    return jax.lax.cond(count_true(reach) > wanted, draw_lots, lambda: true_positions(reach, batch_size))


def _first(
    rank: Float[Array, " m"], last: Float[Array, ""], wanted: int | Int[Array, ""], batch_size: int
) -> Int[Array, " b"]:
    """Return the positions, ascending, of all ranks above the last one and of as many equal to it as are wanted."""
    above, equal = (true_positions(mask, batch_size) for mask in (rank > last, rank == last))
    missing = wanted - count_true(rank > last)
    equal = jnp.where(jnp.arange(batch_size, dtype=jnp.int32) < missing, equal, len(rank))
    return jnp.sort(jnp.concatenate([above, equal]))[:batch_size]


def _ids(prompt_ids: Int[Array, " m"] | None, scores: Float[Array, " m"]) -> Int[Array, " m"]:
    return jnp.arange(scores.shape[0], dtype=jnp.int32) if prompt_ids is None else prompt_ids


def chosen_by_score(
    choose: ChooseFn,
    key: Key[Array, ""],
    scores: Float[Array, " m"],
    batch_size: int,
    prompt_ids: Int[Array, " m"] | None,
    state: State,
    count: Int[Array, ""] | None = None,
) -> tuple[Float[Array, " b"], Int[Array, " b"]]:
    """The scores and ids of the chosen, from the best score to the worst, NaN last; no ids: the positions.

    With `count`, only so many are chosen; the others have the id -1 and the score minus infinity, and come last.
    """
    scores, ids = looked_up(
        choose_positions(choose, key, scores, batch_size, prompt_ids, state, count), scores, prompt_ids
    )
    order = descending(jnp.where(ids < 0, -jnp.inf, scores), batch_size)[1]
    return scores[order], ids[order]


def choose_positions(
    choose: ChooseFn,
    key: Key[Array, ""],
    scores: Float[Array, " m"],
    batch_size: int,
    prompt_ids: Int[Array, " m"] | None,
    state: State,
    count: Int[Array, ""] | None,
) -> Int[Array, " b"]:
    """What the rule chooses; `count` goes to rules that know of it alone, see `takes_count`."""
    if count is None:
        return choose(key, scores, batch_size, prompt_ids, state)
    return choose(key, scores, batch_size, prompt_ids, state, count=count)


def looked_up(
    positions: Int[Array, " b"], scores: Float[Array, " m"], prompt_ids: Int[Array, " m"] | None
) -> tuple[Float[Array, " b"], Int[Array, " b"]]:
    """Scores and ids at the positions; minus infinity and -1 at positions that are none."""
    there = positions < len(scores)
    at = jnp.minimum(positions, len(scores) - 1)
    ids = at if prompt_ids is None else prompt_ids[at]
    return jnp.where(there, scores[at], -jnp.inf), jnp.where(there, ids, -1)


def takes_count(selector: Selector) -> bool:
    """Whether one compilation of `select` serves batches of many sizes: its rule has the argument `count`."""
    return all(
        "count" in inspect.signature(function).parameters
        for function in (selector.select, *((selector.rule.choose,) if selector.rule else ()))
    )


def top_k() -> Rule:
    """The largest scores, ties broken at random."""
    return Rule({"name": "top_k"}, best)


def within_bounds(lower: float, upper: float) -> Rule:
    """Random ones among the scores in [lower, upper]; when too few, those nearest to the band (MoPPS's `threshold`).

    Raises:
        ValueError: bounds that are not numbers with lower <= upper.
    """
    if not lower <= upper:
        raise ValueError(f"lower is {lower} and upper is {upper}; give lower <= upper")

    def choose(
        key: Key[Array, ""],
        scores: Float[Array, " m"],
        batch_size: int,
        prompt_ids: Int[Array, " m"] | None = None,
        state: State = None,
        count: Int[Array, ""] | None = None,
    ) -> Int[Array, " b"]:
        del state
        distance = jnp.maximum(jnp.maximum(lower - scores, scores - upper), 0)
        return best(key, -distance, batch_size, prompt_ids, count=count)

    return Rule({"name": "within_bounds", "lower": lower, "upper": upper}, choose)


def gumbel_top_k(temperature: float = 1.0) -> Rule:
    """A sample without replacement, each draw with probability proportional to exp(score / temperature).

    (Kool, van Hoof, Welling, arXiv 1903.06059.)

    Raises:
        ValueError: a temperature that is not above 0.
    """
    _validate.positive(temperature=temperature)

    def choose(
        key: Key[Array, ""],
        scores: Float[Array, " m"],
        batch_size: int,
        prompt_ids: Int[Array, " m"] | None = None,
        state: State = None,
        count: Int[Array, ""] | None = None,
    ) -> Int[Array, " b"]:
        del state
        noise_key, tie_key = jax.random.split(key)
        uniform = random.uniform(noise_key, _ids(prompt_ids, scores))
        gumbel = -jnp.log(-jnp.log1p(-uniform))  # finest where it is largest
        return best(tie_key, scores / temperature + gumbel, batch_size, prompt_ids, count=count)

    return Rule({"name": "gumbel_top_k", "temperature": temperature}, choose)


def random_subset() -> Rule:
    """Uniformly random ones, whatever the scores."""

    def choose(
        key: Key[Array, ""],
        scores: Float[Array, " m"],
        batch_size: int,
        prompt_ids: Int[Array, " m"] | None = None,
        state: State = None,
        count: Int[Array, ""] | None = None,
    ) -> Int[Array, " b"]:
        del state
        return best(key, jnp.zeros_like(scores), batch_size, prompt_ids, count=count)

    return Rule({"name": "random_subset"}, choose)


def diverse(*, weight: float = 0.1, anchor_batches: int = 4, shortlist: int | None = 8) -> Rule:
    r"""Good scores that lie apart, from each other and from the last batches (GPS, arXiv 2602.01970).

    Greedy max-sum diversification: one after the other the i with the largest

        score_i + weight * ( sum_{j chosen} d(i, j) / (batch_size - 1) + mean_{h in H} d(i, h) )

    with the cosine distance d of embeddings and the prompts H of the last batches that were observed, ties broken at
    random. The paper gives neither the distance nor the weight.

    Args:
        weight: of the distances, which are from 0 to 2 each; 0: `top_k`.
        anchor_batches: how many batches H holds; 0: only the distances within the batch count.
        shortlist: only the `shortlist * batch_size` best scores count; None: all do, which takes a float32 copy of all
            embeddings and a pass over it for every prompt chosen.

    Raises:
        ValueError: an argument out of its range; when it chooses, a state without embeddings.
    """
    _validate.non_negative(weight=weight)
    _validate.integer_in(0, 2**16, anchor_batches=anchor_batches)
    if shortlist is not None:
        _validate.positive_integer(shortlist=shortlist)

    def choose(
        key: Key[Array, ""],
        scores: Float[Array, " m"],
        batch_size: int,
        prompt_ids: Int[Array, " m"] | None = None,
        state: State = None,
        count: Int[Array, ""] | None = None,
    ) -> Int[Array, " b"]:
        embedded = embedded_in(state)
        if embedded is None:
            raise ValueError(
                f"the state {type(state).__name__} has no embeddings; give the rule diverse with amortized"
            )
        size = min(len(scores), shortlist * batch_size) if shortlist else len(scores)
        wanted = batch_size if count is None else count
        num_among = None if count is None else jnp.minimum(count * shortlist, size) if shortlist else jnp.int32(size)
        among = best(key, scores, max(size, batch_size), prompt_ids, count=num_among)  # raises where there are fewer
        lots = random.uniform(key, looked_up(among, scores, prompt_ids)[1])
        among = among[jnp.argsort(lots)]  # of equal values argmax takes the first: the smallest lot, as in best
        filler = len(scores)
        scores, ids = looked_up(among, scores, prompt_ids)
        utility = jnp.clip(jnp.where(jnp.isnan(scores), -jnp.inf, scores), -_HUGE, _HUGE)
        utility = jnp.where(ids < 0, -2 * _HUGE, utility)
        direction = _directions(embedded, ids)
        if anchor_batches:
            utility = utility + weight * _distance_to_latest(direction, embedded, anchor_batches)

        others = max(batch_size - 1, 1) if count is None else jnp.maximum(count - 1, 1).astype(jnp.float32)

        def take(number: Int[Array, ""], carry: tuple[Array, Array]) -> tuple[Array, Array]:
            is_chosen, distance = carry
            value = utility + weight / others * distance
            at = jnp.argmax(jnp.where(is_chosen, -jnp.inf, value))
            return is_chosen.at[at].set(True), distance + 1 - direction @ direction[at]

        start = jnp.zeros(len(ids), bool), jnp.zeros(len(ids), jnp.float32)
        is_chosen, _ = jax.lax.fori_loop(0, wanted, take, start)
        chosen = true_positions(is_chosen, batch_size)
        return jnp.sort(jnp.where(chosen < len(among), among[jnp.minimum(chosen, len(among) - 1)], filler))

    spec = {"name": "diverse", "weight": weight, "anchor_batches": anchor_batches, "shortlist": shortlist}
    return Rule(spec, choose, lambda batch_size: shortlist * batch_size if shortlist else 2**31 - 1)


def _directions(embedded: Embedded, ids: Int[Array, "*batch m"]) -> Float[Array, "*batch m d"]:
    """Embeddings of length 1; a zero vector stays, at the distance 1 of all."""
    vectors = embedded.embeddings[jnp.maximum(ids, 0)].astype(jnp.float32)
    length = jnp.sqrt((vectors * vectors).sum(-1, keepdims=True))
    return vectors / jnp.where(length > 0, length, 1)


def _distance_to_latest(direction: Float[Array, "m d"], embedded: Embedded, count: int) -> Float[Array, " m"]:
    """The mean cosine distance to the prompts of the last batches; 0 before the first."""
    latest = embedded.latest(count)
    known = latest.group_size > 0
    total = jnp.where(known[..., None], _directions(embedded, latest.prompt_ids), 0).sum((0, 1))
    return jnp.where(known.any(), 1 - direction @ (total / jnp.maximum(known.sum(dtype=jnp.float32), 1)), 0)


def without(candidates: Int[Array, " c"] | None, excluded: Bool[Array, " N"] | None) -> Int[Array, " m"] | None:
    """Returns the candidates (None: the whole pool) with -1 in place of excluded prompts."""
    if excluded is None:
        return candidates
    ids = jnp.arange(len(excluded), dtype=jnp.int32) if candidates is None else candidates
    return jnp.where(excluded[jnp.maximum(ids, 0)], -1, ids)


def make_selector(predictor: Predictor, acquisition: Acquisition, rule: Rule, *, method: str = "custom") -> Selector:
    """Composes a selector: predict, score, choose.

    Args:
        predictor: says how often each prompt would be solved.
        acquisition: turns that into scores.
        rule: chooses by the scores.
        method: a name for logs and checkpoints.

    Raises:
        ValueError: a function that makes a part, where the part itself is asked for.
    """
    _validate.made(Predictor, predictor=predictor)
    _validate.made(Acquisition, acquisition=acquisition)
    _validate.made(Rule, rule=rule)

    def select(
        key: Key[Array, ""],
        state: State,
        batch_size: int,
        candidates: Int[Array, " c"] | None = None,
        excluded: Bool[Array, " N"] | None = None,
        count: Int[Array, ""] | None = None,
    ) -> Selection:
        predict_key, rule_key = jax.random.split(key)
        scores = acquisition.score(predictor.predict(predict_key, state, candidates))
        among = without(candidates, excluded)
        scores, prompt_ids = chosen_by_score(rule.choose, rule_key, scores, batch_size, among, state, count)
        # predicted again, with the same draws: the whole pool's other fields are not worth computing
        return Selection(prompt_ids, scores, predictor.predict(predict_key, state, prompt_ids))

    spec = {"method": method, "predictor": predictor.spec, "acquisition": acquisition.spec, "rule": rule.spec}
    # as it comes back from a checkpoint: lists for tuples, numbers of Python for NumPy's
    spec = json.loads(json.dumps(spec, default=np.generic.item))
    return Selector(spec, predictor.init, predictor.predict, select, predictor.update, acquisition, rule)
