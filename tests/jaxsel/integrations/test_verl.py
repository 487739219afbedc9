"""Tests with the real training loop of verl and no model; `make verl` runs them in a separate environment."""

import gc
import math
import shutil
from collections import Counter
from typing import Any

import numpy as np
import pytest

from tests.support.verl_lane import HAS_VERL, MARKS, NO_VERL

if not HAS_VERL:
    pytest.skip(NO_VERL, allow_module_level=True)

from verl.trainer.ppo.v1.replay_buffer import (  # pyright: ignore[reportMissingImports]
    ReplayBuffer,
    ReplayBufferAsync,
)

import jaxsel
from jaxsel.integrations.history import read_history
from tests.support.tiny_verl import DAPO, SELECTED, G, K, N, coin, mixed_share, numbered, train, write_rows

pytestmark = [*MARKS, pytest.mark.usefixtures("ray_and_transfer_queue")]
RATES = np.random.default_rng(0).beta(0.5, 0.5, size=N).tolist()
FLIP = coin(RATES)
MODES = pytest.mark.parametrize("mode", ["sync", "colocate_async", "separate_async"])


@pytest.fixture(autouse=True)
def observed(monkeypatch):
    """Return the list of all observed groups: (row of the pool, successes, completions with a reward, step)."""
    found: list[tuple[int, int, int, int]] = []
    plain = jaxsel.PromptSelector.observe

    def noting(self, ids, successes, group_size, *, step=None):
        found.extend(zip(*np.array([ids, successes, group_size]).tolist(), [step] * len(ids), strict=True))
        plain(self, ids, successes, group_size, step=step)

    monkeypatch.setattr(jaxsel.PromptSelector, "observe", noting)
    return found


def counts(groups):
    """Return each group's row, and the numbers of its rewards above 0.5 and of its rewards that are not missing."""
    known = [(row, [x for x in rewards if x is not None and not math.isnan(x)]) for _, row, rewards in groups]
    return [(row, sum(x > 0.5 for x in rewards), len(rewards)) for row, rewards in known]


def counted(observed):
    return Counter(visit[:3] for visit in observed)


# Prompts and rewards


def test_a_run_chooses_like_a_plain_selector(tmp_path, observed):
    run = train(tmp_path, *SELECTED, "+data.jaxsel.seed=7", reward=FLIP)
    mine = list(observed)
    alone = jaxsel.PromptSelector(jaxsel.mopps(group_size=G), num_prompts=N, seed=7)
    groups = iter(counts(run.groups))
    for step, rows in enumerate(run.asked, start=1):
        ids = alone.select(K)
        assert rows == ids.tolist()
        expected = [next(groups) for _ in rows]
        assert sorted(visit for visit in mine if visit[3] == step) == sorted((*visit, step) for visit in expected)
        alone.observe(*np.array(expected).T)
    assert len(run.asked) == len(run.logs) == 4


@MODES
def test_verls_log_has_the_metrics(tmp_path, mode):
    run = train(tmp_path, *SELECTED, reward=FLIP, mode=mode)
    assert [log["selector/observes"] for log in run.logs] == [1, 2, 3, 4]
    mixed = [mixed_share([rewards for step, _, rewards in run.groups if step == now]) for now in range(1, 5)]
    if mode == "sync":
        assert [log["selector/mixed_share"] for log in run.logs] == pytest.approx(mixed)
        assert [log["selector/in_flight"] for log in run.logs] == [0] * 4


@MODES
def test_dapos_filter_is_kept_and_filtered_groups_are_observed(tmp_path, mode, observed):
    run = train(tmp_path, *SELECTED, *DAPO, reward=FLIP, mode=mode)
    equal = sum(s in (0, n) for _, s, n in counts(run.groups))
    evicted = sum(log.get("training/filter_groups/evicted_samples", 0) for log in run.logs)
    assert equal
    assert evicted == equal if mode == "sync" else equal - K <= evicted <= equal
    assert counted(observed) == Counter(counts(run.groups)[: len(observed)])
    assert len(observed) >= len(run.groups) - K  # an asynchronous run may end before it uses the last groups
    stock = train(tmp_path, *DAPO, "data.dataloader_num_workers=0", reward=FLIP, mode=mode)
    assert any("training/filter_groups/evicted_samples" in log for log in stock.logs)


