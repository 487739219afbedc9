import functools
import itertools
import json
import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

import jaxsel
from jaxsel.integrations.history import read_history
from rl.curriculum import DynamicSampling, HistoryResampling, Selected
from rl.engines.hf import HFEngine
from rl.learner import Learner
from rl.policy import build_policy
from rl.prompts import Verdict
from rl.run_log import RunLog, read_metrics
from rl.train_config import TrainConfig
from tests.support.runs import CONFIG, DPS, UNIFORM, assert_same_run, selector, start, until_killed

SLOW = pytest.mark.slow


@pytest.mark.slow
def test_the_policy_learns(task, tmp_path):
    config = TrainConfig(steps=60, group_size=8, learning_rate=3e-3, probe_every=0, warm_up_steps=1)
    records, _ = start(task, tmp_path, config)
    assert records[-1]["probe/held_out_accuracy"] > records[0]["probe/held_out_accuracy"] + 0.1


def test_metrics_are_logged(task, tmp_path):
    records, _ = start(task, tmp_path)
    assert [r["step"] for r in records] == list(range(9))
    assert records == read_metrics(tmp_path / "metrics.jsonl")
    assert records[-1]["rollouts"] == 8 * 4 * 4
    assert [r["step"] for r in records if "probe/spearman" in r] == [0, 4, 8]
    assert records[0]["probe/rollouts"] == (10 + 5) * 2  # the probe's rollouts are not part of "rollouts"
    for name in ("train/mixed_share", "policy/loss", "seconds/selecting", "selector/coverage"):
        assert all(np.isfinite(r[name]) for r in records[:-1])
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_a_batch_without_signal_changes_nothing(task, tmp_path):
    always = task._replace(verify=lambda *_: Verdict(True, 1.0))
    records, policy = start(always, tmp_path)
    fresh = build_policy(task.alphabet, hidden_size=32, num_layers=1, feed_forward_size=32, seed=0)
    for name, weight in fresh.model.state_dict().items():
        assert torch.equal(weight, policy.model.state_dict()[name])
    assert {r["policy/loss"] for r in records[:-1]} == {0.0}


def test_failed_generations_are_not_observed(task, tmp_path):
    class Failing(HFEngine):
        def generate(self, prompts, group_size, sampling, *, seed):
            out = super().generate(prompts, group_size, sampling, seed=seed)
            return out._replace(texts=[None] * len(out.texts))

    policy = build_policy(task.alphabet, hidden_size=32, num_layers=1, feed_forward_size=32, seed=0)
    chooser = selector()
    start(task, tmp_path, curriculum=Selected(chooser, 4), engine=Failing(policy))
    assert chooser.visits.sum() == 0
    np.testing.assert_array_equal(chooser.predict().success_rate, 0.5)


def test_the_next_choice_is_prepared_before_the_update_of_all_steps_but_the_last(task, tmp_path, monkeypatch):
    curriculum, events = Selected(selector(), 4), []
    collect, prepare, update = curriculum.collect, curriculum.prepare, Learner.update
    monkeypatch.setattr(curriculum, "collect", lambda *a: events.append("collect") or collect(*a))
    monkeypatch.setattr(curriculum, "prepare", lambda: events.append("prepare") or prepare())
    monkeypatch.setattr(Learner, "update", lambda *a: events.append("update") or update(*a))
    start(task, tmp_path, replace(CONFIG, steps=3), curriculum=curriculum)
    assert events == 2 * ["collect", "prepare", "update"] + ["collect", "update"]
    assert isinstance(curriculum.selector, jaxsel.PromptSelector)
    assert curriculum.selector._prepared is None


CURRICULA = {
    "mopps": lambda: Selected(selector(), 4),
    "dps": lambda: Selected(selector(DPS, None), 4),
    "dynamic_sampling": lambda: DynamicSampling(selector(UNIFORM, 1), 4, keep_surplus=True),
    "history_resampling": lambda: HistoryResampling(selector(UNIFORM, 1), 4, seed=0),
}


@pytest.fixture(scope="module")
def undisturbed(task, tmp_path_factory):
    """Return the uninterrupted run of a curriculum, computed once for all tests. Tests must not change it."""
    return functools.cache(
        lambda name: start(task, tmp_path_factory.mktemp("undisturbed"), curriculum=CURRICULA[name]())
    )


