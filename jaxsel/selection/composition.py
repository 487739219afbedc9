"""The composition of a predictor, an acquisition and a rule into a selector."""

import inspect
import json
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxsel import _validate
from jaxsel._shared import shared
from jaxsel.base import EVERY_SCORE, Acquisition, ChooseFn, Predictor, Rule, Selection, Selector, State
from jaxsel.numerics.largest import top_k as descending
from jaxsel.selection.largest_scores import choose_top_k, scores_and_ids


def make_selector(
    predictor: Predictor, acquisition: Acquisition, rule: Rule, *, method: str = "custom", screened: float | None = None
) -> Selector:
    """Return a selector that predicts, scores and chooses with these parts.

    Args:
        predictor: Model of the prompts' success rates.
        acquisition: Function from predictions to scores.
        rule: Choice of a batch by scores.
        method: Name of the composition in logs and checkpoints.
        screened: Share of the prompts that are predicted exactly, above 0 and at most 1. The predictor's `screen` finds
            them. There are at least as many as the rule needs. None: all prompts are predicted exactly.

    Raises:
        ValueError: An argument is not such a part, but for example its constructor; or prompts are to be screened by a
            predictor without `screen`, or for a rule that considers every prompt. From `init`: the rule is made for a
            pool of another size.
    """
    _validate.made(Predictor, predictor=predictor)
    _validate.made(Acquisition, acquisition=acquisition)
    _validate.made(Rule, rule=rule)

    spec = {"method": method, "predictor": predictor.spec, "acquisition": acquisition.spec, "rule": rule.spec}
    screening = None
    if screened is not None:
        _check_screened(screened, predictor, rule)
        spec["screened"] = screened
        screening = (predictor.screen, screened, rule.shortlist)
    init = init_of(predictor, rule)
    select = selecting(predictor.predict, acquisition.score, rule.choose, screening, acquisition.reads_draw)
    return Selector(as_saved(spec), init, predictor.predict, select, predictor.update, acquisition, rule)


def as_saved(spec: dict[str, Any]) -> dict[str, Any]:
    """Return a spec as a checkpoint returns it: lists for tuples, Python's numbers for those of NumPy and JAX."""
    return json.loads(json.dumps(spec, default=_validate.json_value))


@shared
def selecting(
    predict: Callable[..., Any],
    score: Callable[..., Any],
    choose: Callable[..., Any],
    screening: tuple[Any, ...] | None = None,
    reads_draw: bool = False,
) -> Callable[..., Any]:
    """Return the `select` of these parts.

    Args:
        predict: The predictor's function.
        score: The acquisition's function.
        choose: The rule's function.
        screening: A rough `predict`, the share to keep, and a shortlist; None: all prompts are predicted exactly.
        reads_draw: See `Acquisition`.
    """

    def select(
        key: Key[Array, ""],
        state: State,
        batch_size: int,
        candidates: Int[Array, " c"] | None = None,
        excluded: Bool[Array, " N"] | None = None,
        count: Int[Array, ""] | None = None,
    ) -> Selection:
        predict_key, rule_key = jax.random.split(key)
        among = without(candidates, excluded)
        if screening is not None:
            screen, share, shortlist = screening
            rough = score(screen(predict_key, state, candidates))
            kept = max(math.ceil(share * len(rough)), shortlist(batch_size) if shortlist else batch_size)
            if kept < len(rough):
                # the rule makes the same draws for the screened prompts as for all
                choose_first = choose_top_k if shortlist else choose
                positions = choose_positions(choose_first, rule_key, rough, kept, among, state, None)
                if not shortlist:
                    own = choose_positions(choose, rule_key, rough, batch_size, among, state, count)
                    positions = _with_others(positions, own, len(rough))
                candidates = among = scores_and_ids(positions, rough, among)[1]
        considered = predict(predict_key, state, candidates)
        scores = score(considered)
        positions, scores, prompt_ids = chosen_by_score(choose, rule_key, scores, batch_size, among, state, count)
        # a second prediction with the same draws, so that fields that no score uses are computed for the batch alone
        prediction = predict(predict_key, state, prompt_ids)
        if reads_draw:
            at = jnp.minimum(positions, len(considered.draw) - 1)  # of padding, the draw of the last prompt
            prediction = prediction._replace(draw=considered.draw[at])
        return Selection(prompt_ids, scores, prediction)

    return select