def test_without_dapo_no_group_is_filtered(tmp_path):
    run = train(tmp_path, *SELECTED, reward=FLIP)
    assert not any("filter_groups" in name for log in run.logs for name in log)


def test_dapo_may_use_the_whole_pool_in_one_step(tmp_path, observed):
    rng = np.random.default_rng(0)
    run = train(tmp_path, *SELECTED, *DAPO, reward=lambda *_: float(rng.random() < 0.02), steps=2)
    assert max(Counter(row for step, row, _ in run.groups if step == 1).values()) > 1
    assert counted(observed) == Counter(counts(run.groups))


@MODES
def test_a_reward_of_none_or_nan_is_not_a_failure(tmp_path, mode, observed):
    def some(row, number, step):
        return {1: None, 2: math.nan}.get(number, FLIP(row, number, step))

    run = train(tmp_path, *SELECTED, reward=some, mode=mode)
    assert {size for _, _, size, _ in observed} == {G - 2}
    assert counted(observed) == Counter(counts(run.groups)[: len(observed)])


@MODES
def test_failed_completions_are_not_counted(tmp_path, mode, observed):
    def failing(row, number, step):
        if row % 3 == 0 and (row % 2 == 0 or number == 1):  # for every sixth prompt, all completions fail
            raise RuntimeError("no answer")
        return FLIP(row, number, step)

    run = train(tmp_path, *SELECTED, reward=failing, mode=mode, steps=8)
    assert counted(observed) == Counter(counts(run.groups)[: len(observed)])
    assert {size for _, _, size, _ in observed} == {0, G - 1, G}
    visits = Counter(row for row, _, size, _ in observed if size)
    assert run.edge.selector.visits.tolist() == [visits[row] for row in range(N)]
    assert run.logs[-1]["selector/in_flight"] == len(run.edge.handed_out) <= K


def test_a_named_reward_is_success(tmp_path, observed):
    def several(row, number, step):
        return {"acc": 1.0, "right": FLIP(row, number, step)}

    run = train(tmp_path, *SELECTED, "+data.jaxsel.success=right", reward=several)
    assert counted(observed) == Counter(counts([(s, row, [x["right"] for x in xs]) for s, row, xs in run.groups]))
    with pytest.raises(ValueError, match="success is 'correct', and verl's reward function returned 'acc', 'right'"):
        train(tmp_path, *SELECTED, "+data.jaxsel.success=correct", reward=several)


def test_late_groups_are_not_chosen_again_before_they_are_observed(tmp_path, observed):
    warmup = "trainer.v1.colocate_async.num_warmup_batches=2"
    run = train(tmp_path, *SELECTED, warmup, reward=FLIP, mode="colocate_async", steps=12, late=2)
    out: set[int] = set()
    done = iter(run.groups)
    for number, rows in enumerate(run.asked):
        assert not out & set(rows)
        out |= set(rows)
        out -= {row for _, row, _ in [next(done) for _ in range(len(rows) - 2 * (number == 0))]}
    assert len(observed) > 10 * K
    assert counted(observed) == Counter(counts(run.groups)[: len(observed)])


def test_the_validation_set_is_as_it_was(tmp_path, observed):
    run = train(tmp_path, *SELECTED, reward=FLIP, steps=1)
    validation: Any = run.trainer.val_dataset
    assert validation.outcomes is None
    assert [validation[row]["reward_model"]["ground_truth"] for row in range(2)] == ["0", "1"]
    assert "jaxsel_row" not in validation[0]
    assert len(observed) == K


