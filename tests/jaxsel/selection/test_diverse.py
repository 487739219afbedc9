"""Tests of the rule `diverse`, which chooses prompts with good scores whose embeddings lie apart.

It chooses prompt by prompt. Each choice has the largest sum of its score and `weight` times its distances to the
prompts chosen before, and to the prompts of the last `anchor_batches` batches.
"""

import functools
from typing import Any, NamedTuple

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jaxtyping import Array

import jaxsel
from jaxsel.selection.largest_scores import choose_top_k
from tests.support.reference import assert_frequency, cosine_distance, diversified

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)
POOL, CANDIDATES, FEATURES, BATCHES, VISITS = 20, 12, 3, 3, 4
# Anchors are the latest batches: the rule prefers prompts whose embeddings are far from theirs.
RULES = {
    "with anchors": {"weight": 0.3, "anchor_batches": 2, "shortlist": None},
    "without anchors": {"weight": 1.0, "anchor_batches": 0, "shortlist": None},
    "of a shortlist": {"weight": 2.0, "anchor_batches": 9, "shortlist": 2},  # more batches than exist
}
SCORES = st.one_of(st.sampled_from([0.0, 0.5, 1.0, -np.inf, np.inf, np.nan]), st.floats(-1000, 1000, width=32))


class Latest(NamedTuple):
    """The last batches of rollouts, newest first."""

    prompt_ids: Array
    successes: Array
    group_size: Array


class Pool(NamedTuple):
    """The smallest state that `diverse` can use."""

    embeddings: Array
    visits: Latest

    def latest(self, count: int) -> Any:
        return jax.tree.map(lambda column: column[:count], self.visits)


@functools.cache
def compiled(weight: float, anchor_batches: int, shortlist: int | None) -> Any:
    rule = jaxsel.diverse(weight=weight, anchor_batches=anchor_batches, shortlist=shortlist)
    return jax.jit(rule.choose, static_argnums=2)


compiled_top_k = jax.jit(choose_top_k, static_argnums=2)


def pool(embeddings: Any, prompt_ids: Any = ((0,),), group_size: Any = ((0,),)) -> Pool:
    ids, sizes = jnp.asarray(prompt_ids, jnp.int32), jnp.asarray(group_size, jnp.int32)
    return Pool(jnp.asarray(embeddings), Latest(ids, sizes, sizes))