@pytest.mark.parametrize("name", CURRICULA)
@pytest.mark.parametrize("killed_at", [pytest.param(1, marks=SLOW), 5, pytest.param(7, marks=SLOW)])
def test_a_killed_run_continues_to_the_same_numbers(task, tmp_path, undisturbed, name, killed_at):
    whole = undisturbed(name)
    with pytest.raises(KeyboardInterrupt):
        start(task, tmp_path / "cut", curriculum=CURRICULA[name](), progress=until_killed(killed_at))
    resumed = start(task, tmp_path / "cut", curriculum=CURRICULA[name](), resume=True)
    assert_same_run(whole, resumed)
    assert read_metrics(tmp_path / "cut" / "metrics.jsonl") == resumed[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dps", "dynamic_sampling"])
def test_a_killed_run_with_mapp_continues_to_the_same_numbers(task, tmp_path, name):
    """A checkpoint keeps what MaPP needs: the beliefs about all groups, also dynamic sampling's surplus groups."""
    config = replace(CONFIG, advantage="mapp")
    whole = start(task, tmp_path / "whole", config, curriculum=CURRICULA[name]())
    with pytest.raises(KeyboardInterrupt):
        start(task, tmp_path / "cut", config, curriculum=CURRICULA[name](), progress=until_killed(5))
    assert_same_run(whole, start(task, tmp_path / "cut", config, curriculum=CURRICULA[name](), resume=True))
    recorded = start(task, tmp_path / "recorded", replace(config, history=True), curriculum=CURRICULA[name]())
    assert_same_run(whole, recorded)  # recording predicts once more per step, and changes nothing
    losses = [record["policy/loss"] for record in start(task, tmp_path / "grpo", curriculum=CURRICULA[name]())[0][:-1]]
    assert losses != [record["policy/loss"] for record in whole[0][:-1]]


@pytest.mark.slow
def test_mapp_learns_the_task(task, tmp_path):
    config = TrainConfig(steps=120, group_size=8, learning_rate=3e-3, probe_every=0, warm_up_steps=1, advantage="mapp")
    rewards = [record["train/reward"] for record in start(task, tmp_path, config)[0][:-1]]
    assert np.mean(rewards[:20]) < 0.2
    assert np.mean(rewards[-20:]) > 0.35  # GRPO gets about the same reward


def test_mapp_learns_from_equal_verdicts_that_the_belief_did_not_expect(task, tmp_path):
    """The belief before the first step is Beta(1, 1), so MaPP learns from four failures. GRPO has no gradient."""
    never = task._replace(verify=lambda *_: Verdict(False, 1.0))  # the verdict counts, not the reward
    config = replace(CONFIG, steps=1, probe_every=0)
    for advantage, learns in {"mapp": True, "grpo": False}.items():
        records, _ = start(never, tmp_path / advantage, replace(config, advantage=advantage))
        assert (records[0]["policy/grad_norm"] > 0) == learns


def test_the_belief_is_the_prediction_before_the_step(task, tmp_path, monkeypatch):
    beliefs, update = [], Learner.update
    monkeypatch.setattr(Learner, "update", lambda *a: beliefs.append(a[1]) or update(*a))
    start(task, tmp_path, replace(CONFIG, advantage="mapp"), curriculum=Selected(selector(), 4))
    again = selector()
    for groups in beliefs:
        assert again.select(4).tolist() == groups.prompt_ids.tolist()
        predicted = again.predict(groups.prompt_ids)
        np.testing.assert_array_equal(groups.belief, np.stack([predicted.success_rate, predicted.variance], 1))
        again.observe(groups.prompt_ids, groups.successes, groups.group_size)
    assert len({tuple(groups.belief[0]) for groups in beliefs}) > 1


def test_mapp_needs_a_selector_that_predicts(task, tmp_path):
    class Silent(jaxsel.PromptSelector):
        def predict(self, prompt_ids=None):
            found = super().predict(prompt_ids)
            return found._replace(variance=np.full_like(found.variance, math.nan))

    silent = Selected(Silent(UNIFORM, num_prompts=30), 4)
    with pytest.raises(ValueError, match=r"variance\[0\] is nan; give a finite number of at least 0"):
        start(task, tmp_path, replace(CONFIG, advantage="mapp"), curriculum=silent)


@pytest.mark.parametrize("name", ["dps", pytest.param("dynamic_sampling", marks=SLOW)])
def test_the_history_of_a_run_holds_the_observations_of_its_selector(task, tmp_path, name):
    """A replay of a run's history gives the predictions that the run recorded. A resumed run has the same history."""
    config = replace(CONFIG, history=True)
    curriculum = CURRICULA[name]()
    chooser = curriculum.selector
    assert isinstance(chooser, jaxsel.PromptSelector)
    start(task, tmp_path / "whole", config, curriculum=curriculum)
    found = read_history(tmp_path / "whole" / "history")
    assert found.num_prompts == 30
    method = {"dps": DPS, "dynamic_sampling": UNIFORM}[name]
    again = jaxsel.replay(found.history, method, num_prompts=30, probe_steps=range(found.history.num_steps + 1))
    np.testing.assert_array_equal(np.bincount(found.history.prompt_ids, minlength=30), chooser.visits)
    seen = found.rollouts["group_size"] > 0
    order = np.lexsort([found.rollouts["prompt_id"][seen], found.rollouts["clock"][seen]])
    np.testing.assert_array_equal(again.prediction.mixed, found.rollouts["mixed"][seen][order])
    assert sorted(set(found.probes["step"].tolist())) == [0, 4, 8]
    for clock in set(found.probes["clock"].tolist()):
        rows = found.probes["clock"] == clock
        expected = again.probes[clock].success_rate[found.probes["prompt_id"][rows]]
        np.testing.assert_array_equal(found.probes["success_rate"][rows], expected)
    with pytest.raises(KeyboardInterrupt):
        start(task, tmp_path / "cut", config, curriculum=CURRICULA[name](), progress=until_killed(5))
    start(task, tmp_path / "cut", config, curriculum=CURRICULA[name](), resume=True)
    resumed = read_history(tmp_path / "cut" / "history")
    for table, other in ((found.rollouts, resumed.rollouts), (found.probes, resumed.probes)):
        for column, values in table.items():
            np.testing.assert_array_equal(values, other[column], err_msg=column)


def test_resuming_a_finished_run_changes_and_generates_nothing(task, tmp_path, monkeypatch):
    config = TrainConfig(**{**CONFIG.__dict__, "checkpoint_every": 4, "history": True})
    first = start(task, tmp_path, config)
    seen = read_history(tmp_path / "history").probes["step"]
    assert seen.max() == config.steps
    monkeypatch.setattr(HFEngine, "generate", None)
    again = start(task, tmp_path, config, resume=True)
    assert_same_run(first, again)
    np.testing.assert_array_equal(read_history(tmp_path / "history").probes["step"], seen)


def test_a_run_that_was_killed_in_its_last_probe_has_it_once(task, tmp_path):
    config = TrainConfig(**{**CONFIG.__dict__, "history": True})
    first = start(task, tmp_path, config)
    seen = read_history(tmp_path / "history").probes["step"]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text("".join(lines[:-1]))
    assert_same_run(first, start(task, tmp_path, config, resume=True))
    np.testing.assert_array_equal(read_history(tmp_path / "history").probes["step"], seen)


def test_a_folder_with_a_run_is_not_overwritten(task, tmp_path):
    start(task, tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match="already holds a run"):
        start(task, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_another_configuration_is_refused(task, tmp_path):
    start(task, tmp_path)
    with pytest.raises(ValueError, match="of another run"):
        start(task, tmp_path, TrainConfig(**{**CONFIG.__dict__, "learning_rate": 0.1}), resume=True)
    small = build_policy(task.alphabet, hidden_size=32, num_layers=1, feed_forward_size=32, seed=0)
    with pytest.raises(ValueError, match="of another run"):
        start(task, tmp_path, policy=replace(small, precision="bfloat16"), resume=True)


def test_another_curriculum_is_refused_before_anything_is_loaded(task, tmp_path):
    start(task, tmp_path, curriculum=CURRICULA["dynamic_sampling"]())
    for name in ("history_resampling", "mopps"):
        with pytest.raises(ValueError, match="of another run"):
            start(task, tmp_path, curriculum=CURRICULA[name](), resume=True)


def test_resume_does_not_erase_a_run_that_made_no_checkpoints(task, tmp_path):
    config = TrainConfig(**{**CONFIG.__dict__, "checkpoint_every": 0})
    start(task, tmp_path, config)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match="has no checkpoint; give another folder"):
        start(task, tmp_path, config, resume=True)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("warm_up_steps", 0),
        ("micro_batch_size", 0),
        ("temperature", 0.0),
        ("temperature", 1e-45),
        ("seed", -1),
        ("learning_rate", 0),
        ("kl_weight", -0.1),
        ("importance_cap", -1.0),
        ("gae_lambda", 1.1),
        ("gae_lambda", math.nan),
        ("value_weight", 0.0),
        ("value_clip", 0.0),
        *[(name, value) for name in ("temperature", "learning_rate", "kl_weight") for value in (math.inf, math.nan)],
        *[("clip_low", value) for value in (-1.0, 1.0, math.nan)],
        *[("clip_high", value) for value in (-0.1, math.nan)],
        *[(name, value) for name in ("steps", "group_size", "seed", "probe_every") for value in (2.0, True)],
        *[("verify_timeout", value) for value in (-1.0, math.inf, math.nan)],
        ("verify_process", 1),
        ("history", 0),
        ("learning_rate", True),
        *[(name, -1) for name in ("overlong_buffer", "mini_batch_size", "keep_completions")],
        *[(name, math.inf) for name in ("reward_kl_weight", "overlong_penalty")],
        *[("discount", value) for value in (-0.1, 1.1)],
        *[("dual_clip", value) for value in (-1.0, 1.0, math.nan)],
        ("mask_truncated", 1),
    ],
)
def test_a_configuration_out_of_range_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; give"):
        TrainConfig(**{name: value})


