import functools
import json
from itertools import pairwise

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import jaxsel
from jaxsel.numerics import random
from jaxsel.selection.largest_scores import choose_top_k
from tests.support.optimized import OPTIMIZED
from tests.support.reference import assert_frequency, inclusion_probabilities, largest

KEY = jax.random.key(0)
TRIALS = 20_000
RULES = {
    "top_k": jaxsel.top_k(),
    "within_bounds": jaxsel.within_bounds(0.3, 0.7),
    "gumbel_top_k": jaxsel.gumbel_top_k(),
    "random_subset": jaxsel.random_subset(),
}
SCORES = st.one_of(st.sampled_from([0.0, 0.5, 1.0, -np.inf, np.inf, np.nan]), st.floats(-1000, 1000, width=32))


def choose(rule: jaxsel.Rule, key, scores, batch_size: int):
    """Choose among prompts whose ids are their positions in `scores`."""
    return rule.choose(key, scores, batch_size, jnp.arange(len(scores)), None)


@functools.cache
def compiled(rule: str):
    return jax.jit(functools.partial(choose, RULES[rule]), static_argnums=2)


compiled_by_id = jax.jit(RULES["top_k"].choose, static_argnums=2)


def many(rule: jaxsel.Rule, batch_size: int):
    """Return a function that counts how often each position is chosen over many keys."""

    def counts(scores):
        keys = jax.random.split(KEY, TRIALS)
        chosen = jax.lax.map(lambda key: choose(rule, key, scores, batch_size), keys, batch_size=1000)
        return jnp.zeros(scores.shape, jnp.int32).at[chosen].add(1)

    return lambda scores: np.asarray(jax.jit(counts)(jnp.asarray(scores, jnp.float32)))


@pytest.mark.parametrize("batch_size", [1, 7, 50])
def test_top_k_equals_numpy(batch_size):
    scores = np.random.default_rng(0).permutation(50).astype(np.float32) - 20
    chosen = compiled("top_k")(KEY, jnp.asarray(scores), batch_size)
    np.testing.assert_array_equal(chosen, np.sort(largest(scores, batch_size)))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("batch_size", [1, 5, 8])
@hypothesis.given(scores=st.lists(SCORES, min_size=8, max_size=8), seed=st.integers(0, 2**31))
def test_any_scores_give_distinct_positions(rule, batch_size, scores, seed):
    chosen = np.asarray(compiled(rule)(jax.random.key(seed), jnp.array(scores, jnp.float32), batch_size))
    assert chosen.dtype == np.int32
    assert chosen.shape == (batch_size,)
    assert len(set(chosen.tolist())) == batch_size
    assert ((chosen >= 0) & (chosen < 8)).all()