def test_a_history_is_recorded(tmp_path):
    run = train(tmp_path, *SELECTED, f"+data.jaxsel.history={tmp_path}/history", reward=FLIP)
    found = read_history(tmp_path / "history")
    names = ("prompt_id", "successes", "group_size")
    rows = list(zip(*(found.rollouts[name].tolist() for name in names), strict=True))
    assert sorted(rows) == sorted(counts(run.groups))
    assert found.texts
    assert found.texts[3] == '[{"content": "q3", "role": "user"}]'


# Resuming


@MODES
@pytest.mark.parametrize(("method", "saved"), [("mopps", 2), ("dps", 3), ("adaptive", 3), ("mopps", N // K)], ids=str)
def test_a_resumed_run_has_the_same_choices_and_rewards(tmp_path, mode, method, saved):
    options = [*SELECTED, f"data.jaxsel.method={method}"]
    more = {"reward": FLIP, "mode": mode, "steps": saved + 3}
    through = train(tmp_path, *options, f"trainer.save_freq={saved}", **more)
    checkpoint = tmp_path / "checkpoints" / f"global_step_{saved}"
    resumed = train(
        tmp_path, *options, "trainer.resume_mode=resume_path", f"trainer.resume_from_path={checkpoint}", **more
    )
    assert len(resumed.asked) == 3
    assert resumed.asked == through.asked[-3:]
    assert resumed.groups == through.groups[-3 * K :]
    assert [log["selector/observes"] for log in resumed.logs] == [saved + 1, saved + 2, saved + 3]
    assert resumed.edge.state_dict() == through.edge.state_dict()


def test_a_resumed_run_keeps_dapos_choices(tmp_path):
    options = [*SELECTED, *DAPO]
    through = train(tmp_path, *options, "trainer.save_freq=2", reward=FLIP)
    shutil.rmtree(tmp_path / "checkpoints" / "global_step_4")
    (tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("2")
    resumed = train(tmp_path, *options, "trainer.resume_mode=auto", reward=FLIP)
    assert resumed.groups
    assert resumed.groups == through.groups[-len(resumed.groups) :]
    assert resumed.edge.state_dict() == through.edge.state_dict()


def test_prompts_in_flight_at_a_checkpoint_are_observed_after_it(tmp_path, observed):
    options = [*SELECTED, "trainer.v1.colocate_async.num_warmup_batches=2"]
    more = {"reward": FLIP, "mode": "colocate_async", "late": 2}
    train(tmp_path, *options, "trainer.save_freq=4", steps=4, **more)
    before = len(observed)
    resumed = train(tmp_path, *options, "trainer.resume_mode=auto", steps=12, **more)
    assert len(observed) - before >= 8 * K
    assert len(resumed.edge.handed_out) <= 3 * K
    visits = Counter(row for row, _, _, _ in observed)
    assert resumed.edge.selector.visits.tolist() == [visits[row] for row in range(N)]


def test_a_checkpoint_of_another_pool_is_refused(tmp_path):
    train(tmp_path, *SELECTED, "trainer.save_freq=2", reward=FLIP, steps=2)
    for rows, message in ((numbered(N)[::-1], "the checkpoint is of another pool"), (numbered(N - 1), "pool")):
        write_rows(tmp_path / "train.parquet", rows)
        with pytest.raises(ValueError, match=message):
            train(tmp_path, *SELECTED, "trainer.resume_mode=auto", reward=FLIP)


# What is refused before training


def other_size(num_prompts):
    return jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=num_prompts, track_in_flight=True)


WORKERS = "data.dataloader_num_workers"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([*SELECTED, f"{WORKERS}=2"], "data.dataloader_num_workers is 2; set it to 0"),
        ([*SELECTED, "data.val_files=${data.train_files}"], "give the validation file another path"),
        ([*SELECTED[2:]], "set data.custom_cls.path=pkg://jaxsel.integrations.verl"),
        ([*SELECTED[:5]], r"data.jaxsel is None, which names no method; set .*\+data.jaxsel.method=mopps"),
        ([*SELECTED, "+data.jaxsel.methods=dps"], "data.jaxsel has the entry 'methods'; give only method, arg"),
        (
            [*SELECTED, "data.jaxsel.method=grpo"],
            "data.jaxsel.method is 'grpo'; give one of 'adaptive', 'arcus', 'dps'",
        ),
        ([*SELECTED, "+data.jaxsel.arguments.decays=1"], "data.jaxsel.arguments is .* unexpected keyword"),
        ([*SELECTED, "data.train_batch_size=25"], "has 24 prompts after verl's filters, and each step takes 25"),
        (
            [
                *SELECTED[:5],
                f"+data.jaxsel.method={__name__}:other_size",
                "+data.jaxsel.arguments.num_prompts=25",
                "+data.jaxsel.key=null",
            ],
            "has 25 prompts and data.train_files 24",
        ),
        ([*SELECTED, "reward.reward_model.enable=true"], "set reward.reward_model.enable_resource_pool=true"),
        ([*SELECTED, "skip.rollout_tq.enable=true"], "skip.rollout_tq.enable is true"),
    ],
)
def test_bad_configurations_are_refused_before_training(tmp_path, observed, overrides, message):
    with pytest.raises(ValueError, match=message):
        train(tmp_path, *overrides, reward=FLIP)
    assert not observed


@MODES
def test_data_smaller_than_what_is_generated_at_the_same_time_is_refused(tmp_path, observed, mode):
    size = ["data.train_batch_size=16", "actor_rollout_ref.actor.ppo_mini_batch_size=8"]
    if mode == "sync":
        assert len(train(tmp_path, *SELECTED, *size, reward=FLIP).asked) == 4
        return
    message = "has 24 prompts .* each step takes 16 .* {} more are generated at the same time"
    with pytest.raises(ValueError, match=message.format(16)):
        train(tmp_path, *SELECTED, *size, reward=FLIP, mode=mode)
    assert not observed
    half = f"trainer.v1.{mode}.num_warmup_batches=0.5"
    assert len(train(tmp_path, *SELECTED, *size, half, reward=FLIP, mode=mode).asked) == 5
    with pytest.raises(ValueError, match=message.format(9)):
        train(tmp_path, *SELECTED, *size, half.replace("0.5", "0.6"), reward=FLIP, mode=mode)


def test_rows_without_an_index_are_refused_unless_another_key_is_named(tmp_path, observed):
    write_rows(tmp_path / "train.parquet", [{"split": "train"}] * N, name=[f"p{row}" for row in range(N)])
    message = r"row 0 of data.train_files has no extra_info.index; verl would give all .* \+data.jaxsel.key=null"
    with pytest.raises(ValueError, match=message):
        train(tmp_path, *SELECTED, reward=FLIP)
    assert not observed
    for key in ("null", "name"):
        run = train(tmp_path, *SELECTED, f"+data.jaxsel.key={key}", reward=FLIP)
        assert len({row for rows in run.asked for row in rows}) > K


def test_a_sampler_without_the_replay_buffer_is_refused(tmp_path):
    gc.collect()  # frees replay buffers of earlier runs, which would count
    with pytest.raises(ValueError, match=r"trainer.v1.sampler.custom_sampler.name=replay_buffer"):
        train(tmp_path, *SELECTED[:2], *SELECTED[4:], reward=FLIP)


@pytest.mark.parametrize("buffer", [ReplayBuffer, ReplayBufferAsync])
def test_another_version_of_verl_is_refused(tmp_path, monkeypatch, buffer):
    monkeypatch.setattr(buffer, "_terminal_eviction_reasons", lambda self, step: ())
    with pytest.raises(RuntimeError, match=r"tested with verl 0.9.1, and verl .* has other methods: .*'self', 'step'"):
        train(tmp_path, *SELECTED, reward=FLIP)
