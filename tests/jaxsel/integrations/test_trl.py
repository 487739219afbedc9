"""Tests with the real TRL and a policy of a few thousand weights; `make trl` runs them in a separate environment."""

import importlib.util
import json
import math
import multiprocessing
import os
import shutil
import sys
import time

import numpy as np
import pytest

if importlib.util.find_spec("trl") is None:
    pytest.skip("no TRL in this environment; see `make trl`", allow_module_level=True)

import torch
from datasets import IterableDataset
from trl import (  # pyright: ignore[reportMissingImports]
    GRPOConfig,
    GRPOTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)

import jaxsel
from jaxsel.integrations.history import read_history
from jaxsel.integrations.trl import STATE_FILE, SelectsPrompts
from tests.support.tiny_trl import DATA, G, K, N, reward, trainer, until_killed
from tests.support.two_ranks import launch

pytestmark = [
    pytest.mark.trl,
    pytest.mark.slow,
    # warnings of TRL and of what it imports
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
BOTH = pytest.mark.parametrize(("base", "config"), [(GRPOTrainer, GRPOConfig), (RLOOTrainer, RLOOConfig)])


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


class Noting(jaxsel.PromptSelector):
    """A selector that records the calls of `select` and `observe`."""

    def __init__(self, method=None, **options):
        super().__init__(method or jaxsel.mopps(), **{"num_prompts": N, "seed": 0, "track_in_flight": True} | options)
        self.said = []

    def select(self, *args, **kwargs):
        ids = super().select(*args, **kwargs)
        self.said.append(("select", ids.tolist()))
        return ids

    def observe(self, ids, successes, group_size, **kwargs):
        self.said.append(("observe", np.asarray(ids).tolist(), successes.tolist(), group_size.tolist()))
        super().observe(ids, successes, group_size, **kwargs)


def counts(rewards, threshold=0.5, column=0):
    """Return two counts per group of G rewards: those above the threshold, and those that are not NaN."""
    groups = [rewards[i : i + G] for i in range(0, len(rewards), G)]
    known = [[row[column] for row in group if not math.isnan(row[column])] for group in groups]
    return [sum(x > threshold for x in group) for group in known], [len(group) for group in known]


# Which prompts TRL generates for, and which rewards the selector observes


@pytest.mark.parametrize(
    ("options", "generations"),
    [
        ({}, 3),
        ({"num_iterations": 3, "max_steps": 6}, 2),
        (
            {
                "per_device_train_batch_size": 4,
                "gradient_accumulation_steps": 2,
                "steps_per_generation": 4,
                "max_steps": 4,
            },
            2,
        ),
    ],
    ids=["every step", "iterations", "accumulation"],
)
@BOTH
def test_each_generation_is_on_prompts_chosen_after_the_last_rewards(tmp_path, base, config, options, generations):
    selector = Noting()
    run = trainer(tmp_path, base, config, selector=selector, **options)
    run.train()
    assert [said[0] for said in selector.said] == ["select", "observe"] * generations
    for number, (training, rows, rewards) in enumerate(run.seen):
        ids = selector.said[2 * number][1]
        assert training
        assert len(set(ids)) == K
        assert rows == np.repeat(ids, G).tolist()
        assert selector.said[2 * number + 1][1:] == (ids, *counts(rewards))


def test_a_trainer_chooses_like_a_plain_selector(tmp_path):
    run = trainer(tmp_path, selector=jaxsel.dps(), seed=7)
    run.train()
    alone = jaxsel.PromptSelector(jaxsel.dps(), num_prompts=N, seed=7)
    for _, rows, rewards in run.seen:
        ids = alone.select(K)
        assert rows == np.repeat(ids, G).tolist()
        alone.observe(ids, *counts(rewards))


def test_a_reward_of_none_is_not_a_failure(tmp_path):
    def some(completions, row, **others):
        return [None if i % 4 == 1 else x for i, x in enumerate(reward(completions, row))]

    selector = Noting()
    run = trainer(tmp_path, selector=selector, reward_funcs=some, max_steps=1)
    run.train()
    assert selector.said[1][3] == [G - 1] * K
    assert selector.said[1][1:] == (selector.said[0][1], *counts(run.seen[0][2]))


def test_success_is_one_named_reward_above_a_threshold(tmp_path):
    def accuracy(completions, row, **_):
        return [0.1 + 0.8 * x for x in reward(completions, row)]

    def style(completions, **_):
        return [1.0] * len(completions)

    selector = Noting()
    run = trainer(
        tmp_path, selector=selector, reward_funcs=[style, accuracy], success="accuracy", threshold=0.85, max_steps=2
    )
    run.train()
    successes = [counts(rewards, 0.85, column=1)[0] for _, _, rewards in run.seen]
    assert [said[2] for said in selector.said[1::2]] == successes
    assert any(0 < s < G for group in successes for s in group)


def test_evaluation_neither_selects_nor_observes(tmp_path):
    selector = Noting()
    options = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 16, "max_steps": 2}
    run = trainer(tmp_path, selector=selector, eval_dataset=DATA.select(range(4)), **options)
    run.train()
    assert [said[0] for said in selector.said] == ["select", "observe"] * 2
    evaluated = [rows for training, rows, _ in run.seen if not training]
    assert sorted(evaluated[0]) == np.repeat(range(4), G).tolist()
    of_evaluation = [log for log in run.state.log_history if any(name.startswith("eval_") for name in log)]
    assert of_evaluation
    assert not [name for log in of_evaluation for name in log if "selector" in name]