@hypothesis.given(scores=st.lists(SCORES, min_size=8, max_size=8), seed=st.integers(0, 2**31))
def test_top_k_takes_the_largest_and_nan_last(scores, seed):
    values = np.nan_to_num(np.array(scores, np.float32), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    chosen = compiled("top_k")(jax.random.key(seed), jnp.array(scores, jnp.float32), 5)
    np.testing.assert_array_equal(np.sort(values[np.asarray(chosen)]), np.sort(values)[-5:])


@hypothesis.given(
    scores=st.lists(SCORES, min_size=8, max_size=8),
    absent=st.sets(st.integers(0, 7)),
    seed=st.integers(0, 2**31),
)
def test_rows_of_no_prompt_come_after_all_others_wherever_they_stand(scores, absent, seed):
    ids = jnp.arange(8).at[jnp.array([*absent], int)].set(-1)
    chosen = compiled_by_id(jax.random.key(seed), jnp.array(scores, jnp.float32), 5, ids)
    assert len(set(chosen.tolist())) == 5
    assert (ids[chosen] < 0).sum() == max(0, len(absent) - 3)


def test_ties_are_broken_uniformly():
    scores = [0.0, 1.0, 0.5, 0.5, -1.0, 0.5, 0.5, 0.5]
    counts = many(RULES["top_k"], 3)(scores)
    ties = np.equal(scores, 0.5)
    assert counts[1] == TRIALS
    assert counts[~ties].sum() == TRIALS
    assert_frequency(counts[ties], TRIALS, 2 / 5)


@pytest.mark.parametrize("ids", [None, jnp.arange(40)])
@pytest.mark.parametrize("count", [None, 4])
def test_draws_that_collide_never_displace_a_better_prompt(ids, count, monkeypatch):
    monkeypatch.setattr(random, "uniform", lambda key, ids: jnp.full(ids.shape, 0.25, jnp.float32))
    scores = jnp.zeros(40).at[39].set(1.0)
    batch_size = 4 if count is None else 8
    chosen = choose_top_k(KEY, scores, batch_size, ids, count=count if count is None else jnp.int32(count))
    chosen = np.asarray(chosen)
    assert (chosen < 40).sum() == 4
    assert 39 in chosen
    np.testing.assert_array_equal(np.sort(chosen), chosen)


def test_half_of_a_pool_with_equal_scores_is_a_random_half():
    size = 100_000
    choose_half = jax.jit(lambda key: choose_top_k(key, jnp.zeros(size), size // 2))
    first, second = (np.asarray(choose_half(jax.random.key(seed))) for seed in range(2))
    for chosen in (first, second):
        assert chosen.shape == np.unique(chosen).shape == (size // 2,)
        assert ((chosen >= 0) & (chosen < size)).all()
        assert_frequency(np.histogram(chosen, 4, (0, size))[0], size // 4, 1 / 2)
    assert_frequency(np.array([len(np.intersect1d(first, second))]), size, 1 / 4)


def test_scores_of_minus_infinity_are_chosen_at_random_when_nothing_else_is_left():
    counts = many(RULES["top_k"], 3)([-np.inf, 1.0, np.nan, -np.inf, -np.inf])
    assert counts[1] == TRIALS
    assert_frequency(counts[[0, 2, 3, 4]], TRIALS, 2 / 4)


def test_within_bounds_takes_random_prompts_of_the_band():
    scores = [0.1, 0.3, 0.5, 0.7, 0.9, 0.69, 0.31]
    counts = many(RULES["within_bounds"], 2)(scores)
    band = np.array([False, True, True, True, False, True, True])
    assert counts[~band].sum() == 0
    assert_frequency(counts[band], TRIALS, 2 / 5)


def test_within_bounds_fills_up_with_the_nearest():
    scores = jnp.array([0.0, 0.5, 0.95, 0.2, 0.75, 0.6])
    chosen = compiled("within_bounds")(KEY, scores, 5)
    np.testing.assert_array_equal(chosen, [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(compiled("within_bounds")(KEY, scores, 3), [1, 4, 5])


def test_gumbel_top_k_takes_the_largest_scores_at_the_lowest_temperature():
    scores = jnp.array([-6.0, -2.5, -80.0, -2.4, -7.0])
    np.testing.assert_array_equal(choose(jaxsel.gumbel_top_k(1e-30), KEY, scores, 2), [1, 3])


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_gumbel_top_k_samples_in_proportion(temperature):
    weights = np.array([0.05, 0.1, 0.2, 0.3, 0.35])
    counts = many(jaxsel.gumbel_top_k(temperature), 3)(np.log(weights))
    assert_frequency(counts, TRIALS, inclusion_probabilities(weights ** (1 / temperature), 3))


def test_gumbel_top_k_never_takes_weight_0_before_others():
    counts = many(RULES["gumbel_top_k"], 2)([-np.inf, 0.0, 0.0, -np.inf])
    np.testing.assert_array_equal(counts, [0, TRIALS, TRIALS, 0])


def test_random_subset_is_uniform_whatever_the_scores():
    counts = many(RULES["random_subset"], 3)([0.0, 1.0, np.nan, np.inf, -np.inf, 5.0, 5.0])
    assert counts.sum() == 3 * TRIALS
    assert_frequency(counts, TRIALS, 3 / 7)


@pytest.mark.parametrize("rule", RULES)
def test_eager_equals_jit(rule):
    scores = jnp.array([0.1, 0.5, 0.5, 0.9, 0.2])
    np.testing.assert_array_equal(choose(RULES[rule], KEY, scores, 2), compiled(rule)(KEY, scores, 2))


def test_a_selector_returns_the_scores_and_predictions_of_its_choice():
    selector = jaxsel.make_selector(jaxsel.beta_bernoulli(), jaxsel.target_success_rate(), jaxsel.top_k())
    state = selector.init(KEY, 10)
    successes, rows = np.arange(9), np.arange(9)[::-1]
    batch = jaxsel.Rollouts(jnp.array(rows), jnp.array(successes), jnp.full(9, 8))
    state = selector.update(KEY, state, batch)
    chosen = jax.jit(selector.select, static_argnums=2)(KEY, state, 4)
    predicted = jax.jit(selector.predict)(KEY, state, chosen.prompt_ids)
    np.testing.assert_allclose(chosen.prediction.success_rate, predicted.success_rate, rtol=1e-6)
    np.testing.assert_allclose(chosen.scores, -((predicted.success_rate - 0.5) ** 2), atol=1e-7)
    assert all(first >= second for first, second in pairwise(np.asarray(chosen.scores)))


def test_choosing_more_than_the_candidates_is_an_error():
    with pytest.raises(ValueError, match="k"):
        choose(jaxsel.top_k(), KEY, jnp.ones(3), 4)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda: jaxsel.within_bounds(0.7, 0.3), r"lower is 0\.7 and upper is 0\.3; give numbers with lower <= upper"),
        (lambda: jaxsel.within_bounds(0.0, float("nan")), "upper is nan"),
        (lambda: jaxsel.gumbel_top_k(0.0), r"temperature is 0\.0; .* at least 1e-30, or the rule top_k\(\)"),
        (lambda: jaxsel.gumbel_top_k(1e-40), "temperature is 1e-40; give a finite number of at least 1e-30"),
        (lambda: jaxsel.adaptive(temperature=9e-31), "temperature is 9e-31"),
        (lambda: jaxsel.gumbel_top_k(float("inf")), "temperature is inf"),
    ],
)
def test_bad_arguments_are_named(rule, message):
    with pytest.raises(ValueError, match=message):
        rule()


def test_specs_survive_json():
    predictor = jaxsel.beta_bernoulli(decay=float(np.float32(0.5)), group_size=8)
    odd = predictor._replace(spec={"widths": (1, 2), "rate": np.float32(0.5), "size": np.int64(3)})
    spec = jaxsel.make_selector(odd, jaxsel.entropy(), jaxsel.top_k(), method="mine").spec
    assert json.loads(json.dumps(spec)) == spec
    assert spec == {
        "method": "mine",
        "predictor": {"widths": [1, 2], "rate": 0.5, "size": 3},
        "acquisition": {"name": "entropy"},
        "rule": {"name": "top_k"},
    }


@pytest.mark.slow
def test_ties_of_a_large_pool_favour_no_rows():
    """Random draws break ties. They are so fine that two of 3e7 prompts rarely share the smallest draw."""
    size, trials = 30_000_000, 12
    first = jax.jit(lambda key: choose_top_k(key, jnp.zeros(size), 1)[0] / size, compiler_options=OPTIMIZED)
    places = [float(first(key)) for key in jax.random.split(KEY, trials)]
    assert abs(np.mean(places) - 0.5) < 4 * np.sqrt(1 / 12 / trials)
    draws = random.uniform(KEY, jnp.arange(1 << 22))
    smallest = jnp.sort(draws)[:1000]
    assert len(np.unique(smallest)) > 995


def test_scores_match_the_returned_prediction():
    selector, size = jaxsel.mopps(), 40_000
    chosen = jax.jit(selector.select, static_argnums=2)(KEY, selector.init(KEY, size), 1000)
    np.testing.assert_allclose(chosen.scores, jaxsel.thompson(0.5).score(chosen.prediction), atol=1e-6)
