"""Tests of the rule `stratified`, which gives every stratum (the prompts with one label) a quota of the batch.

Quotas are rounded at random, by systematic sampling. An inner rule chooses within each stratum, and places that a
stratum cannot fill go to the best prompts of the others.
"""

import functools
import math
from fractions import Fraction
from typing import NamedTuple

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import jaxsel
from jaxsel.selection.stratified import quotas
from tests.support.reference import assert_frequency, largest

pytestmark = pytest.mark.slow  # takes 10 s: every inner rule in every stratum

KEY = jax.random.key(0)
N = 24
STRATA = np.repeat([7, 2, 5], [12, 8, 4])  # unsorted labels; sorted, 2 is stratum 0, 5 is 1, 7 is 2
SCORES = np.random.default_rng(1).permutation(N).astype(np.float32)
TOP = jaxsel.stratified(jaxsel.top_k(), STRATA)
INNER = {
    "top_k": jaxsel.top_k(),
    "within_bounds": jaxsel.within_bounds(4, 9),
    "gumbel_top_k": jaxsel.gumbel_top_k(3.0),
    "random_subset": jaxsel.random_subset(),
}
RULES = {name: jaxsel.stratified(rule, STRATA) for name, rule in INNER.items()}


class Embedded(NamedTuple):
    """A selector's state with embeddings, which the rule `diverse` needs."""

    embeddings: jax.Array

    def latest(self, count: int) -> jaxsel.Rollouts:
        return jaxsel.Rollouts(*(jnp.zeros((count, 1), jnp.int32) for _ in range(3)))


@functools.cache
def compiled(rule: str):
    return jax.jit(RULES[rule].choose, static_argnums=2)


@functools.cache
def compiled_quotas(at_most: int, weights: tuple[int, ...]):
    return jax.jit(lambda key, size: quotas(key, size, at_most, np.array(weights)))


def parts_of(size: int, weights) -> list[Fraction]:
    return [Fraction(size * int(weight), int(sum(weights))) for weight in weights]


def assert_rounded(found: np.ndarray, size: int, weights) -> None:
    """Check that quotas are the exact parts of `size` rounded down or up, and that whole parts stay."""
    assert found.sum() == size
    for number, part in zip(found.tolist(), parts_of(size, weights), strict=True):
        assert int(part) <= number <= math.ceil(part)


def by_numpy(scores, quota, batch_size: int, strata=STRATA, ids=None) -> np.ndarray:
    """Return the positions that `stratified(top_k())` chooses where all scores differ."""
    ids = np.arange(len(scores)) if ids is None else np.asarray(ids)
    chosen: list[int] = []
    for label, size in zip(np.unique(strata), quota, strict=True):
        members = np.flatnonzero((ids >= 0) & (strata[ids] == label))
        chosen += members[largest(scores[members], min(size, len(members)))].tolist()
    others = np.setdiff1d(np.flatnonzero(ids >= 0), chosen)
    missing = min(batch_size - len(chosen), len(others))
    return np.sort([*chosen, *others[largest(scores[others], missing)]])


@hypothesis.given(
    weights=st.lists(st.integers(0, 2**27), min_size=1, max_size=8).filter(any),
    size=st.integers(0, 5000),
    seed=st.integers(0, 2**31),
)
def test_quotas_are_the_parts_of_the_batch_rounded(weights, size, seed):
    padded = np.array(weights + [0] * (8 - len(weights)))
    found = quotas(jax.random.key(seed), jnp.int32(size), 5000, padded)
    assert_rounded(np.asarray(found), size, padded)


@pytest.mark.parametrize("weights", [(1, 1, 1), (2, 1, 1), (5, 3, 2), (1,), (2**31 - 2, 1), (0, 1)])
def test_quotas_of_every_size(weights):
    for size in range(9):
        found = np.asarray(compiled_quotas(8, weights)(KEY, jnp.int32(size)))
        assert_rounded(found, size, weights)


