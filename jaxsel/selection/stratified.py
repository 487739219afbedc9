"""The rule `stratified`: a quota of every batch for each stratum of the pool, such as a data source or a domain."""

import functools
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt
from numpy.typing import ArrayLike

from jaxsel import _validate
from jaxsel.base import EVERY_SCORE, Rule, State
from jaxsel.numerics import random
from jaxsel.numerics.compaction import count_true, true_positions
from jaxsel.selection.composition import check_takes_count
from jaxsel.selection.largest_scores import ids_or_positions

_LARGEST_TOTAL = 2**31 - 1  # largest sum of the weights, so that twice a remainder fits in uint32
_GIVE = "give one integer or one string per prompt"


class _Batch(NamedTuple):
    """The chosen positions in the scores, and how many they are. The number of scores pads the positions."""

    positions: Int[Array, " b"]
    size: Int[Array, ""]


def stratified(rule: Rule, strata: ArrayLike, *, shares: Mapping[Any, float] | None = None) -> Rule:
    r"""Return a rule that gives every stratum its share of the batch; the given rule chooses within each stratum.

    In a batch of b prompts, the quota of a stratum with the share w is b w, rounded up or down at random. It is rounded
    up with the probability b w - floor(b w), so that over many batches every stratum gets exactly its share, also where
    this is much less than one prompt per batch. If a stratum has fewer candidates than its quota, the rule chooses the
    missing prompts among all other candidates.

    The rule runs once per stratum that has a quota, each time over all candidates.

    Args:
        rule: Rule that chooses within a stratum, for example `top_k()`.
        strata: Stratum of every prompt of the pool, as integers or strings.
        shares: Share of every stratum, as numbers of at least 0 in any unit. None: its share of the pool.

    Raises:
        ValueError: `strata` is not a vector of integers or strings, or `shares` does not name exactly the strata. Also
            for a rule whose `choose` takes no `count`, or that is made for a pool of another size. From
            `Selector.init`: `strata` does not have one entry per prompt.
    """
    _validate.made(Rule, rule=rule)
    check_takes_count(rule)
    labels, codes = _coded(strata)
    if rule.num_prompts not in (None, len(codes)):
        raise ValueError(
            f"strata has {len(codes)} entries, and rule is for {rule.num_prompts} prompts; use one pool for both"
        )
    weights = np.bincount(codes, minlength=len(labels)) if shares is None else _weights(labels, shares)

    def choose(
        key: Key[Array, ""],
        scores: Float[Array, " m"],
        batch_size: int,
        prompt_ids: Int[Array, " m"] | None = None,
        state: State = None,
        count: Int[Array, ""] | None = None,
    ) -> Int[Array, " b"]:
        if prompt_ids is None and len(scores) != len(codes):
            raise ValueError(f"strata has {len(codes)} entries for {len(scores)} prompts; give one entry per prompt")
        quota_key, rule_key = jax.random.split(key)
        wanted = jnp.int32(batch_size) if count is None else count
        ids = ids_or_positions(prompt_ids, scores)
        stratum = jnp.where(ids < 0, len(labels), jnp.asarray(codes)[jnp.maximum(ids, 0)].astype(jnp.int32))
        quota = quotas(quota_key, wanted, batch_size, weights)
        # all strata use one key, so that a part of a pool on several devices ranks its prompts as the whole pool does
        choose_among = functools.partial(rule.choose, rule_key, scores, batch_size, state=state)
        return _by_quota(choose_among, ids, stratum, quota, wanted, batch_size)

    spec = {
        "name": "stratified",
        "rule": rule.spec,
        "strata": _fingerprint(labels, codes),
        "shares": None if shares is None else {str(label): float(share) for label, share in shares.items()},
    }
    return Rule(spec, choose, None if rule.shortlist is None else lambda batch_size: EVERY_SCORE, len(codes))


