"""Choices among the prompts that a cheap approximation of the prediction has found."""

from typing import Any

import jax
import numpy as np
import pytest

import jaxsel
from jaxsel import make_selector
from tests.support.playing import mesh_of
from tests.support.small_gps import EMBEDDINGS, TINY, N

PROMISING = [3, 4, 6, 9, 12, 15, 18, 20]


def screen(key, state, prompt_ids, first_id=0):
    """Predict a success rate of 1/2 for the promising prompts, and of 0 for the others."""
    rows = np.arange(N) if prompt_ids is None else prompt_ids
    rate = jax.numpy.isin(rows, np.array(PROMISING)) * np.float32(0.5)
    return jaxsel.mopps().predict(key, state, prompt_ids, first_id)._replace(success_rate=rate)


def selector(wrap=lambda predictor: predictor) -> jaxsel.PromptSelector:
    predictor = wrap(jaxsel.beta_bernoulli()._replace(screen=screen))
    method = make_selector(predictor, jaxsel.target_success_rate(), jaxsel.top_k(), screened=len(PROMISING) / N)
    return jaxsel.PromptSelector(method, num_prompts=N, seed=1)


def tiny_gps(**arguments) -> jaxsel.Selector:
    return jaxsel.gps(EMBEDDINGS, **TINY | arguments)


@pytest.mark.parametrize("wrap", [lambda predictor: predictor, jaxsel.recalibrated], ids=["plain", "recalibrated"])
def test_only_screened_prompts_are_chosen(wrap):
    taught = selector(wrap)
    taught.observe([3, 6, 9, 20], [8, 8, 0, 8], 8)  # their exact success rates are the furthest from 1/2
    assert set(taught.select(4).tolist()) == {4, 12, 15, 18}
    assert not {15, 18} & set(taught.select(6, exclude=[15, 18]))
    assert set(taught.select(8)) == set(PROMISING)


def test_screening_never_leaves_too_few_prompts():
    assert len(set(selector().select(10).tolist())) == 10
    few = selector().select(3, candidates=[0, 1, 2, 3])
    assert set(few.tolist()) <= {0, 1, 2, 3}
    assert len(set(few)) == 3


def test_every_stratum_gets_its_share_of_a_screened_pool():
    """Of 21 strata, 20 have one prompt, and a batch of 2 has a place for one of them by turns."""
    strata = [str(min(i, 20)) for i in range(N)]
    rule = jaxsel.stratified(jaxsel.top_k(), strata, shares={str(i): 1 + 19 * (i == 20) for i in range(21)})
    predictor = jaxsel.beta_bernoulli()._replace(screen=screen)
    found = []
    for share in (5 / N, None):
        method = make_selector(predictor, jaxsel.target_success_rate(), rule, screened=share)
        state = method.init(jax.random.key(0), N)
        select = jax.jit(lambda key, method=method, state=state: method.select(key, state, 2).prompt_ids)
        chosen = np.stack([select(jax.random.key(seed)) for seed in range(40)])
        assert ((chosen < 20).sum(1) == 1).all()
        found.append(chosen[chosen < 20])
    np.testing.assert_array_equal(*found)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [{"num_draws": 1}, {"latent_size": 0, "decay": None}])
def test_with_one_latent_the_screen_of_gps_is_its_prediction(arguments):
    taught = jaxsel.PromptSelector(tiny_gps(**arguments), num_prompts=N)
    taught.observe([1, 5, 9], [0, 4, 8], 8)
    model, state = jaxsel.amortized(EMBEDDINGS, **TINY | arguments), taught._belief.state
    assert model.screen is not None
    screened, exact = (jax.jit(f)(jax.random.key(2), state, None) for f in (model.screen, model.predict))
    jax.tree.map(np.testing.assert_array_equal, screened, exact)