def _with_others(positions: Int[Array, " k"], own: Int[Array, " b"], size: int) -> Int[Array, " kb"]:
    """Return the kept positions and those of the rule's own batch that are not among them; `size` pads the result.

    A rule with quotas, such as `stratified`, may need prompts that it keeps only in a batch of this size.
    """
    is_kept = jnp.zeros(size + 1, bool).at[positions].set(True)
    return jnp.concatenate([positions, jnp.where(is_kept[own], size, own)])


def _check_screened(screened: float, predictor: Predictor, rule: Rule) -> None:
    if not (_validate.is_number(screened) and 0 < screened <= 1):
        raise ValueError(f"screened is {screened}; give a share above 0 and at most 1")
    if predictor.screen is None:
        raise ValueError(f"screened is {screened}, but {predictor.spec['name']} has no screen; leave out screened")
    if rule.shortlist is not None and rule.shortlist(1) >= EVERY_SCORE:
        raise ValueError(f"screened is {screened}, but the rule {rule.spec} considers all prompts; leave out screened")


def init_of(predictor: Predictor, rule: Rule) -> Callable[..., State]:
    """Return the predictor's `init`, with a check of the pool's size if the rule is made for one size."""
    if rule.num_prompts is None:
        return predictor.init

    def init(key: Key[Array, ""], num_prompts: int) -> State:
        if num_prompts != rule.num_prompts:
            raise ValueError(
                f"num_prompts is {num_prompts} with a rule for {rule.num_prompts} prompts, {rule.spec}; "
                "give the rule one entry per prompt"
            )
        return predictor.init(key, num_prompts)

    return init


def check_takes_count(rule: Rule) -> None:
    """Check that another rule or selector can give `rule.choose` a `count`.

    Raises:
        ValueError: `choose` has no argument `count`.
    """
    if "count" not in inspect.signature(rule.choose).parameters:
        raise ValueError(f"rule {rule.spec} has no argument count in its choose; add it, see Rule.choose")


def takes_count(selector: Selector) -> bool:
    """Return whether `select` and the rule take a `count`, so that one compilation serves many batch sizes."""
    return all(
        "count" in inspect.signature(function).parameters
        for function in (selector.select, *((selector.rule.choose,) if selector.rule else ()))
    )


def without(candidates: Int[Array, " c"] | None, excluded: Bool[Array, " N"] | None) -> Int[Array, " m"] | None:
    """Return the candidates (None: the whole pool) with -1 in place of excluded prompts."""
    if excluded is None:
        return candidates
    ids = jnp.arange(len(excluded), dtype=jnp.int32) if candidates is None else candidates
    return jnp.where(excluded[jnp.maximum(ids, 0)], -1, ids)


def chosen_by_score(
    choose: ChooseFn,
    key: Key[Array, ""],
    scores: Float[Array, " m"],
    batch_size: int,
    prompt_ids: Int[Array, " m"] | None,
    state: State,
    count: Int[Array, ""] | None = None,
) -> tuple[Int[Array, " b"], Float[Array, " b"], Int[Array, " b"]]:
    """Return the positions, scores and ids of the chosen prompts, largest score first and NaN last.

    Without `prompt_ids`, the ids are the positions. With `count`, only `count` prompts are chosen, and the position m,
    the score minus infinity and the id -1 pad the result at its end.
    """
    positions = choose_positions(choose, key, scores, batch_size, prompt_ids, state, count)
    scores, ids = scores_and_ids(positions, scores, prompt_ids)
    order = descending(jnp.where(ids < 0, -jnp.inf, scores), batch_size)[1]
    return positions[order], scores[order], ids[order]


def choose_positions(
    choose: ChooseFn,
    key: Key[Array, ""],
    scores: Float[Array, " m"],
    batch_size: int,
    prompt_ids: Int[Array, " m"] | None,
    state: State,
    count: Int[Array, ""] | None,
) -> Int[Array, " b"]:
    """Return the rule's choice. A `count` of None is not passed on, because not every rule takes a `count`."""
    scores = scores.astype(jnp.float32)  # a user's acquisition may return another type
    if count is None:
        return choose(key, scores, batch_size, prompt_ids, state)
    return choose(key, scores, batch_size, prompt_ids, state, count=count)
