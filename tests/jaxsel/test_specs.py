"""A spec describes a selector's method and settings. It is JSON-compatible, and the selector can be rebuilt from it."""

import inspect
import json
from typing import Any

import jax
import numpy as np
import pytest

import jaxsel

N = 12
EMBEDDINGS = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
SMALL: dict[str, Any] = {"width": 4, "num_heads": 1, "context_size": 4, "inner_steps": 1, "history": 8}


def again(selector: jaxsel.Selector, **options: Any) -> jaxsel.Selector:
    predictor = jaxsel.recalibrated(predictor_of(selector), **options)
    assert selector.acquisition is not None
    assert selector.rule is not None
    return jaxsel.make_selector(predictor, selector.acquisition, selector.rule, method=selector.spec["method"])


def predictor_of(selector: jaxsel.Selector) -> jaxsel.Predictor:
    return jaxsel.Predictor(selector.spec["predictor"], selector.init, selector.predict, selector.update)


STRATA = np.arange(N) % 3
METHODS = {
    "mopps": jaxsel.mopps(),
    "mopps, decay": jaxsel.mopps(decay=0.7),
    "mopps, target": jaxsel.mopps(target=0.4),
    "mopps, prior": jaxsel.mopps(prior_alpha=0.1),
    "mopps, vector prior": jaxsel.mopps(prior_alpha=np.linspace(1, 2, N)),
    "mopps, group": jaxsel.mopps(group_size=4),
    "mopps, by step": jaxsel.mopps(ageing="step"),
    "mopps, sampled": jaxsel.mopps(acquisition=jaxsel.mixed_probability(log=True), rule=jaxsel.gumbel_top_k(0.5)),
    "threshold": jaxsel.threshold(),
    "threshold, bounds": jaxsel.threshold(lower=0.2),
    "dps": jaxsel.dps(),
    "dps, prior": jaxsel.dps(prior_counts="progress"),
    "dps, belief": jaxsel.dps(initial_belief=[0.3, 0.3, 0.1]),
    "dps, strata": jaxsel.dps(rule=jaxsel.stratified(jaxsel.gumbel_top_k(0.3), STRATA)),
    "dps, shares": jaxsel.dps(rule=jaxsel.stratified(jaxsel.top_k(), STRATA, shares={0: 0.5, 1: 0.25, 2: 0.25})),
    "dps, entropy": jaxsel.dps(entropy_weight=0.1),
    "adaptive": jaxsel.adaptive(),
    "adaptive, temperature": jaxsel.adaptive(temperature=0.5),
    "adaptive, embeddings": jaxsel.adaptive(EMBEDDINGS, group_size=4),
    "uniform": jaxsel.uniform(),
    "gps": jaxsel.gps(EMBEDDINGS, **SMALL),
    "gps, paper": jaxsel.gps(EMBEDDINGS, decay=None, **SMALL),
    "gps, no shortlist": jaxsel.gps(EMBEDDINGS, shortlist=None, **SMALL),
    "gps, weight": jaxsel.gps(EMBEDDINGS, diversity_weight=0.3, **SMALL),
}
METHODS |= {
    name: jaxsel.make_selector(predictor, acquisition, jaxsel.top_k(), method="custom")
    for name, predictor, acquisition in [
        ("custom, state space", jaxsel.state_space(), jaxsel.expected_variance()),
        ("custom, kalman", jaxsel.kalman(scale="logit", step_variance=0.1), jaxsel.expected_variance()),
        ("custom, near", jaxsel.state_space(), jaxsel.mixed_near_target(0.4, log=True)),
        ("custom, signal", jaxsel.state_space(), jaxsel.expected_signal()),
        ("custom, embeddings", jaxsel.state_space(EMBEDDINGS, group_size=4), jaxsel.expected_variance()),
    ]
}
ALL = {
    **METHODS,
    **{f"recalibrated {name}": again(selector) for name, selector in METHODS.items()},
    "recalibrated mopps by three numbers": again(METHODS["mopps"], method="beta"),
    "recalibrated mopps in a short window": again(METHODS["mopps"], window=64),
    "mopps recalibrated twice": again(again(METHODS["mopps"])),
}
MAKERS = (
    jaxsel.beta_bernoulli,
    jaxsel.hidden_markov,
    jaxsel.amortized,
    jaxsel.state_space,
    jaxsel.kalman,
    jaxsel.arc_length,
    jaxsel.thompson,
    jaxsel.target_success_rate,
    jaxsel.posterior_draw,
    jaxsel.mixed_probability,
    jaxsel.mixed_near_target,
    jaxsel.entropy,
    jaxsel.expected_variance,
    jaxsel.expected_signal,
    jaxsel.top_k,
    jaxsel.within_bounds,
    jaxsel.gumbel_top_k,
    jaxsel.random_subset,
    jaxsel.diverse,
    jaxsel.stratified,
    jaxsel.recalibrated,
)


