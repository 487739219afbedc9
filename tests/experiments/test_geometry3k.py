"""The task geometry3k: drawn figures in the published schema and in verl's, and runs with a tiny model."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoModelForImageTextToText

from experiments.evaluate import EvaluateConfig, evaluate, evaluation_of
from experiments.running import embeddings
from experiments.running.config import RunConfig
from experiments.running.embeddings import pool_embeddings
from experiments.running.method_config import MethodConfig
from experiments.running.runs import run
from experiments.running.tasks import make_task, task_of
from rl._processors import load_processor
from rl.hidden_states import hidden_states
from rl.policy import load_policy
from rl.prompts import PromptPool
from rl.tasks.data_config import DataConfig
from rl.train_config import TrainConfig
from tests.support import warm_processes
from tests.support.tiny_vision import figure, tiny_vision, user

WORDS = "\n\nReason step by step, and write the final answer inside \\boxed{}."
VERLS = " The final answer MUST BE put in \\boxed{}."


def published(numbers) -> list[dict[str, Any]]:
    """Return rows as in hiyouga/geometry3k; many problems have the same text and another figure."""
    return [
        {
            "images": [{"bytes": figure(n, (24 + n % 2 * 8, 16)), "path": None}],
            "problem": "<image>Find x.",
            "answer": str(n),
        }
        for n in numbers
    ]


def of_verl(numbers) -> list[dict[str, Any]]:
    """Return rows as verl's script for Geometry3k writes them."""
    return [
        {
            "data_source": "hiyouga/geometry3k",
            "prompt": [{"role": "user", "content": row["problem"] + VERLS}],
            "images": row["images"],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": row["answer"]},
            "extra_info": {"split": "train", "index": i, "answer": row["answer"], "question": row["problem"]},
        }
        for i, row in enumerate(published(numbers))
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("geometry3k")
    for name, rows in {
        "train": published(range(12)),
        "test": published(range(90, 94)),
        "verl": of_verl(range(8)),
    }.items():
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    tiny_vision("qwen2_5_vl").save(folder / "model")
    return folder


def test_both_schemas_give_messages_with_figures(folder):
    config = DataConfig(held_out=str(folder / "test.parquet"))
    task = make_task(f"geometry3k:{folder / 'train.parquet'}", "", config)
    pool = task.pool(0, 0)
    assert task.own_process
    assert len(set(pool.keys)) == len(pool) == 12
    row = pool.answers.index("3")
    assert pool.texts[row] == user({"bytes": figure(3, (32, 16)), "path": None}, "Find x." + WORDS)
    assert len(task.held_out(0)) == 4
    assert task.verify(r"So it is \boxed{3.0}", pool.answers[row])
    assert not task.verify(r"\boxed{4}", pool.answers[row])
    plain = DataConfig(template="{prompt}", held_out=str(folder / "test.parquet"))
    (message,) = make_task(f"geometry3k:{folder / 'verl.parquet'}", "", plain).pool(0, 0).texts[3]
    assert message["content"][0]["image"]["bytes"] == figure(3, (32, 16))
    assert message["content"][1:] == [{"type": "text", "text": "Find x." + VERLS}]
    assert make_task("geometry3k").name == "geometry3k"


def test_the_built_in_policy_is_refused(folder):
    with pytest.raises(ValueError, match=r"policy is '' with the task geometry3k:.*; give policy=PATH"):
        task_of(RunConfig(task=f"geometry3k:{folder / 'train.parquet'}"))


def test_prompts_with_equal_texts_have_embeddings_of_their_own(folder):
    """Their key tells them apart; WordLlama reads the texts alone."""
    policy = load_policy(folder / "model")
    texts = [user({"bytes": figure(n)}, "Find x.") for n in (3, 8)] + ["12="]
    pool = PromptPool(texts, ["1"] * 3, ["a", "b", "c"])
    expected = hidden_states(policy)(texts)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3
    np.testing.assert_allclose(pool_embeddings("policy", pool, policy, None), expected, atol=1e-5)
    both = pool_embeddings("both", pool, policy, None)
    np.testing.assert_allclose(
        both, np.concatenate([pool_embeddings("wordllama", pool, None, None), expected], 1), atol=1e-5
    )
    same = pool.take([0, 2])
    np.testing.assert_allclose(pool_embeddings("policy", same, policy, None), expected[[0, 2]], atol=1e-5)


@pytest.mark.parametrize("kind", ["policy", "both"])
@pytest.mark.parametrize("equal", [False, True])
def test_embeddings_hold_the_pixels_of_few_prompts_at_once(folder, monkeypatch, kind, equal):
    policy, sizes = load_policy(folder / "model"), []

    def counted(prompts):
        sizes.append(len(prompts))
        return np.ones((len(prompts), 2))

    monkeypatch.setattr(embeddings, "hidden_states", lambda _: counted)
    prompts = [user({"bytes": b"%d" % n}, "Find x." if equal else f"Find {n}.") for n in range(150)]
    pool = PromptPool(prompts, ["1"] * 150, [f"{n}" for n in range(150)])
    pool_embeddings(kind, pool, policy, None)
    pool_embeddings(kind, pool, replace(policy, processor=None), None)
    assert sizes == [64, 64, 22, 150]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mopps", "dynamic_sampling"])
def test_a_run_with_figures_of_verl_and_its_evaluation(folder, tmp_path, method):
    config = RunConfig(
        task=f"geometry3k:{folder / 'verl.parquet'}",
        policy=str(folder / "model"),
        pool_size=0,
        held_out_size=0,
        eval=[f"geometry3k:{folder / 'test.parquet'}"],
        eval_k=2,
        data=DataConfig(template="{prompt}", max_new_tokens=4, held_out_share=0.25),
        method=MethodConfig(method, batch_size=2, candidate_ratio=2, max_batches=2),
        train=TrainConfig(steps=2, group_size=2, probe_every=0, kl_weight=0.1, micro_batch_size=3),
    )
    records = run(config, tmp_path / "run")
    assert [record["step"] for record in records] == [0, 1, 2]
    assert records[0]["policy/log_prob_gap_max"] < 1e-5
    assert records[2]["eval/test/tokens"] > 0
    longer = replace(config, train=replace(config.train, steps=3))
    assert [record["step"] for record in run(longer, tmp_path / "run", resume=True)] == [0, 1, 2, 3]
    scored = EvaluateConfig(str(tmp_path / "run" / "policy"), config.eval, k=2, max_new_tokens=4)
    found = evaluate(scored, evaluation_of(scored))
    assert list(found) == ["test"]


@pytest.mark.slow
def test_a_run_on_any_file_with_figures_trains_all_weights(folder, tmp_path):
    """A verifier that a random policy satisfies at times gives the weights that read images a gradient."""
    config = RunConfig(
        task=str(folder / "train.parquet"),
        verifier="tests.support.verifiers:starts_low",
        policy=str(folder / "model"),
        held_out_size=0,
        probe_size=4,
        data=DataConfig(max_new_tokens=3),
        method=MethodConfig("adaptive", batch_size=4, candidate_ratio=0, embeddings="policy"),
        train=TrainConfig(steps=2, group_size=4, micro_batch_size=5, learning_rate=1e-3, warm_up_steps=1),
    )
    records = run(config, tmp_path / "run")
    assert all(record["policy/log_prob_gap_max"] < 1e-5 for record in records[:2])
    assert records[1]["policy/grad_norm"] > 0
    before = AutoModelForImageTextToText.from_pretrained(folder / "model").state_dict()
    after = AutoModelForImageTextToText.from_pretrained(tmp_path / "run" / "policy").state_dict()
    changed = [name for name, weight in before.items() if not weight.equal(after[name])]
    assert any("visual" in name for name in changed)
    assert any("language_model" in name for name in changed)


@pytest.mark.slow
def test_the_command_of_the_guide(folder, tmp_path):
    """The published schema, from the command line; the finished folder is a Hugging Face model with its processor."""
    command = [sys.executable, "-m", "experiments.train", f"task=geometry3k:{folder / 'train.parquet'}"]
    command += [f"data.held_out={folder / 'test.parquet'}", f"policy={folder / 'model'}", "data.max_new_tokens=4"]
    command += ["pool_size=0", "held_out_size=0", "probe_size=4", "method.batch_size=2", "method.candidate_ratio=2"]
    command += [
        "train.steps=2",
        "train.group_size=2",
        "train.kl_weight=0.1",
        f"hydra.run.dir={tmp_path / 'run'}",
        "threads=1",
    ]
    done = warm_processes.run(command, check=False)
    assert done.returncode == 0, done.stderr
    assert "held-out accuracy" in done.stdout
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [0, 1, 2]
    assert records[0]["policy/log_prob_gap_max"] < 1e-5
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "run" / "policy").num_parameters()
    assert load_processor(tmp_path / "run" / "policy", load_policy(folder / "model").tokenizer) is not None