@pytest.mark.parametrize("advantage", ["grpo", "dr_grpo", "rloo", "reinforce_pp_baseline", "mapp"])
def test_a_group_of_one_rollout_is_refused(advantage):
    with pytest.raises(ValueError, match=r"group_size is 1 with the advantage .*; give at least 2, or the advantage"):
        TrainConfig(group_size=1, advantage=advantage)
    for other in ("reinforce_pp", "gae"):
        assert TrainConfig(group_size=1, advantage=other).group_size == 1


@pytest.mark.slow
def test_a_run_without_a_time_limit_may_have_a_verifier_in_its_own_process(task, tmp_path):
    config = replace(CONFIG, steps=1, verify_timeout=0.0, checkpoint_every=0)
    whole = start(task, tmp_path / "whole", config)
    own = start(task._replace(own_process=True), tmp_path / "own", config)
    assert_same_run(own, whole)
    assert_same_run(start(task, tmp_path / "set", replace(config, verify_process=True)), whole)


def test_a_verifier_that_fails_in_every_way_ends_no_run(task, tmp_path):
    kinds = itertools.cycle(range(5))

    def verify(text, answer):
        match next(kinds):
            case 0:
                raise ValueError("boom")
            case 1:
                time.sleep(60)
            case 2:
                return "False"
        return task.verify(text, answer)

    config = replace(CONFIG, steps=1, verify_timeout=0.02, checkpoint_every=0)
    records, _ = start(task._replace(verify=verify), tmp_path, config)
    for kind in ("errors", "timeouts", "odd"):
        assert records[0][f"train/verifier_{kind}"] >= 3
    assert records[0]["train/judged_share"] < 0.5
    assert np.isfinite(records[0]["train/reward"])


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("advantage", "grpo, dr_grpo, rloo, reinforce_pp, reinforce_pp_baseline, mapp, gae, reinforce_pp_tokens"),
        ("aggregation", "token_mean, sequence_mean, constant_length"),
        ("policy_loss", "ppo, gspo, cispo"),
        ("lr_schedule", "constant, linear, cosine"),
    ],
)
def test_an_unknown_choice_is_refused(name, choices):
    with pytest.raises(ValueError, match=f"{name} is 'best'; give one of {choices}"):
        replace(CONFIG, **{name: "best"})


