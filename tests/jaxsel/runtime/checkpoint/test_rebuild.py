"""A selector is rebuilt from its spec (its description in JSON), with the same choices, or the spec is refused."""

import json

import numpy as np
import pytest

import jaxsel
from jaxsel import PromptSelector
from jaxsel.runtime.checkpoint.rebuild import selector_from_spec

pytestmark = pytest.mark.slow  # takes 6 s: every selector is compiled twice

N = 24
UNEVEN = [0.1, 0.2, 0.71]
SELECTORS = {
    "mopps": lambda: jaxsel.mopps(decay=0.7, prior_alpha=2.5, ageing="step", target=0.3),
    "threshold": lambda: jaxsel.threshold(lower=0.2),
    "dps": lambda: jaxsel.dps(initial_belief=UNEVEN, prior_counts="progress", entropy_weight=0.1),
    "uniform": lambda: jaxsel.uniform(group_size=4),
    "gumbel": lambda: jaxsel.dps(rule=jaxsel.gumbel_top_k(0.5)),
    "composed": lambda: jaxsel.make_selector(
        jaxsel.recalibrated(jaxsel.hidden_markov(decay=0.5), method="beta", window=16),
        jaxsel.mixed_probability(log=True),
        jaxsel.within_bounds(-np.inf, 0),
        method="mine",
    ),
    "near": lambda: jaxsel.make_selector(
        jaxsel.beta_bernoulli(), jaxsel.mixed_near_target(0.4, log=True), jaxsel.gumbel_top_k(0.3)
    ),
    "entropy": lambda: jaxsel.make_selector(
        jaxsel.recalibrated(jaxsel.beta_bernoulli()), jaxsel.entropy(), jaxsel.random_subset()
    ),
}


def flat_of(spec):
    """Return the spec as earlier versions wrote it, with the settings of all parts side by side."""

    def part(kind, own):
        flat = {kind: own["name"]} | {key: value for key, value in own.items() if key not in ("name", "predictor")}
        return flat | ({"inner": part("predictor", own["predictor"])} if "predictor" in own else {})

    if not isinstance(spec["predictor"], dict):
        return spec
    flat = {"method": spec["method"]}
    for kind in ("predictor", "acquisition", "rule"):
        flat |= part(kind, spec[kind])
    return flat


def play(selector):
    prompts = PromptSelector(selector, num_prompts=N, seed=3)
    chosen = []
    for step in range(3):
        ids = prompts.select(6)
        prompts.observe(ids, (ids + step) % 5, 4)
        chosen.append(ids.tolist())
    return chosen


NESTED = {  # earlier versions had no such specs
    "exploring": lambda: jaxsel.exploring(jaxsel.dps(), share=0.5, after=2),
    "arcus": lambda: jaxsel.arcus(group_size=4, max_step=0.1),
}


@pytest.mark.parametrize("name", [*SELECTORS, *NESTED])
def test_a_rebuilt_selector_makes_the_same_choices(name):
    selector = (SELECTORS | NESTED)[name]()
    rebuilt = selector_from_spec(json.loads(json.dumps(selector.spec)) | {"candidate_ratio": 3})
    assert rebuilt.spec == selector.spec
    assert play(rebuilt) == play(selector)


@pytest.mark.parametrize("name", SELECTORS)
def test_a_flat_spec_of_earlier_versions_is_read(name):
    selector = SELECTORS[name]()
    rebuilt = selector_from_spec(flat_of(selector.spec))
    assert flat_of(rebuilt.spec) == flat_of(selector.spec)
    again = selector_from_spec(rebuilt.spec)
    assert flat_of(again.spec) == flat_of(selector.spec)


def changed(selector, **entries):
    return selector.spec | entries


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (lambda: jaxsel.gps(np.eye(N, 4, dtype=np.float32)).spec, "embeddings"),
        (lambda: jaxsel.mopps(prior_alpha=np.arange(1.0, N + 1)).spec, "sha256"),
        (lambda: changed(jaxsel.mopps(), predictor={"name": "theirs"}), "theirs"),
        (lambda: changed(jaxsel.mopps(), rule="os.system"), "os.system|rule"),
        (lambda: {"method": "mine"}, "predictor"),
        (lambda: jaxsel.mopps(rule=jaxsel.stratified(jaxsel.top_k(), np.arange(N))).spec, "strata"),
        (
            lambda: jaxsel.exploring(jaxsel.mopps(rule=jaxsel.stratified(jaxsel.top_k(), np.arange(N)))).spec,
            "strata",
        ),
    ],
)
def test_a_spec_that_cannot_be_rebuilt_is_refused(spec, message):
    with pytest.raises(ValueError, match=rf"(?s){message}.*give the selector"):
        selector_from_spec(spec())