def random_pool(seed: int, visited: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return scores and ids of candidates, embeddings of the pool (one is 0), and ids and sizes of the last batches."""
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(POOL, FEATURES)).astype(np.float32)
    embeddings[seed % POOL] = 0
    scores = (0.3 * rng.normal(size=CANDIDATES)).astype(np.float32)
    ids = rng.permutation(POOL)[:CANDIDATES].astype(np.int32)
    sizes = 8 * (np.arange(BATCHES)[:, None] < visited) * (rng.random((BATCHES, VISITS)) < 0.7)
    return scores, ids, embeddings, rng.integers(0, POOL, (BATCHES, VISITS)), sizes


def latest_embeddings(embeddings, last_ids, sizes, anchor_batches: int) -> np.ndarray:
    kept = sizes[:anchor_batches] > 0
    return embeddings[last_ids[:anchor_batches][kept]]


def mean_distance(embeddings: np.ndarray, others: np.ndarray | None = None) -> float:
    """Return the mean cosine distance of all pairs of embeddings, or of all pairs with `others`."""
    if others is not None:
        return float(np.mean([cosine_distance(a, b) for a in embeddings for b in others]))
    pairs = [cosine_distance(a, b) for i, a in enumerate(embeddings) for b in embeddings[:i]]
    return float(np.mean(pairs))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("batch_size", [1, 4, CANDIDATES])
@hypothesis.given(seed=st.integers(0, 2**31), visited=st.integers(0, BATCHES))
def test_choices_equal_the_greedy_formula(rule, batch_size, seed, visited):
    weight, anchor_batches, shortlist = RULES[rule].values()
    scores, ids, embeddings, last_ids, sizes = random_pool(seed, visited)
    expected, lead = diversified(
        scores.astype(float),
        embeddings.astype(float)[ids],
        batch_size,
        weight=weight,
        latest=latest_embeddings(embeddings.astype(float), last_ids, sizes, anchor_batches),
        shortlist=shortlist,
    )
    hypothesis.assume(lead > 1e-5)  # with a smaller lead over the next best, rounding could decide
    choose = compiled(weight, anchor_batches, shortlist)
    chosen = choose(KEY, jnp.array(scores), batch_size, jnp.array(ids), pool(embeddings, last_ids, sizes))
    assert chosen.dtype == jnp.int32
    np.testing.assert_array_equal(chosen, sorted(expected))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_embeddings_of_half_precision_are_compared_in_full(dtype):
    scores, ids, embeddings, last_ids, sizes = random_pool(0, BATCHES)
    halves = jnp.asarray(embeddings, dtype)
    rounded = np.asarray(halves, float)
    weight, anchor_batches, shortlist = RULES["with anchors"].values()
    latest = latest_embeddings(rounded, last_ids, sizes, anchor_batches)
    expected, lead = diversified(scores.astype(float), rounded[ids], 4, weight=weight, latest=latest)
    assert lead > 1e-5
    state = pool(halves, last_ids, sizes)
    chosen = compiled(weight, anchor_batches, shortlist)(KEY, jnp.array(scores), 4, jnp.array(ids), state)
    np.testing.assert_array_equal(chosen, sorted(expected))


def test_without_prompt_ids_positions_are_ids():
    scores, _, embeddings, last_ids, sizes = random_pool(1, BATCHES)
    state, few = pool(embeddings[:CANDIDATES], last_ids % CANDIDATES, sizes), jnp.array(scores)
    choose = compiled(*RULES["with anchors"].values())
    by_id = choose(KEY, few, 4, jnp.arange(CANDIDATES), state)
    np.testing.assert_array_equal(choose(KEY, few, 4, None, state), by_id)


@hypothesis.given(scores=st.lists(SCORES, min_size=CANDIDATES, max_size=CANDIDATES), seed=st.integers(0, 2**31))
def test_without_weight_diverse_equals_top_k(scores, seed):
    """Ties are broken in the same way too."""
    _, ids, embeddings, last_ids, sizes = random_pool(seed, BATCHES)
    given = jax.random.key(seed), jnp.array(scores, jnp.float32), 4, jnp.array(ids)
    chosen = compiled(0.0, 4, 2)(*given, pool(embeddings, last_ids, sizes))
    np.testing.assert_array_equal(chosen, compiled_top_k(*given))


@pytest.mark.parametrize("rule", RULES)
@hypothesis.given(
    scores=st.lists(SCORES, min_size=CANDIDATES, max_size=CANDIDATES),
    absent=st.sets(st.integers(0, CANDIDATES - 1)),
    seed=st.integers(0, 2**31),
)
def test_nan_and_minus_infinity_come_last_but_before_rows_of_no_prompt(rule, scores, absent, seed):
    _, ids, embeddings, last_ids, sizes = random_pool(seed, BATCHES)
    ids[list(absent)] = -1
    state, values = pool(embeddings, last_ids, sizes), np.array(scores, np.float32)
    chosen = np.asarray(compiled(*RULES[rule].values())(KEY, jnp.array(values), 4, jnp.array(ids), state))
    assert (np.diff(chosen) > 0).all()
    assert chosen[0] >= 0
    assert chosen[-1] < CANDIDATES
    infinite = np.nan_to_num(values, nan=-1.0, posinf=1.0, neginf=-1.0) * ~np.isfinite(values)
    kind = np.where(ids < 0, -2.0, infinite)
    np.testing.assert_array_equal(np.sort(kind[chosen]), np.sort(kind)[-4:])


def test_only_prompts_of_the_shortlist_are_chosen():
    scores, ids, embeddings, _, _ = random_pool(2, 0)
    largest = set(np.argsort(scores)[-4:].tolist())
    given = KEY, jnp.array(scores), 2, jnp.array(ids), pool(embeddings)
    assert set(compiled(100.0, 0, 2)(*given).tolist()) <= largest
    assert not set(compiled(100.0, 0, None)(*given).tolist()) <= largest
    np.testing.assert_array_equal(compiled(100.0, 0, 1)(*given), compiled(0.0, 0, 1)(*given))


def test_ties_are_broken_uniformly_whatever_the_weight():
    """Before the first observation all scores tie. Broken by position, ties would always give the first row."""
    trials, tied = 4000, np.array([1, 2, 4, 5])
    scores = jnp.zeros(7).at[tied].set(1.0)
    choose, state = jaxsel.diverse(shortlist=None).choose, pool(np.ones((7, 2), np.float32))
    keys = jax.random.split(KEY, trials)
    chosen = jax.jit(lambda: jax.lax.map(lambda key: choose(key, scores, 1, None, state), keys, batch_size=500))()
    counts = np.bincount(np.asarray(chosen).ravel(), minlength=7)
    assert counts[tied].sum() == trials
    assert_frequency(counts[tied], trials, 1 / 4)


def test_shortlists_of_parts_suffice_for_the_choice_of_the_whole_pool():
    scores, _, embeddings, last_ids, sizes = random_pool(3, BATCHES)
    scores = jnp.round(jnp.array(scores), 1)  # rounded, so that some scores tie
    state, choose = pool(embeddings, last_ids, sizes), compiled(*RULES["of a shortlist"].values())
    whole = choose(KEY, scores, 2, jnp.arange(CANDIDATES), state)
    parts = map(jnp.array, np.split(np.arange(CANDIDATES), 2))
    sent = jnp.concatenate([part[compiled_top_k(KEY, scores[part], 4, part)] for part in parts])
    assert len(sent) < CANDIDATES
    np.testing.assert_array_equal(sent[choose(KEY, scores[sent], 2, sent, state)], whole)


def batches(weight: float, anchor_batches: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return embeddings of the chosen and of the last batch, and scores of the chosen batch, for 60 random pools."""
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(60, 24, FEATURES)).astype(np.float32)
    scores = rng.random((60, 24)).astype(np.float32)
    last = rng.integers(0, 24, (60, 1, 4))
    rule = jaxsel.diverse(weight=weight, anchor_batches=anchor_batches, shortlist=None)

    @jax.jit
    @jax.vmap
    def choose(scores, embeddings, last):
        return rule.choose(KEY, scores, 4, None, Pool(embeddings, Latest(last, last, jnp.full_like(last, 8))))

    chosen = np.asarray(choose(scores, embeddings, last))
    rows = np.arange(60)[:, None]
    return embeddings[rows, chosen], embeddings[rows, last[:, 0]], scores[rows, chosen]