def _by_quota(
    choose_among: Callable[..., Int[Array, " b"]],
    ids: Int[Array, " m"],
    stratum: Int[Array, " m"],
    quota: Int[Array, " k"],
    wanted: Int[Array, ""],
    batch_size: int,
) -> Int[Array, " b"]:
    """Return the ascending positions of the batch: the quotas, then other prompts, then rows with ids below 0."""
    size = len(ids)

    def with_more(batch: _Batch, among: Bool[Array, " m"], at_most: Int[Array, ""]) -> _Batch:
        number = jnp.minimum(at_most, count_true(among).astype(jnp.int32))  # with x64 the count is an int64

        def add() -> _Batch:
            return _appended(batch, choose_among(prompt_ids=jnp.where(among, ids, -1), count=number), number)

        return jax.lax.cond(number > 0, add, lambda: batch)

    def with_stratum(k: Int[Array, ""], batch: _Batch) -> _Batch:
        return with_more(batch, stratum == k, quota[k])

    batch = _Batch(jnp.full(batch_size, size, jnp.int32), jnp.int32(0))
    batch = jax.lax.fori_loop(0, len(quota), with_stratum, batch)
    batch = with_more(batch, _is_left(batch, size) & (ids >= 0), wanted - batch.size)
    missing = wanted - batch.size
    rows = true_positions(_is_left(batch, size), batch_size)
    rows = jnp.where(jnp.arange(batch_size, dtype=jnp.int32) < missing, rows, size)
    return jnp.sort(_appended(batch, rows, missing).positions)


def quotas(key: Key[Array, ""], size: Int[Array, ""], at_most: int, weights: Int[np.ndarray, " k"]) -> Int[Array, " k"]:
    """Return the number of prompts per stratum in a batch of `size` prompts: its exact part, rounded at random.

    The parts lie one after the other on a line, in random order, and the line is cut into pieces of length 1, from a
    random point. A stratum gets a place for every cut in its part (systematic sampling, Madow 1949).

    Args:
        key: Key of the rounding.
        size: Size of the batch.
        at_most: Static bound of the size.
        weights: Shares of the strata in a common unit, with a sum below 2^31.
    """
    order_key, start_key = jax.random.split(key)
    total = int(weights.sum())
    order = jnp.argsort(random.uniform(order_key, jnp.arange(len(weights), dtype=jnp.int32)))
    whole, remainder = _divided(size, at_most, weights)
    # the first cut is the start; a first part of that length makes the ends of all others relative to the cuts
    start = jax.random.randint(start_key, (1,), 0, total, jnp.int32).astype(jnp.uint32)
    lengths = jnp.concatenate([start, remainder.astype(jnp.uint32)[order]])

    def end(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
        rest = one[1] + other[1]  # below 2^32
        exceeds = rest >= np.uint32(total)
        return one[0] + other[0] + exceeds.astype(jnp.int32), jnp.where(exceeds, rest - np.uint32(total), rest)

    cuts, _ = jax.lax.associative_scan(end, (jnp.zeros(len(lengths), jnp.int32), lengths))
    return whole.at[order].add(jnp.diff(cuts))


def _divided(
    size: Int[Array, ""], at_most: int, weights: Int[np.ndarray, " k"]
) -> tuple[Int[Array, " k"], Int[Array, " k"]]:
    """Return quotient and remainder of `size * weights` by the sum of the weights, bit by bit without overflow."""
    weight, total = jnp.asarray(weights, jnp.uint32), np.uint32(weights.sum())
    quotient, remainder = jnp.zeros_like(weight), jnp.zeros_like(weight)
    for bit in reversed(range(at_most.bit_length())):
        is_set = ((size >> bit) & 1).astype(jnp.uint32)
        quotient = quotient + quotient
        for term in (remainder, weight * is_set):
            remainder = remainder + term
            exceeds = remainder >= total
            quotient = quotient + exceeds.astype(jnp.uint32)
            remainder = jnp.where(exceeds, remainder - total, remainder)
    return quotient.astype(jnp.int32), remainder.astype(jnp.int32)


def _appended(batch: _Batch, positions: Int[Array, " b"], number: Int[Array, ""]) -> _Batch:
    """Return the batch with the first `number` of the positions appended; the others are padding."""
    at = batch.size + jnp.arange(len(positions), dtype=jnp.int32)
    return _Batch(batch.positions.at[at].set(positions, mode="drop"), batch.size + number)


def _is_left(batch: _Batch, num_scores: int) -> Bool[Array, " m"]:
    return jnp.ones(num_scores, bool).at[batch.positions].set(False, mode="drop")


def _coded(strata: ArrayLike) -> tuple[list[int] | list[str], UInt[np.ndarray, " N"]]:
    """Return the sorted labels, and the index of every prompt's label in the smallest integer type."""
    _validate.unmasked("strata", strata, _GIVE)
    are_texts = {isinstance(value, str) for value in strata} if isinstance(strata, list | tuple) else set()
    if len(are_texts) > 1:
        raise ValueError(f"strata holds strings and other values; {_GIVE}")
    try:
        # without `object`, every element of an array of strings takes as much memory as the longest
        array = np.asarray(strata, object if True in are_texts else None)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"strata is not an array on the host ({error}); {_GIVE}") from error
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f"strata has shape {array.shape}; {_GIVE}")
    if array.dtype.kind in "iu":
        distinct, codes = np.unique(array, return_inverse=True)
        labels = distinct.tolist()
    else:
        values = array.tolist()
        for row, value in enumerate(values):
            if not isinstance(value, str):
                raise ValueError(f"strata[{row}] is {value!r} of type {type(value).__name__}; {_GIVE}")
        labels = sorted(set(values))
        code = {label: number for number, label in enumerate(labels)}
        codes = np.fromiter((code[value] for value in values), np.int64, len(values))
    return labels, codes.astype(np.min_scalar_type(len(labels)))


