from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

import jaxsel
from experiments.running.config import RunConfig, configured
from experiments.running.curricula import PREDICTIVE, Given, make_curriculum
from experiments.running.method_config import ACQUISITIONS, PRIOR_COUNTS, MethodConfig
from rl.groups import Groups
from rl.prompts import PromptPool
from rl.train_config import TrainConfig

N = 24
TEXTS = [f"prompt {row}" for row in range(N)]
KINDS = ["hard"] * 12 + ["easy"] * 8 + ["odd"] * 4
POOL = PromptPool(TEXTS, TEXTS, TEXTS, strata=KINDS)


def config(method: str) -> RunConfig:
    return RunConfig(method=MethodConfig(method, batch_size=6, candidate_ratio=0, stratified=True))


@pytest.mark.parametrize(
    "method", ["mopps", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dps", "threshold"))]
)
def test_every_stratum_has_its_share_of_a_batch(method):
    selector = make_curriculum(config(method), POOL).selector
    for _ in range(2):
        chosen = selector.select(6)
        assert Counter(KINDS[row] for row in chosen) == {"hard": 3, "easy": 2, "odd": 1}
        selector.observe(chosen, [8, 0, 4, 8, 0, 4], 8)


@pytest.mark.parametrize("name", ["gps", "adaptive"])
def test_a_screen_is_a_setting(name):
    given = Given(8, lambda: np.eye(N, 3, dtype=np.float32), {})
    specs = [PREDICTIVE[name](MethodConfig(name, screened=share), given).spec for share in (0.0, 0.25)]
    assert specs[1] == specs[0] | {"screened": 0.25}
    with pytest.raises(ValueError, match=r"screened is 1\.5; give a number from 0 to 1"):
        MethodConfig(name, screened=1.5)


def test_the_acquisition_of_adaptive_is_a_setting():
    given = Given(4, lambda: np.eye(N, 3, dtype=np.float32), {})
    variance, signal = (
        PREDICTIVE["adaptive"](MethodConfig("adaptive", acquisition=name), given).spec["acquisition"]
        for name in ("expected_variance", "expected_signal")
    )
    assert variance == {"name": "expected_variance", "log": True}
    assert signal == {"name": "expected_signal", "group_size": 4, "log": True}
    with pytest.raises(ValueError, match="acquisition is 'signal'; give one of expected_variance, expected_signal"):
        MethodConfig("adaptive", acquisition="signal")


def test_a_part_of_every_batch_is_for_the_longest_waits():
    method = MethodConfig("dps", batch_size=6, candidate_ratio=0, stratified=True, explore_share=0.5, explore_after=9)
    selector = make_curriculum(RunConfig(method=method), POOL).selector
    rule = selector.spec["rule"]
    assert (rule["name"], rule["share"], rule["after"]) == ("exploring", 0.5, 9)
    assert rule["rule"]["name"] == "stratified"
    seen: set[int] = set()
    for _ in range(8):
        chosen = selector.select(6).tolist()
        assert len(set(chosen) - seen) >= min(3, N - len(seen))  # a prompt without a visit waited longest
        selector.observe(chosen, [8] * 6, 8)
        seen |= set(chosen)
    assert seen == set(range(N))
    plain = MethodConfig("dps", candidate_ratio=0)
    assert "exploring" not in str(make_curriculum(RunConfig(method=plain), POOL).selector.spec)


@pytest.mark.parametrize(("setting", "value"), [("explore_share", 0.1), ("explore_after", 5)])
def test_shuffled_epochs_do_not_explore(setting, value):
    settings: dict[str, Any] = {setting: value}
    below: dict[str, Any] = {setting: -1}
    with pytest.raises(ValueError, match=rf"method\.{setting} is {value} with uniform, .*; give method\.{setting}=0"):
        MethodConfig("uniform", **settings)
    with pytest.raises(ValueError, match=f"{setting} is -1"):
        MethodConfig("dps", **below)


@pytest.mark.parametrize("name", PREDICTIVE)
def test_strata_replace_the_rule_and_nothing_else(name):
    given = Given(8, lambda: np.eye(N, 3, dtype=np.float32), {})
    screened = 0.25 if name in ("gps", "adaptive") else 0.0
    method = MethodConfig(name, screened=screened, lower=0.2, decay=0.4)
    plain = PREDICTIVE[name](method, given)
    assert plain.spec == {"threshold": jaxsel.threshold(lower=0.2, decay=0.4).spec}.get(name, plain.spec)
    if name == "gps":  # its rule looks at all chosen prompts together
        return
    assert plain.rule is not None
    rule = jaxsel.stratified(plain.rule, KINDS)
    assert PREDICTIVE[name](method, given, rule=rule).spec == plain.spec | {"rule": rule.spec}


def test_arcus_takes_its_target_and_temperature_and_no_priors():
    method = MethodConfig("arcus", target=0.4, temperature=0.2)
    found = PREDICTIVE["arcus"](method, Given(4, lambda: np.zeros((N, 1)), {})).spec
    assert found == jaxsel.arcus(target=0.4, temperature=0.2, group_size=4).spec
    with pytest.raises(ValueError, match=r"prior_rollouts is 8 with arcus, .*; give method\.prior_rollouts=0, or anot"):
        replace(method, prior_rollouts=8)
    with pytest.raises(ValueError, match=r"method\.target is 1 with arcus, .*; give a number from 1e-06 to 0\.999999"):
        replace(method, target=1.0)


@pytest.mark.parametrize("make", [partial(MethodConfig, "arcus"), jaxsel.arcus])
@pytest.mark.parametrize(
    ("setting", "value", "accepted"),
    [
        ("temperature", 1e-30, True),
        ("temperature", 9e-31, False),
        ("target", 1e-6, True),
        ("target", 9e-7, False),
        ("target", 1 - 9e-7, False),
    ],
)
def test_a_run_refuses_what_arcus_refuses_when_its_settings_are_read(make, setting, value, accepted):
    refused = pytest.raises(ValueError, match=f"{setting} is .*; give a")
    with nullcontext() if accepted else refused:
        make(**{setting: value})


@pytest.mark.parametrize("name", ["adaptive", "arcus"])
def test_a_temperature_that_is_not_given_is_the_default_of_the_method(name):
    given = Given(8, lambda: np.eye(N, 3, dtype=np.float32), {})
    arguments = {"adaptive": (given.embeddings(),), "arcus": ()}[name]
    plain, hotter = (PREDICTIVE[name](MethodConfig(name, temperature=t), given).spec for t in (None, 2.0))
    assert plain == getattr(jaxsel, name)(*arguments).spec
    assert hotter == getattr(jaxsel, name)(*arguments, temperature=2.0).spec != plain
    with pytest.raises(ValueError, match=r"temperature is 0"):
        MethodConfig(name, temperature=0.0)


@pytest.mark.parametrize("group_size", range(1, 9))
@pytest.mark.parametrize("margin", [0.0, 0.25, 1 / 3, 0.4, 0.5])
def test_a_filter_that_no_group_can_pass_is_refused(group_size, margin):
    counts = np.arange(group_size + 1, dtype=np.int32)
    every = Groups(counts, None, None, counts, np.full_like(counts, group_size))  # pyright: ignore[reportArgumentType]
    train = TrainConfig(group_size=group_size, advantage="reinforce_pp")
    for method in (MethodConfig("dps", filter=True, margin=margin), MethodConfig("dynamic_sampling", margin=margin)):
        if every.within(margin).any():
            assert RunConfig(method=method, train=train).method == method
        else:
            with pytest.raises(
                ValueError, match=rf"train.group_size is {group_size} with method.margin={margin:g} and a"
            ):
                RunConfig(method=method, train=train)
    assert RunConfig(method=MethodConfig("mopps", margin=margin), train=train)  # the margin has no effect


@pytest.mark.parametrize("acquisition", ACQUISITIONS)
@pytest.mark.parametrize("name", PREDICTIVE)
def test_single_rollouts_are_refused_where_the_score_counts_mixed_groups(name, acquisition):
    method = MethodConfig(name, acquisition=acquisition)
    spec = PREDICTIVE[name](method, Given(2, lambda: np.eye(N, 3, dtype=np.float32), {})).spec
    for_mixed = spec["acquisition"]["name"] in ("mixed_probability", "expected_signal", "paced")
    said = (
        r"train.group_size is 1 with method\.\w+=\w+, which chooses mixed groups; .* give 2 or more, or method.name=m"
    )
    with pytest.raises(ValueError, match=said) if for_mixed else nullcontext():
        RunConfig(method=method, train=TrainConfig(group_size=1, advantage="reinforce_pp"))
    assert RunConfig(method=method, train=TrainConfig(group_size=2))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"method.name": "dps", "method.prior_counts": "flat"},
            "prior_counts is 'flat'; give one of ones, progress, s",
        ),
        ({"method.lower": 0.8, "method.upper": 0.2}, "lower is 0.8 and upper is 0.2; give numbers with lower <= upper"),
        ({"seed": 2**32}, "seed is 4294967296; give an integer from 0 to 4294967295"),
    ],
)
def test_what_a_selector_refuses_the_settings_refuse(settings, said):
    with pytest.raises(ValueError, match=said):
        configured(settings)


@pytest.mark.parametrize("counts", PRIOR_COUNTS)
def test_dps_has_the_prior_counts(counts):
    assert make_curriculum(configured({"method.name": "dps", "method.prior_counts": counts}, config("dps")), POOL)


def test_what_cannot_be_stratified_is_refused():
    with pytest.raises(ValueError, match=r"method.stratified is true, and the prompts have no strata; name"):
        make_curriculum(config("dps"), replace(POOL, strata=None))
    with pytest.raises(ValueError, match=r"method.stratified is true with uniform, which goes through"):
        make_curriculum(config("uniform"), POOL)
    with pytest.raises(ValueError, match="stratified is 'yes'"):
        MethodConfig(stratified="yes")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="different lengths"):
        replace(POOL, strata=["hard"])
