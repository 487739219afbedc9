"""Runs with the settings of losses, filters, schedules, mini-batches and kept completions."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from rl.advantages import FROM_REWARDS
from rl.learner import Learner
from rl.loss_options import POLICY_LOSS_NAMES
from rl.losses import POLICY_LOSSES
from rl.lr_schedule import learning_rate
from rl.run_folder.completions import read_completions
from rl.train_config import ADVANTAGES, PER_TOKEN
from tests.support.runs import CONFIG, assert_same_run, start, until_killed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dual_clip": 3.0, "policy_loss": "cispo"}, "dual_clip is 3.0 with the policy_loss cispo; give 0, or ppo"),
        ({"reward_kl_weight": 0.1}, "reward_kl_weight is 0.1 with the advantage grpo"),
        ({"overlong_buffer": 2, "advantage": "mapp"}, "overlong_buffer is 2 with the advantage mapp"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **options)


EVERYTHING = {
    "policy_loss": "gspo",
    "aggregation": "constant_length",
    "lr_schedule": "cosine",
    "mini_batch_size": 8,
    "mask_truncated": True,
    "overlong_buffer": 2,
    "keep_completions": 2,
}


@pytest.mark.slow
def test_a_killed_run_with_schedule_mini_batches_and_filters_continues_to_the_same_numbers(task, tmp_path):
    config = replace(CONFIG, **EVERYTHING)
    whole = start(task, tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        start(task, tmp_path / "cut", config, progress=until_killed(5))
    assert_same_run(whole, start(task, tmp_path / "cut", config, resume=True))
    kept = [read_completions(tmp_path / name / "completions") for name in ("whole", "cut")]
    assert kept[0] == kept[1]
    rates = [record["policy/learning_rate"] for record in whole[0][:-1]]
    assert rates == [learning_rate(config, step) for step in range(8)]


def test_the_settings_name_all_losses_and_advantages():
    """The settings list the names themselves, so that they need not import torch."""
    assert tuple(POLICY_LOSSES) == POLICY_LOSS_NAMES
    assert (*FROM_REWARDS, "mapp", *PER_TOKEN) == ADVANTAGES


def test_steps_may_change_unless_the_learning_rate_decays(task, tmp_path):
    for schedule in ("constant", "linear"):
        config = replace(CONFIG, steps=2, probe_every=0, lr_schedule=schedule)
        start(task, tmp_path / schedule, config)
    start(task, tmp_path / "constant", replace(CONFIG, steps=3, probe_every=0, keep_completions=1), resume=True)
    with pytest.raises(ValueError, match=r"of another run: train.steps was 2 and is 3"):
        start(task, tmp_path / "linear", replace(config, steps=3), resume=True)


def test_a_penalty_for_length_changes_rewards_and_no_verdict(task, tmp_path, monkeypatch):
    """Completions have at most 3 tokens. With the buffer of 2, one of 3 tokens costs 0.5, and one of 2 costs 0.25."""
    seen, update = [], Learner.update
    monkeypatch.setattr(Learner, "update", lambda *a: seen.append(a[1]) or update(*a))
    config = replace(CONFIG, steps=1, probe_every=0, overlong_buffer=2, overlong_penalty=0.5)
    records, _ = start(task, tmp_path / "penalty", config)
    plain, _ = start(task, tmp_path / "plain", replace(config, overlong_buffer=0))
    shaped, bare = seen
    lengths = bare.completions.mask.sum(1).reshape(bare.rewards.shape)
    assert torch.equal(shaped.rewards, bare.rewards - 0.25 * (lengths - 1))
    np.testing.assert_array_equal(shaped.successes, bare.successes)
    np.testing.assert_array_equal(shaped.correct, bare.correct)
    assert records[0]["train/overlong_penalty"] == pytest.approx(float(-0.25 * (lengths - 1).float().mean()))
    assert records[0]["train/reward"] - records[0]["train/overlong_penalty"] == pytest.approx(plain[0]["train/reward"])
    assert records[0]["train/mixed_share"] == plain[0]["train/mixed_share"]
    with pytest.raises(ValueError, match="overlong_buffer is 4; give at most 3"):
        start(task, tmp_path / "long", replace(config, overlong_buffer=4))
    assert not (tmp_path / "long").exists()


def test_finish_reasons_are_logged(task, tmp_path):
    records, _ = start(task._replace(stop=("5",)), tmp_path, replace(CONFIG, keep_completions=4))
    kept = read_completions(tmp_path / "completions").to_pandas()
    names = {"truncated_share": "length", "end_of_sequence_share": "end_of_sequence", "stop_share": "stop"}
    for step, record in enumerate(records[:-1]):
        rows = kept[kept["step"] == step]
        for name, reason in names.items():
            assert record[f"train/{name}"] == pytest.approx((rows["finish"] == reason).mean())
        assert record["policy/entropy"] is None or record["policy/entropy"] > 0
    assert set(kept["finish"]) == set(names.values())


def test_completions_of_some_prompts_are_kept(task, tmp_path, monkeypatch):
    """The kept completions are those that the learner saw. A run without `keep_completions` writes none."""
    seen, update = [], Learner.update
    monkeypatch.setattr(Learner, "update", lambda *a: seen.append(a[1]) or update(*a))
    pool, config = task.pool(30, 0), replace(CONFIG, steps=3, probe_every=0, checkpoint_every=2)
    start(task, tmp_path / "kept", replace(config, keep_completions=2))
    rows = read_completions(tmp_path / "kept" / "completions").to_pylist()
    assert len(rows) == 3 * 2 * 4
    for step, groups in enumerate(seen):
        for i, j in itertools.product(range(2), range(4)):
            row, prompt_id = rows[(step * 2 + i) * 4 + j], int(groups.prompt_ids[i])
            assert (row["step"], row["prompt_id"], row["sample"]) == (step, prompt_id, j)
            assert (row["prompt"], row["key"]) == (pool.texts[prompt_id], pool.keys[prompt_id])
            assert row["completion"] == groups.completions.texts[i * 4 + j]
            assert (row["reward"], row["success"]) == (groups.rewards[i, j], groups.correct[i, j])
            assert row["completion_tokens"] == groups.completions.mask[i * 4 + j].sum()
            assert row["prompt_tokens"] == len(pool.texts[prompt_id])
    start(task, tmp_path / "bare", config)
    assert not (tmp_path / "bare" / "completions").exists()
    with pytest.raises(ValueError, match="holds no completions"):
        read_completions(tmp_path / "bare" / "completions")