def _weights(labels: list[int] | list[str], shares: Mapping[Any, float]) -> Int[np.ndarray, " k"]:
    """Return integers in the ratio of the shares. The ratio is exact if the shares are fractions of small integers."""
    if not isinstance(shares, Mapping):
        raise ValueError(f"shares is {shares!r:.200}; give a dictionary from every stratum to its share")
    given, names = {str(label): share for label, share in shares.items()}, [str(label) for label in labels]
    if len(given) != len(shares):
        raise ValueError(f"shares names a stratum twice, as number and text: {list(shares)!r:.200}; give it once")
    if given.keys() != set(names):
        missing, unknown = sorted(set(names) - given.keys()), sorted(given.keys() - set(names))
        raise ValueError(f"shares lacks the strata {missing} and has the unknown {unknown}; give one share per stratum")
    for name, share in given.items():
        _validate.non_negative(**{f"shares[{name!r}]": share})
    if not any(given.values()):
        raise ValueError("shares is 0 for every stratum; give a number above 0 for at least one stratum")
    values = [float(given[name]) for name in names]
    fractions = [Fraction(value).limit_denominator(10_000) for value in values]
    unit = math.lcm(*(fraction.denominator for fraction in fractions))
    weights = [int(fraction * unit) for fraction in fractions]
    is_exact = all(
        math.isclose(fraction, value, rel_tol=1e-9) for fraction, value in zip(fractions, values, strict=True)
    )
    if not is_exact or sum(weights) > _LARGEST_TOTAL:
        weights = [round(value / max(values) * (_LARGEST_TOTAL // 2 // len(values))) for value in values]
    return np.array(weights, np.int64)


def _fingerprint(labels: list[int] | list[str], codes: UInt[np.ndarray, " N"]) -> str:
    digest = hashlib.sha256(json.dumps(labels).encode())
    digest.update(codes.tobytes())
    return f"sha256:{digest.hexdigest()[:16]}"