def made_of(part: dict[str, Any]) -> Any:
    """Return the predictor, acquisition or rule of a spec. A spec has only hashes of arrays; `given` has the arrays."""
    make = {maker.__name__: maker for maker in MAKERS}[part["name"]]
    assert set(part) == {"name", *inspect.signature(make).parameters}
    arguments = {name: value for name, value in part.items() if name != "name"}
    for inner in arguments.keys() & {"predictor", "rule"}:
        arguments[inner] = made_of(arguments[inner])
    given = {"embeddings": EMBEDDINGS, "prior_alpha": np.linspace(1, 2, N), "strata": STRATA}
    return make(
        **{name: given[name] if str(value).startswith("sha256:") else value for name, value in arguments.items()}
    )


@pytest.mark.parametrize("name", ALL)
def test_a_spec_is_json_and_unique(name):
    spec = ALL[name].spec
    assert json.loads(json.dumps(spec)) == spec
    assert set(spec) == {"method", "predictor", "acquisition", "rule"}
    assert [other for other, selector in ALL.items() if selector.spec == spec] == [name]


@pytest.mark.parametrize("name", METHODS)
def test_recalibration_keeps_the_specs_of_the_method_and_the_inner_predictor(name):
    plain, corrected = METHODS[name].spec, ALL[f"recalibrated {name}"].spec
    assert corrected["method"] == plain["method"] == name.partition(",")[0]
    assert corrected["predictor"]["name"] == "recalibrated"
    assert corrected["predictor"]["predictor"] == plain["predictor"]
    assert {key: corrected[key] for key in ("acquisition", "rule")} == {
        key: plain[key] for key in ("acquisition", "rule")
    }


@pytest.mark.parametrize("name", ALL)
def test_a_selector_can_be_made_again_from_its_spec(name):
    spec = ALL[name].spec
    parts = (made_of(spec[part]) for part in ("predictor", "acquisition", "rule"))
    assert jaxsel.make_selector(*parts, method=spec["method"]).spec == spec


@pytest.mark.parametrize("name", ["dps", "dps, strata", "recalibrated mopps"])
def test_exploring_keeps_the_method_and_its_rule(name):
    plain = ALL[name].spec
    spec = jaxsel.exploring(ALL[name], share=0.2, after=5).spec
    assert json.loads(json.dumps(spec)) == spec
    assert spec == plain | {"rule": {"name": "exploring", "rule": plain["rule"], "share": 0.2, "after": 5}}


def test_the_spec_of_a_prompt_selector_adds_the_candidate_ratio():
    live = jaxsel.PromptSelector(ALL["recalibrated dps"], num_prompts=N, candidate_ratio=2)
    assert live.spec == ALL["recalibrated dps"].spec | {"candidate_ratio": 2}


def test_an_initial_belief_survives_a_round_trip_through_the_spec():
    beliefs = np.asarray(jax.random.dirichlet(jax.random.key(0), np.ones(3), (200,)), np.float64)
    for belief in beliefs * 7:
        said = jaxsel.hidden_markov(initial_belief=belief).spec["initial_belief"]
        assert jaxsel.hidden_markov(initial_belief=said).spec["initial_belief"] == said