def test_logs_have_the_selectors_metrics(tmp_path):
    run = trainer(tmp_path)
    run.train()
    logs = [log for log in run.state.log_history if "reward" in log]
    assert [log["selector/observes"] for log in logs] == [1, 2, 3]
    assert [log["selector/in_flight"] for log in logs] == [0, 0, 0]
    mixed = [np.mean([0 < s < G for s in counts(rewards)[0]]) for _, _, rewards in run.seen]
    assert [log["selector/mixed_share"] for log in logs] == pytest.approx(mixed)


def test_conversations_are_trained_on(tmp_path):
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    chats = [[{"role": "user", "content": text}] for text in DATA["prompt"]]
    data = DATA.remove_columns("prompt").add_column("prompt", chats)
    run = trainer(tmp_path, train_dataset=data, reward_funcs=_of_chats, history=tmp_path / "history", max_steps=2)
    run.processing_class.chat_template = run.chat_template = template
    run.train()
    assert len(run.seen) == 2
    texts = read_history(tmp_path / "history").texts
    assert texts
    assert texts[3] == '[{"content": "30=", "role": "user"}]'


def _of_chats(completions, row, **_):
    return reward([completion[0]["content"] for completion in completions], row)


# Resuming


@pytest.mark.parametrize("method", [jaxsel.mopps, jaxsel.dps, jaxsel.adaptive])
def test_a_resumed_run_has_the_same_choices_and_rewards(tmp_path, method):
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 5, "selector": method(), "key_column": "key"}
    through = trainer(tmp_path, **options)
    through.train()
    resumed = trainer(tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.seen == through.seen[2:]
    assert resumed.edge.state_dict() == through.edge.state_dict()
    shutil.rmtree(tmp_path / "checkpoint-5")  # TRL writes it at the end of training
    last = trainer(tmp_path, **options)
    last.train(resume_from_checkpoint=True)  # from the newest checkpoint, checkpoint-4
    assert last.seen == through.seen[4:]


def test_a_run_resumes_between_generations_of_several_steps(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6, "num_iterations": 2}
    through = trainer(tmp_path, **options)
    through.train()
    resumed = trainer(tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert resumed.seen == through.seen[2:]


def test_true_resumes_from_the_newest_complete_checkpoint(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    through = trainer(tmp_path, **options)
    through.train()
    state = tmp_path / "checkpoint-3" / "trainer_state.json"
    state.write_text(state.read_text()[:100])  # as a crash during the write leaves it
    (tmp_path / "checkpoint-2" / "trainer_state.json").unlink()
    resumed = trainer(tmp_path, **options)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.seen == through.seen[1:]


def test_a_checkpoint_of_stock_trl_is_refused(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    trainer(tmp_path, **options).train()
    (tmp_path / "checkpoint-2" / STATE_FILE).unlink()
    with pytest.raises(ValueError, match=r"selector.npz does not exist; resume from an earlier checkpoint"):
        trainer(tmp_path, **options).train(resume_from_checkpoint=True)


def test_a_checkpoint_of_another_pool_is_refused(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2, "key_column": "key"}
    trainer(tmp_path, **options).train()
    with pytest.raises(ValueError, match="the checkpoint is of another pool"):
        trainer(tmp_path, train_dataset=DATA.select(range(N - 1, -1, -1)), **options).train(True)


def test_resuming_without_a_checkpoint_raises_trls_error(tmp_path):
    with pytest.raises((ValueError, FileNotFoundError)):
        trainer(tmp_path / "nothing").train(resume_from_checkpoint=True)


def test_training_again_after_an_interruption_keeps_the_whole_pool(tmp_path):
    def interrupted(completions, **_):
        raise KeyboardInterrupt

    run = trainer(tmp_path, reward_funcs=interrupted)
    for _ in range(N // K + 1):
        with pytest.raises(KeyboardInterrupt):
            run.train()
    assert len(run.edge.selector.in_flight) == K


def test_saving_inside_a_generation_warns(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 3, "max_steps": 2, "num_iterations": 2}
    with pytest.warns(UserWarning, match="save_steps is 3, so TRL saves while it still.* give a multiple of 2"):
        trainer(tmp_path, **options).train()


def test_ignore_data_skip_warns(tmp_path):
    with pytest.warns(UserWarning, match="ignore_data_skip is True"):
        trainer(tmp_path, ignore_data_skip=True, max_steps=1).train()


def checkpoints(folder):
    return len(list((folder / "run").glob("checkpoint-*/trainer_state.json")))


def test_killed_runs_lose_and_repeat_no_observation(tmp_path):
    context = multiprocessing.get_context("forkserver")  # its server imports once for all processes
    context.set_forkserver_preload(["tests.support.tiny_trl"])
    kills, rng = int(os.environ.get("KILLS", "3")), np.random.default_rng(0)
    steps = 5 * kills + 2  # too many for a run to finish before it is killed
    for _ in range(kills):
        before = checkpoints(tmp_path / "killed")
        process = context.Process(target=until_killed, args=(tmp_path / "killed", steps, 0.3))
        process.start()
        while checkpoints(tmp_path / "killed") == before and process.is_alive():
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 1))  # so the kill hits a run that generates, updates or saves
        assert process.is_alive()
        process.kill()
        process.join()
    for name in ("killed", "through"):
        process = context.Process(target=until_killed, args=(tmp_path / name, steps))
        process.start()
        process.join()
        assert process.exitcode == 0
    expected, found = (read_history(tmp_path / name / "history").rollouts for name in ("through", "killed"))
    assert sorted(set(expected["clock"].tolist())) == list(range(steps))
    assert len(expected["clock"]) == steps * K
    for name, column in expected.items():
        np.testing.assert_array_equal(column, found[name], err_msg=name)


# Several processes


def test_two_processes_train_on_one_choice(tmp_path):
    code = f"from tests.support.tiny_trl import in_two_processes; in_two_processes({str(tmp_path)!r})"
    launch([sys.executable, "-c", code], tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert (first["has_edge"], second["has_edge"]) == (True, False)
    assert len(first["seen"]) == 4
    for (_, here, rewards), (_, there, others) in zip(first["seen"], second["seen"], strict=True):
        rows = np.reshape(here + there, (-1, G))
        assert rewards == others
        assert (rows == rows[:, :1]).all()
        assert len(set(rows[:, 0])) == 3  # 2 processes x 6 completions / 4 per prompt
    assert first["resumed"] == first["seen"][2:]
    assert second["resumed"] == second["seen"][2:]
    alone = jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=N, seed=42)
    for (_, here, rewards), (_, there, _) in zip(first["seen"], second["seen"], strict=True):
        ids = alone.select(3)
        assert here + there == np.repeat(ids, G).tolist()
        alone.observe(ids, *counts(rewards))
    assert any("selector/observes" in log for log in first["logs"])
    assert first["error"].startswith("ValueError: selector has 25 prompts and train_dataset 24 rows")
    assert second["error"].startswith("RuntimeError: the first process failed: ValueError: selector has 25 prompts")


# What is refused before training


def stream():
    yield from DATA


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_dataset": IterableDataset.from_generator(stream)}, r"load it without streaming=True"),
        ({"train_dataset": DATA.select(range(3))}, "train_dataset has 3 rows, and each generation takes 4"),
        ({"selector": Noting(num_prompts=N + 1)}, "selector has 25 prompts and train_dataset 24 rows"),
        ({"selector": Noting(track_in_flight=False)}, "track_in_flight=True"),
        ({"selector": jaxsel.mopps}, r"call it: mopps\(...\)"),
        ({"key_column": "id"}, "key_column is 'id', which train_dataset lacks; give one of"),
        (
            {"key_column": "id", "train_dataset": DATA.add_column("id", ["a"] * N)},
            "the column 'id' of train_dataset does not identify the prompts: keys holds the entry 'a' 24",
        ),
        (
            {"key_column": "key", "selector": Noting(num_prompts=None, keys=[f"q{i}" for i in range(N)])},
            "selector has other keys than the key column",
        ),
        ({"success": "accuracy"}, "success is 'accuracy', but the rewards are named 'reward'"),
        ({"reward_funcs": [reward, lambda **_: []]}, "success is None and the rewards are 'reward', '<lambda>'"),
        ({"threshold": math.nan}, "threshold is nan"),
    ],
)
def test_bad_arguments_are_refused_before_training(unchecked_types, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, **options)


def test_a_trainer_with_another_hook_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(GRPOTrainer, "_calculate_rewards", lambda self, inputs, rollouts: None)
    message = r"has the method _calculate_rewards\(self, inputs, rollouts\).*tested with TRL 1.3.0 and 1.16.0"
    with pytest.raises(RuntimeError, match=message):
        trainer(tmp_path)
    monkeypatch.delattr(GRPOTrainer, "_calculate_rewards")
    with pytest.raises(RuntimeError, match="has no method _calculate_rewards"):
        trainer(tmp_path)


def test_another_trainer_is_refused():
    with pytest.raises(RuntimeError, match=r"is based on SFTTrainer, .* use GRPOTrainer or RLOOTrainer"):
        type("Other", (SelectsPrompts, SFTTrainer), {})(args=SFTConfig(use_cpu=True, bf16=False), selector=None)


def test_rewards_of_another_shape_are_refused(tmp_path):
    run = trainer(tmp_path)
    run._chosen = np.arange(K)
    with pytest.raises(RuntimeError, match=r"shape \(3, 1\), but \(16, 1\) was expected; jaxsel was tested with TRL"):
        run._observe(torch.zeros(3, 1))
