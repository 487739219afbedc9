"""Tasks that the settings of a run make from data sets, and runs on these tasks with a tiny model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxsel
from experiments.running.config import RunConfig, configured
from experiments.running.curricula import PREDICTIVE, make_curriculum
from experiments.running.method_config import METHOD_NAMES, PREDICTIVE_NAMES, MethodConfig
from experiments.running.runs import run
from experiments.running.tasks import make_task, task_of
from rl.policy import Policy, build_policy, character_tokenizer
from rl.prompts import PromptPool
from rl.supervised_config import FineTuningConfig
from rl.tasks.data_config import DataConfig
from rl.train_config import TrainConfig
from tests.support.tiny_llama import tiny_llama

pytestmark = pytest.mark.slow

CONFIG = RunConfig(
    pool_size=8,
    held_out_size=2,
    verifier="exact",
    data=DataConfig(max_new_tokens=3),
    method=MethodConfig("mopps", batch_size=2, candidate_ratio=2),
    train=TrainConfig(steps=2, group_size=2, probe_every=0, checkpoint_every=0),
)
ALPHABET = "".join(map(chr, range(32, 127))) + "\n"


def rows(count: int) -> list[dict[str, Any]]:
    return [{"problem": f"{i}+1=", "answer": str(i + 1), "pass_rate": i / count} for i in range(count)]


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "sums.json"
    path.write_text(json.dumps(rows(20)))
    return str(path)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    build_policy(ALPHABET, hidden_size=32, num_layers=1, feed_forward_size=16, seed=0).save(folder)
    return str(folder)


@pytest.mark.slow
def test_a_file_with_a_verifier_is_trained_on(tmp_path, file, model):
    config = replace(CONFIG, task=[file], policy=model)
    records = run(config, tmp_path / "run")
    assert [record["step"] for record in records] == [0, 1, 2]
    written = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert (written["task"], written["verifier"], written["data"]["max_new_tokens"]) == ([file], "exact", 3)
    longer = replace(config, train=replace(config.train, steps=3))
    with pytest.raises(ValueError, match=r"verifier is 'string_ops', but .* holds a run with verifier 'exact'"):
        run(replace(longer, verifier="string_ops"), tmp_path / "run", resume=True)


@pytest.mark.slow
def test_math_is_trained_on_with_its_own_template_and_verifier(tmp_path, file, model):
    config = replace(CONFIG, task=f"math:{file}", verifier="", policy=model)
    task = task_of(config)
    assert task.own_process
    assert task.pool(1, 0).texts[0].endswith(r"write the final answer inside \boxed{}.")
    assert task.verify(r"\boxed{7.0}", "7")
    records = run(config, tmp_path / "run")
    assert records[1]["train/verifier_errors"] == records[1]["train/verifier_odd"] == 0


@pytest.mark.slow
def test_a_task_of_reasoning_gym_is_trained_on(tmp_path, model):
    pytest.importorskip("reasoning_gym")
    config = replace(CONFIG, task="reasoning_gym:basic_arithmetic", verifier="", policy=model)
    records = run(config, tmp_path / "run")
    assert [record["step"] for record in records] == [0, 1, 2]
    assert records[1]["train/verifier_errors"] == records[1]["train/verifier_odd"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["countdown-34", "countdown-4:FILE"])
def test_published_countdown_is_trained_on(tmp_path, kind, monkeypatch):
    import datasets.config

    tokenizer = character_tokenizer(ALPHABET)
    Policy(tiny_llama(tokenizer, max_position_embeddings=1024), tokenizer).save(
        tmp_path / "model"
    )  # the prompts are long

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = tmp_path / "nums.jsonl"
    path.write_text("\n".join(json.dumps({"nums": [1, 2, 3, i], "target": 6 + i}) for i in range(10, 40)))
    config = replace(CONFIG, task=kind.replace("FILE", str(path)), verifier="", policy=str(tmp_path / "model"))
    records = run(config, tmp_path / "run")
    assert [record["step"] for record in records] == [0, 1, 2]
    assert records[1]["train/verifier_errors"] == records[1]["train/verifier_odd"] == 0


def test_gsm8k_reads_whole_solutions_as_answers(tmp_path):
    path = tmp_path / "gsm8k.jsonl"
    lines = [{"question": f"{i}?", "answer": f"Because.\n#### {1000 + i:,}"} for i in range(4)]
    path.write_text("\n".join(map(json.dumps, lines)))
    task = make_task(f"gsm8k:{path}", "", DataConfig(held_out_share=0.5))
    pool = task.pool(0, 0)
    assert pool.texts[0].startswith(("0?\n", "1?\n", "2?\n"))
    assert task.verify(f"So\n#### {1000 + int(pool.texts[0][0])}", pool.answers[0])
    assert not task.verify("#### 999", pool.answers[0])
    own = make_task(f"gsm8k:{path}", "", DataConfig(template="Solve {prompt}"))
    assert own.pool(1, 0).texts[0].startswith("Solve ")


def test_the_built_in_policy_is_refused_before_anything_is_written(tmp_path, file):
    with pytest.raises(ValueError, match=r"policy is '' with the task .*; give policy=PATH"):
        run(replace(CONFIG, task=file), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_settings_of_the_command_line_make_the_task(file, model):
    settings = {"task": file, "verifier": "exact", "policy": model, "data.template": "{prompt}?", "data.stop": ["\n"]}
    config = configured(settings)
    task = task_of(config)
    assert task.stop == ("\n",)
    assert task.pool(3, 0).texts[0].endswith("=?")
    assert len(task_of(configured(settings | {"task": [file]})).pool(0, 0)) == 18


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("data.parquet",), r"verifier is '' with the data set data.parquet; give one of exact"),
        ((["a.json", "b.json"],), r"verifier is '' with the data set \['a.json', 'b.json'\]; give one of"),
        (("openai/gsm8k",), "verifier is '' with the data set openai/gsm8k; give one of"),
        (("data.parquet", "judge"), "verifier is 'judge'; give one of exact"),
        (("math",), "task is 'math'; give math:PATH, gsm8k or gsm8k:PATH"),
        (("math:a.json", "exact"), "verifier is 'exact' with the task math:a.json, which has its own; leave it out"),
        (("chess",), "task is 'chess'; give one of string_ops, .* with verifier=NAME"),
        (("countdown-34", "exact"), "verifier is 'exact' with the task countdown-34, which has its own; leave it out"),
        (
            ("countdown-5",),
            "task is 'countdown-5'; give one of string_ops, countdown, countdown-34, countdown-4, word_problems, math",
        ),
        (("countdown", "exact"), "verifier is 'exact' with the built-in task countdown, which has its own; leave it"),
        (
            ("countdown", "", DataConfig(max_new_tokens=9)),
            "data.max_new_tokens is 9 with the task countdown, which has",
        ),
        (
            ("word_problems", "", DataConfig(held_out="a.json")),
            "data.held_out is 'a.json' with the task word_problems, wh",
        ),
        (("gsm8k", "", DataConfig(held_out_share=0.2)), "data.held_out_share is 0.2, but the split test is held out"),
    ],
)
def test_a_task_that_is_not_there_is_refused(arguments, fault):
    with pytest.raises(ValueError, match=fault):
        make_task(*arguments)


def test_the_built_in_policy_is_not_fine_tuned():
    config = RunConfig(fine_tuning=FineTuningConfig(steps=5))
    with pytest.raises(ValueError, match=r"fine_tuning.steps is 5 with the built-in policy, which warm_start trains"):
        task_of(config)


@pytest.mark.parametrize("task", ["", [], 3, [""]])
def test_a_task_is_a_name_or_a_list_of_paths(task):
    with pytest.raises(ValueError, match=r"task is .*; give the name of a task, a path, or a list of paths"):
        RunConfig(task=task)


def test_the_settings_name_all_methods_that_predict():
    assert tuple(PREDICTIVE) == PREDICTIVE_NAMES


SLOW = ("gps", "adaptive")


WITH_PRIORS = [name for name in METHOD_NAMES if name != "arcus"]  # which refuses them


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in WITH_PRIORS]
)
def test_solve_rates_become_the_prior_of_every_method_with_priors(method, monkeypatch, tmp_path):
    """A prompt that was never solved is predicted below one that was always solved, before any rollout."""
    monkeypatch.setenv("JAXSEL_CACHE", str(tmp_path))
    pool = PromptPool(list("abcd"), list("1234"), list("abcd"), [0.0, 1.0, None, 0.5])
    config = replace(CONFIG, method=MethodConfig(method, batch_size=2, latent_size=0, prior_rollouts=4))
    rates = make_curriculum(config, pool).selector.predict(np.arange(4)).success_rate
    assert rates[0] < rates[2] < rates[1]
    assert rates[0] < rates[3] < rates[1]
    without = make_curriculum(replace(config, method=replace(config.method, prior_rollouts=0)), pool)
    before = without.selector.predict(np.arange(4)).success_rate
    assert np.ptp(before) < np.ptp(rates)


def test_the_prior_is_the_informative_prior(file):
    pool = make_task(file, "exact").pool(0, 0)
    config = replace(CONFIG, method=MethodConfig("mopps", batch_size=2, prior_rollouts=8))
    found = make_curriculum(config, pool).selector.predict(np.arange(len(pool))).success_rate
    alpha, beta = jaxsel.informative_prior(np.array(pool.rates, float) * 8, 8)
    np.testing.assert_allclose(found, alpha / (alpha + beta), rtol=1e-5)


def test_a_prior_without_solve_rates_is_refused():
    pool = PromptPool(["a"], ["1"], ["a"])
    config = replace(CONFIG, method=MethodConfig("mopps", batch_size=1, prior_rollouts=4))
    with pytest.raises(ValueError, match=r"method.prior_rollouts is 4, and the pool has no solve rates; name"):
        make_curriculum(config, pool)