def test_the_larger_the_weight_the_further_apart_and_the_lower_the_scores():
    drawn = [batches(weight, 0) for weight in (0.0, 0.3, 10.0)]
    distance = [np.mean([mean_distance(batch) for batch in chosen]) for chosen, _, _ in drawn]
    assert (np.diff(distance) > 0.02).all()
    assert (np.diff([scores.mean() for _, _, scores in drawn]) < 0).all()


def test_the_next_batch_lies_away_from_the_last():
    near, far = (
        np.mean([mean_distance(batch, last) for batch, last in zip(chosen, lasts, strict=True)])
        for chosen, lasts, _ in (batches(1.0, 0), batches(1.0, 1))
    )
    assert far > near + 0.1


def test_a_state_without_embeddings_is_refused():
    with pytest.raises(
        ValueError, match="the state NoneType lacks embeddings; give the rule diverse with amortized or state_space"
    ):
        jaxsel.diverse().choose(KEY, jnp.ones(3), 2, None, None)
    method = jaxsel.adaptive(rule=jaxsel.diverse(anchor_batches=0))
    for selector in (method, jaxsel.exploring(method)):
        with pytest.raises(ValueError, match="lacks embeddings; give embeddings to state_space or adaptive"):
            selector.select(KEY, selector.init(KEY, 3), 2)
    arcus = jaxsel.arcus(rule=jaxsel.diverse(anchor_batches=0))
    with pytest.raises(ValueError, match="lacks embeddings; give the rule diverse with amortized or state_space"):
        arcus.select(KEY, arcus.init(KEY, 3), 2)


@pytest.mark.parametrize("wrap", [lambda predictor: predictor, jaxsel.recalibrated])
def test_a_state_without_latest_batches_needs_a_rule_without_anchors(wrap):
    """Two kinds of prompts have the same scores: a batch of two has one of each kind."""
    kinds = np.repeat(np.eye(2, dtype=np.float32), 6, axis=0)
    predictor = wrap(jaxsel.state_space(kinds))
    score = jaxsel.expected_variance()
    spread = jaxsel.make_selector(predictor, score, jaxsel.diverse(weight=1.0, anchor_batches=0), method="spread")
    for step in range(5):
        chosen = spread.select(jax.random.key(step), spread.init(KEY, 12), 2).prompt_ids
        assert sorted(chosen // 6) == [0, 1]
    anchored = jaxsel.make_selector(predictor, score, jaxsel.diverse(), method="anchored")
    with pytest.raises(ValueError, match=r"anchor_batches is 4, but .* the latest batches; give anchor_batches=0"):
        anchored.select(KEY, anchored.init(KEY, 12), 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": -0.1}, r"weight is -0\.1; give a finite number of at least 0"),
        ({"weight": float("nan")}, "weight is nan"),
        ({"weight": float("inf")}, "weight is inf"),
        ({"anchor_batches": -1}, "anchor_batches is -1; give an integer from 0 to 65535"),
        ({"anchor_batches": 1.5}, r"anchor_batches is 1\.5"),
        ({"shortlist": 0}, "shortlist is 0; give an integer of at least 1"),
        ({"shortlist": 2.5}, r"shortlist is 2\.5"),
        ({"shortlist": True}, "shortlist is True"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        jaxsel.diverse(**arguments)


def test_choosing_more_than_the_candidates_is_an_error():
    with pytest.raises(ValueError, match="k"):
        jaxsel.diverse().choose(KEY, jnp.ones(3), 4, None, pool(np.ones((3, 2), np.float32)))