@pytest.mark.parametrize(
    ("weights", "size"), [((3, 1, 1, 1), 6), ((1, 1, 1), 5), ((97, 2, 1), 8), ((0, 1, 999), 3), ((2**31 - 9, 8), 7)]
)
def test_over_many_batches_every_stratum_gets_its_share(weights, size):
    trials = 4000
    keys = jax.random.split(KEY, trials)
    found = np.asarray(jax.jit(jax.vmap(lambda key: quotas(key, jnp.int32(size), 8, np.array(weights))))(keys))
    for number, part in zip(found.T, parts_of(size, weights), strict=True):
        assert_frequency(number.sum() - trials * int(part), trials, float(part - int(part)))


@pytest.mark.parametrize("batch_size", [1, 6, 11, 12, 24])
def test_the_best_of_every_stratum_are_chosen(batch_size):
    chosen = np.asarray(compiled("top_k")(KEY, jnp.asarray(SCORES), batch_size))
    quota = np.unique(STRATA[chosen], return_counts=True)
    quota = np.array([dict(zip(*quota, strict=True)).get(label, 0) for label in (2, 5, 7)])
    assert_rounded(quota, batch_size, [8, 4, 12])
    np.testing.assert_array_equal(chosen, by_numpy(SCORES, quota, batch_size))


@pytest.mark.parametrize("rule", RULES)
def test_the_inner_rule_chooses_the_same_from_a_stratum_alone(rule):
    scores = jnp.asarray(SCORES)
    chosen, choose = np.asarray(compiled(rule)(KEY, scores, 6)), jax.jit(INNER[rule].choose, static_argnums=2)
    for label, size in ((7, 3), (2, 2), (5, 1)):
        ids = jnp.where(np.equal(STRATA, label), jnp.arange(N), -1)
        inner_key = jax.random.split(KEY)[1]
        alone = choose(inner_key, scores, 6, ids, None, count=jnp.int32(size))
        np.testing.assert_array_equal(chosen[STRATA[chosen] == label], np.asarray(alone)[:size])


@hypothesis.given(data=st.data())
def test_candidates_counts_and_padding_by_numpy(data):
    ids = np.array(data.draw(st.permutations(range(N))))[:16]
    absent = data.draw(st.sets(st.integers(0, 15), max_size=14))
    ids[[*absent]] = -1
    count = data.draw(st.integers(1, 8))
    scores = SCORES[:16]
    chosen = np.asarray(compiled("top_k")(KEY, jnp.asarray(scores), 8, jnp.asarray(ids), None, jnp.int32(count)))
    assert (chosen[count:] == 16).all()
    chosen = chosen[:count]
    assert len(set(chosen.tolist())) == count
    assert (np.diff(chosen) > 0).all()
    num_real = min(count, 16 - len(absent))
    assert (ids[chosen] >= 0).sum() == num_real
    quota = compiled_quotas(8, (8, 4, 12))(jax.random.split(KEY)[0], jnp.int32(count))
    expected = by_numpy(scores, np.asarray(quota), num_real, ids=ids)
    np.testing.assert_array_equal(chosen[ids[chosen] >= 0], expected)


def test_a_stratum_with_too_few_candidates_leaves_its_places_to_the_best_others():
    ids = jnp.asarray([0, 1, 2, 12, 13, 20])  # three of stratum 7, two of stratum 2, one of stratum 5
    scores = jnp.asarray([1.0, 2.0, 3.0, 9.0, 8.0, 0.0])
    only_fives = jaxsel.stratified(jaxsel.top_k(), STRATA, shares={2: 0, 5: 1, 7: 0})
    np.testing.assert_array_equal(jax.jit(only_fives.choose, static_argnums=2)(KEY, scores, 3, ids, None), [3, 4, 5])