def test_resume_without_a_checkpoint_starts_at_the_beginning(task, tmp_path):
    records, _ = start(task, tmp_path, resume=True)
    assert [r["step"] for r in records] == list(range(9))


def test_a_line_cut_short_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 0}) + "\n" + '{"step": 1, "lo')
    assert read_metrics(path) == [{"step": 0}]
    with RunLog(tmp_path, first_step=1, resume=True) as log:
        log.write({"step": 1, "x": float("nan")})
    assert read_metrics(path) == [{"step": 0}, {"step": 1, "x": None}]


@pytest.mark.parametrize("what", ["the pool", "the held-out data"])
def test_a_prompt_that_is_too_long_is_named_before_the_first_step(task, tmp_path, what):
    def with_a_long_one(pool):
        return replace(pool, texts=[*pool.texts[:3], "1" * 300, *pool.texts[4:]])

    changed = {
        "the pool": {"pool": lambda number, seed: with_a_long_one(task.pool(number, seed))},
        "the held-out data": {"held_out": lambda number: with_a_long_one(task.held_out(number))},
    }[what]
    said = rf"{what} has a prompt of 300 tokens in row 3, with the key '3', .* exceeds the limit of 256; leave it out"
    with pytest.raises(ValueError, match=said):
        start(task._replace(**changed), tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()