@pytest.mark.slow
def test_a_recalibrated_screen_is_corrected_too():
    arguments: dict[str, Any] = TINY | {"num_draws": 1}
    model = jaxsel.amortized(EMBEDDINGS, **arguments)
    taught = jaxsel.PromptSelector(
        make_selector(jaxsel.recalibrated(model), jaxsel.mixed_probability(), jaxsel.top_k()), num_prompts=N
    )
    for _ in range(3):
        taught.observe(np.arange(N), np.arange(N) % 9, 8)
    corrected, state = jaxsel.recalibrated(model), taught._belief.state
    assert corrected.screen is not None
    screened, exact = (jax.jit(f)(jax.random.key(2), state, None) for f in (corrected.screen, corrected.predict))
    jax.tree.map(np.testing.assert_array_equal, screened, exact)
    plain = model.predict(jax.random.key(2), state.inner, None)
    assert np.abs(plain.mixed - exact.mixed).max() > 0.01


@pytest.mark.slow
def test_gps_screens_as_many_prompts_as_its_rule_needs():
    chosen = [
        jaxsel.PromptSelector(tiny_gps(screened=share, shortlist=4), num_prompts=N, seed=3).select(4).tolist()
        for share in (None, 0.01, 1.0)
    ]
    assert chosen[2] == chosen[0]
    assert len(set(chosen[1])) == 4
    assert tiny_gps(screened=0.01).spec["screened"] == 0.01
    assert "screened" not in tiny_gps().spec


@pytest.mark.slow
def test_adaptive_chooses_as_without_screening():
    """The screen gives all prompts one variance, and the rule draws the same numbers for both."""
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(5000, 4)).astype(np.float16)
    whole, screened = (
        jaxsel.PromptSelector(jaxsel.adaptive(embeddings, screened=share), num_prompts=5000) for share in (None, 0.1)
    )
    for _ in range(3):
        chosen = whole.select(8)
        np.testing.assert_array_equal(screened.select(8), chosen)
        successes = rng.binomial(8, 1 / (1 + np.exp(-3 * embeddings[chosen, 0])))
        for selector in (whole, screened):
            selector.observe(chosen, successes, 8)
    predictor, state = jaxsel.state_space(embeddings), screened._belief.state
    assert predictor.screen is not None
    rough, exact = (jax.jit(f)(jax.random.key(2), state, None) for f in (predictor.screen, predictor.predict))
    assert np.ptp(exact.variance) > 1.1 * np.ptp(rough.variance) > 0
    assert np.corrcoef(rough.success_rate, exact.success_rate)[0, 1] > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [lambda selector: selector, jaxsel.exploring])
def test_a_checkpoint_without_embeddings_is_rebuilt_with_its_screen(wrap, tmp_path):
    saved = jaxsel.PromptSelector(wrap(jaxsel.adaptive(screened=0.5)), num_prompts=N)
    saved.save(tmp_path / "saved")
    rebuilt = jaxsel.PromptSelector.load(tmp_path / "saved")
    assert rebuilt.spec == saved.spec
    assert rebuilt.spec["screened"] == 0.5
    np.testing.assert_array_equal(rebuilt.select(4), saved.select(4))


@pytest.mark.parametrize("share", [0, -0.1, 1.5, float("nan")])
def test_a_bad_share_is_refused(share):
    with pytest.raises(ValueError, match=r"screened is .*; give a share above 0 and at most 1"):
        tiny_gps(screened=share)


def test_a_rule_that_considers_every_prompt_is_refused():
    rule = jaxsel.stratified(jaxsel.diverse(), np.arange(N) % 2)
    for options in ({"rule": rule}, {"shortlist": None}):
        with pytest.raises(ValueError, match=r"screened is 0\.5, but the rule .* considers all prompts; leave out"):
            tiny_gps(screened=0.5, **options)


def test_a_predictor_without_a_screen_is_refused():
    with pytest.raises(ValueError, match=r"screened is 0\.5, but beta_bernoulli has no screen; leave out screened"):
        make_selector(jaxsel.beta_bernoulli(), jaxsel.thompson(), jaxsel.top_k(), screened=0.5)


def test_a_mesh_is_refused():
    with pytest.raises(ValueError, match=r"the selector has screened=0\.5; leave out screened on a mesh"):
        jaxsel.PromptSelector(tiny_gps(screened=0.5), num_prompts=N, mesh=mesh_of(2))
