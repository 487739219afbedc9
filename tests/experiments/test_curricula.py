from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

import jaxsel
from experiments.running.config import RunConfig
from experiments.running.curricula import PREDICTIVE, Given, make_curriculum
from experiments.running.method_config import MethodConfig
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
    assert RunConfig(method=MethodConfig("dps", margin=margin), train=train)  # the margin has no effect


def test_what_cannot_be_stratified_is_refused():
    with pytest.raises(ValueError, match=r"method.stratified is true, and the prompts have no strata; name"):
        make_curriculum(config("dps"), replace(POOL, strata=None))
    with pytest.raises(ValueError, match=r"method.stratified is true with uniform, which goes through"):
        make_curriculum(config("uniform"), POOL)
    with pytest.raises(ValueError, match="stratified is 'yes'"):
        MethodConfig(stratified="yes")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="different lengths"):
        replace(POOL, strata=["hard"])