@pytest.mark.parametrize("rule", [*RULES, "diverse"])
@pytest.mark.parametrize("count", [None, 9])
def test_parts_of_a_pool_give_the_choice_of_the_pool(rule, count):
    """As on a mesh of devices, the rule chooses from each part of the pool, and then from what it chose."""
    rules = RULES | {"diverse": jaxsel.stratified(jaxsel.diverse(weight=0.0, shortlist=None), STRATA)}
    state = Embedded(jnp.asarray(np.random.default_rng(0).normal(size=(N, 3)), jnp.float32))
    scores, batch_size = jnp.asarray(SCORES), 12
    options = {} if count is None else {"count": jnp.int32(count)}
    choose = jax.jit(rules[rule].choose, static_argnums=2)
    state = state if rule == "diverse" else None
    whole = np.asarray(choose(KEY, scores, batch_size, jnp.arange(N), state, **options))
    finalists = []
    for part in np.array_split(np.arange(N), 3):
        at_most = {} if count is None else {"count": jnp.int32(min(count, len(part)))}
        size = min(batch_size, len(part))
        found = np.asarray(choose(KEY, scores[part], size, jnp.asarray(part), state, **at_most))
        finalists += part[found[found < len(part)]].tolist()
    finalists = np.array(finalists)
    found = np.asarray(choose(KEY, scores[finalists], batch_size, jnp.asarray(finalists), state, **options))
    found = found[found < len(finalists)]
    np.testing.assert_array_equal(finalists[found], whole[whole < N])


def test_shares_are_the_expected_part_of_every_batch():
    names = np.array(["maths", "code", "logic"])[np.arange(60) % 3]
    shares = {"code": 1, "logic": 2, "maths": 5}
    selector = jaxsel.mopps(rule=jaxsel.stratified(jaxsel.top_k(), names, shares=shares))
    live = jaxsel.PromptSelector(selector, num_prompts=60, candidate_ratio=3)
    for step in range(4):
        ids = live.select(16)
        assert len(set(ids.tolist())) == 16
        found = dict(zip(*np.unique(names[ids], return_counts=True), strict=True))
        if step == 0:  # later windows of candidates may lack prompts of a stratum
            assert found == {"code": 2, "logic": 4, "maths": 10}
        live.observe(ids, ids % 9, 8)


@pytest.mark.parametrize(
    ("shares", "batch_size"),
    [({2: 0.1, 5: 0.3, 7: 0.6}, 10), ({2: 1 / 3, 5: 1 / 6, 7: 1 / 2}, 12), ({2: 1e-9, 5: 0.5, 7: 0.5}, 8)],
)
def test_shares_in_floating_point_give_whole_quotas(shares, batch_size):
    rule = jaxsel.stratified(jaxsel.top_k(), STRATA[np.arange(4 * N) % N], shares=shares)
    chosen = np.asarray(jax.jit(rule.choose, static_argnums=2)(KEY, jnp.asarray(np.tile(SCORES, 4)), batch_size))
    counts = [(STRATA[chosen % N] == label).sum() for label in shares]
    np.testing.assert_array_equal(counts, [round(share * batch_size) for share in shares.values()])


def test_labels_may_be_strings_of_any_kind_and_specs_tell_strata_apart():
    names = [f"source {label}" for label in STRATA]
    rules = [
        jaxsel.stratified(jaxsel.top_k(), given)
        for given in (names, np.array(names), np.array(names, object), STRATA, STRATA.astype(np.int8), STRATA[::-1])
    ]
    prints = [rule.spec["strata"] for rule in rules]
    assert prints[0] == prints[1] == prints[2]
    assert prints[3] == prints[4]
    assert len(set(prints)) == 3
    assert all(rule.num_prompts == N for rule in rules)


def test_a_share_is_given_once():
    with pytest.raises(ValueError, match=r"shares names a stratum twice, as number and text: \[2, '2', 5, 7\]"):
        jaxsel.stratified(jaxsel.top_k(), STRATA, shares={2: 1, "2": 5, 5: 1, 7: 2})


