"""The rule `diverse`: prompts with good scores whose embeddings lie apart (GPS, arXiv 2602.01970)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxsel import _validate
from jaxsel._shared import shared
from jaxsel.base import EVERY_SCORE, Embedded, Rule, State, embedded_in
from jaxsel.numerics import random
from jaxsel.numerics.compaction import true_positions
from jaxsel.selection.largest_scores import choose_top_k, scores_and_ids

_HUGE = 1e30


@shared
def diverse(*, weight: float = 0.1, anchor_batches: int = 4, shortlist: int | None = 8) -> Rule:
    r"""Choose prompts with good scores, far from each other and from the last batches (GPS, arXiv 2602.01970).

    Greedy max-sum diversification chooses one prompt after another. Each choice is the prompt i with the largest

        score_i + weight * ( sum_{j chosen} d(i, j) / (batch_size - 1) + mean_{h in H} d(i, h) )

    with the cosine distance d of embeddings and the prompts H of the last observed batches. Ties are broken at random.
    The paper gives neither the distance nor the weight.

    Args:
        weight: Weight of the distances, which range from 0 to 2. With 0 the rule is `top_k`.
        anchor_batches: Number of batches in H. With 0 only the distances within the batch count. `state_space` does
            not store its latest batches and needs 0.
        shortlist: Only the `shortlist * batch_size` best scores are considered. None considers all scores: this takes
            a float32 copy of all embeddings and one pass over the copy per chosen prompt.

    Raises:
        ValueError: An argument is out of its range. From `Rule.choose`: the predictor's state does not give embeddings,
            or with `anchor_batches` it does not give the latest batches, see `jaxsel.base.embedded_in`.
    """
    _validate.non_negative(weight=weight)
    _validate.integer_in(0, 2**16, anchor_batches=anchor_batches)
    weight, anchor_batches = float(weight), int(anchor_batches)
    if shortlist is not None:
        _validate.positive_integer(shortlist=shortlist)
        shortlist = int(shortlist)

    def choose(
        key: Key[Array, ""],
        scores: Float[Array, " m"],
        batch_size: int,
        prompt_ids: Int[Array, " m"] | None = None,
        state: State = None,
        count: Int[Array, ""] | None = None,
    ) -> Int[Array, " b"]:
        embedded = _embedded(state)
        among = _shortlisted(key, scores, batch_size, prompt_ids, count, shortlist)
        short_scores, ids = scores_and_ids(among, scores, prompt_ids)
        direction = _directions(embedded, ids)
        utility = _finite(short_scores, ids)
        if anchor_batches:
            utility = utility + weight * _distance_to_latest(direction, embedded, anchor_batches)
        is_chosen = _greedily_chosen(utility, direction, weight, batch_size, count)
        chosen = true_positions(is_chosen, batch_size)
        padding = len(scores)
        return jnp.sort(jnp.where(chosen < len(among), among[jnp.minimum(chosen, len(among) - 1)], padding))

    spec = {"name": "diverse", "weight": weight, "anchor_batches": anchor_batches, "shortlist": shortlist}
    return Rule(spec, choose, lambda batch_size: shortlist * batch_size if shortlist else EVERY_SCORE)


def _embedded(state: State) -> Embedded:
    embedded = embedded_in(state)
    if embedded is None:
        inner = state
        while hasattr(inner, "inner"):
            inner = inner.inner
        without = hasattr(inner, "embeddings")  # as state_space has them if they are given
        cure = "embeddings to state_space or adaptive" if without else "the rule diverse with amortized or state_space"
        raise ValueError(f"the state {type(state).__name__} lacks embeddings; give {cure}")
    return embedded


def _shortlisted(
    key: Key[Array, ""],
    scores: Float[Array, " m"],
    batch_size: int,
    prompt_ids: Int[Array, " m"] | None,
    count: Int[Array, ""] | None,
    shortlist: int | None,
) -> Int[Array, " s"]:
    """Return the positions of the scores that are considered, in a random order."""
    size = min(len(scores), shortlist * batch_size) if shortlist else len(scores)
    wanted = None if count is None else jnp.minimum(count * shortlist, size) if shortlist else jnp.int32(size)
    # at least `batch_size`, so that `choose_top_k` raises an error if there are fewer scores
    among = choose_top_k(key, scores, max(size, batch_size), prompt_ids, count=wanted)
    draw = random.uniform(key, scores_and_ids(among, scores, prompt_ids)[1])
    # the argmax of the greedy choice takes the first of equal values: the smallest draw wins, as in `choose_top_k`
    return among[jnp.argsort(draw)]


def _finite(scores: Float[Array, " s"], ids: Int[Array, " s"]) -> Float[Array, " s"]:
    """Return the scores, clipped to finite values; padding gets a value below all others."""
    clipped = jnp.clip(jnp.where(jnp.isnan(scores), -jnp.inf, scores), -_HUGE, _HUGE)
    return jnp.where(ids < 0, -2 * _HUGE, clipped)


def _greedily_chosen(
    utility: Float[Array, " s"],
    direction: Float[Array, "s d"],
    weight: float,
    batch_size: int,
    count: Int[Array, ""] | None,
) -> Bool[Array, " s"]:
    """Return a mask of the `batch_size` rows, or `count` rows, that the greedy algorithm takes."""
    wanted = batch_size if count is None else count
    others = max(batch_size - 1, 1) if count is None else jnp.maximum(count - 1, 1).astype(jnp.float32)

    def take(number: Int[Array, ""], carry: tuple[Array, Array]) -> tuple[Array, Array]:
        is_chosen, distance = carry
        value = utility + weight / others * distance
        at = jnp.argmax(jnp.where(is_chosen, -jnp.inf, value))
        return is_chosen.at[at].set(True), distance + 1 - direction @ direction[at]

    start = jnp.zeros(len(utility), bool), jnp.zeros(len(utility), jnp.float32)
    return jax.lax.fori_loop(0, wanted, take, start)[0]


def _directions(embedded: Embedded, ids: Int[Array, "*batch m"]) -> Float[Array, "*batch m d"]:
    """Return the embeddings, scaled to norm 1. A zero vector stays zero and has the distance 1 to all vectors."""
    vectors = embedded.embeddings[jnp.maximum(ids, 0)].astype(jnp.float32)
    length = jnp.sqrt((vectors * vectors).sum(-1, keepdims=True))
    return vectors / jnp.where(length > 0, length, 1)


def _distance_to_latest(direction: Float[Array, "m d"], embedded: Embedded, count: int) -> Float[Array, " m"]:
    """Return the mean cosine distance to the prompts of the last `count` batches; 0 before the first batch."""
    if embedded.latest is None:
        given = f"anchor_batches is {count}, but the state does not store the latest batches"
        raise ValueError(f"{given}; give anchor_batches=0, or the rule diverse with amortized")
    latest = embedded.latest(count)
    known = latest.group_size > 0
    total = jnp.where(known[..., None], _directions(embedded, latest.prompt_ids), 0).sum((0, 1))
    return jnp.where(known.any(), 1 - direction @ (total / jnp.maximum(known.sum(dtype=jnp.float32), 1)), 0)