def test_a_checkpoint_refuses_other_strata(tmp_path):
    def selector(strata):
        return jaxsel.mopps(rule=jaxsel.stratified(jaxsel.top_k(), strata, shares={2: 1, 5: 1, 7: 2}))

    live = jaxsel.PromptSelector(selector(STRATA), num_prompts=N)
    live.select(4)
    live.save(tmp_path)
    again = jaxsel.PromptSelector.load(tmp_path, selector(STRATA.tolist()))
    np.testing.assert_array_equal(again.select(8), live.select(8))
    with pytest.raises(ValueError, match=r"other hyperparameters .rule.strata: saved 'sha256:"):
        jaxsel.PromptSelector.load(tmp_path, selector(STRATA[::-1]))
    with pytest.raises(ValueError, match=r"does not contain the strata.*give the selector itself"):
        jaxsel.PromptSelector.load(tmp_path)


def no_count(key, scores, batch_size, prompt_ids=None, state=None):
    raise NotImplementedError


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: jaxsel.stratified(jaxsel.Rule({"name": "mine"}, no_count), STRATA), "'mine'.* no argument count"),
        (
            lambda: jaxsel.stratified(TOP, STRATA[1:]),
            "strata has 23 entries, and rule is for 24 prompts; use one pool for both",
        ),
        (lambda: jaxsel.stratified(jaxsel.top_k(), []), r"strata has shape \(0,\); give one integer or one string"),
        (lambda: jaxsel.stratified(jaxsel.top_k(), 3), r"strata has shape \(\)"),
        (lambda: jaxsel.stratified(jaxsel.top_k(), np.ma.masked_equal([1, 2], 2)), "strata has masked entries"),
        (lambda: jaxsel.stratified(jaxsel.top_k(), np.ones(3)), r"strata\[0\] is 1\.0 of type float"),
        (lambda: jaxsel.stratified(jaxsel.top_k(), np.array(["a", None])), r"strata\[1\] is None of type NoneType"),
        (lambda: jaxsel.stratified(jaxsel.top_k(), STRATA, shares={2: 1, 5: 1}), r"lacks the strata \['7'\]"),
        (
            lambda: jaxsel.stratified(jaxsel.top_k(), STRATA, shares={2: 1, 5: 1, 7: 1, 8: 1}),
            r"and has the unknown \['8'\]; give one",
        ),
        (lambda: jaxsel.stratified(jaxsel.top_k(), STRATA, shares={2: 1, 5: -1, 7: 1}), r"shares\['5'\] is -1;"),
        (lambda: jaxsel.stratified(jaxsel.top_k(), STRATA, shares={2: 0, 5: 0, 7: 0}), "shares is 0 for every stratum"),
        (lambda: jaxsel.stratified(jaxsel.top_k(), [1, "1"]), "strata holds strings and other values; give one"),
        (lambda: TOP.choose(KEY, jnp.ones(3), 2), "strata has 24 entries for 3 prompts; give one entry per prompt"),
        (lambda: jaxsel.mopps(rule=TOP).init(KEY, 25), "num_prompts is 25 with a rule for 24 prompts"),
        (lambda: jaxsel.PromptSelector(jaxsel.dps(rule=TOP), num_prompts=9), "num_prompts is 9 with a rule for 24"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_wrong_types_are_named(unchecked_types):
    with pytest.raises(ValueError, match=r"rule is .*call it: top_k"):
        jaxsel.stratified(jaxsel.top_k, STRATA)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"shares is \[1, 2, 3\]; give a dictionary from every stratum"):
        jaxsel.stratified(jaxsel.top_k(), STRATA, shares=[1, 2, 3])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"shares\['2'\] is None; give a finite number"):
        jaxsel.stratified(jaxsel.top_k(), STRATA, shares={2: None, 5: 0, 7: 1})  # pyright: ignore[reportArgumentType]
