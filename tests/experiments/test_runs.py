import contextlib
import json
import os
import signal
import sys
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

import jaxsel
from experiments.collect.folders import read_run
from experiments.reporting.summaries import summary
from experiments.running import embeddings, runs
from experiments.running import help as help_text
from experiments.running.compare import finished
from experiments.running.config import EngineConfig, RunConfig, configured
from experiments.running.folders import clear_runs
from experiments.running.method_config import METHOD_NAMES, MethodConfig
from experiments.running.runs import _preemptible, make_policy, run
from experiments.running.tasks import make_task
from experiments.train import _outcome
from rl.hidden_states import hidden_states
from rl.preemption import PreemptedError
from rl.probe import Probe
from rl.ranks import Ranks
from rl.run_log import read_metrics
from rl.tasks.data_config import DataConfig
from rl.warm_start import WarmStartConfig
from tests.support import warm_processes
from tests.support.folders_in_use import assert_refused_while_in_use, contents
from tests.support.runs import until_killed
from tests.support.tiny_experiment import CONFIG
from tests.support.two_ranks import launch

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache")]


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    """Give gps small networks, which compile sooner; `tests/jaxsel` tests the large ones."""
    small = {"width": 8, "num_heads": 1, "num_draws": 2, "history": 4, "inner_steps": 1, "replayed": 1}
    monkeypatch.setattr(jaxsel, "gps", partial(jaxsel.gps, **small))


@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize("task", ["string_ops", "countdown"])
def test_every_method_trains_on_every_task(tmp_path, method, task):
    config = replace(CONFIG, task=task, method=replace(CONFIG.method, name=method))
    records = run(config, tmp_path)
    assert [r["step"] for r in records] == [0, 1, 2]
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["config"]["method"]["name"] == method
    assert {"seed", "versions", "git", "device"} <= written.keys()


@pytest.mark.parametrize(("method", "kind", "features"), [("gps", "policy", 0), ("adaptive", "both", 8)])
def test_methods_with_embeddings_can_use_the_policy_at_the_start_of_the_run(
    tmp_path, monkeypatch, method, kind, features
):
    """A resumed run reads the saved vectors, because vectors that are computed again may be rounded differently."""
    # without latent variables, gps compiles sooner; `test_every_method_trains_on_every_task` has them
    chooses = replace(CONFIG.method, name=method, embeddings=kind, kernel_features=features, latent_size=0)
    config = replace(CONFIG, method=chooses)
    task = make_task(config.task)
    pool = task.pool(config.pool_size, config.seed)
    first = run(config, tmp_path / "run")
    vectors = np.load(tmp_path / "run" / "embeddings.npy")
    own = hidden_states(make_policy(config, task, progress=False))(pool.texts)
    words = 256 if kind == "both" else 0
    assert vectors.shape == (40, words + 32 + features)
    np.testing.assert_allclose(vectors[:, words : words + 32], own, atol=2e-6)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["embedding_seconds"] > 0
    longer = replace(config, train=replace(config.train, steps=4))
    whole = run(longer, tmp_path / "whole")
    monkeypatch.setattr(embeddings, "hidden_states", None)
    resumed = run(longer, tmp_path / "run", resume=True)
    assert [r["policy/loss"] for r in resumed[:-1]] == [r["policy/loss"] for r in whole[:-1]]
    assert len(first) == 3
    clear_runs([tmp_path / "run"])


def test_the_seed_varies_pool_choices_and_warm_start(tmp_path):
    one, other = (run(replace(CONFIG, seed=seed), tmp_path / str(seed)) for seed in (0, 1))
    again = run(CONFIG, tmp_path / "again")
    assert [r["policy/loss"] for r in one[:2]] == [r["policy/loss"] for r in again[:2]]
    assert one[-1]["probe/pool_accuracy"] is not None
    assert make_task("string_ops").pool(9, 0).texts != make_task("string_ops").pool(9, 1).texts
    assert one[0] != other[0]


def test_a_run_resumes_only_with_its_own_settings(tmp_path):
    config = replace(CONFIG, method=replace(CONFIG.method, name="uniform"))
    with pytest.raises(ValueError, match="prior_counts"):
        run(replace(config, method=MethodConfig("dps", prior_counts="none")), tmp_path)
    records = run(config, tmp_path, resume=True)  # there is no run yet
    before = (tmp_path / "config.json").read_text()
    others = {"pool_size": 30, "warm_start": replace(config.warm_start, steps=3), "policy": "some/model"}
    for name, other in others.items():
        with pytest.raises(ValueError, match=f"{name}.* is .*, but .* holds a run with {name}"):
            run(replace(config, **{name: other}), tmp_path, resume=True)
    assert (tmp_path / "config.json").read_text() == before
    assert run(replace(config, parallel="fsdp"), tmp_path, resume=True) == records  # `parallel` may change


def test_a_run_that_stopped_in_its_first_probe_resumes_only_with_its_own_settings(tmp_path, monkeypatch):
    """Its checkpoint holds the weights of step 0, which other settings of the policy would not give."""
    monkeypatch.setattr(Probe, "measure", stopped)
    with pytest.raises(PreemptedError):
        run(CONFIG, tmp_path)
    assert (tmp_path / "checkpoint.pt").exists()
    before = (tmp_path / "config.json").read_bytes()
    other = replace(CONFIG, warm_start=replace(CONFIG.warm_start, steps=3))
    with pytest.raises(ValueError, match=r"warm_start.steps is 3, but .* holds a run with warm_start.steps 2"):
        run(other, tmp_path, resume=True)
    with pytest.raises(ValueError, match="already holds a run"):
        run(other, tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_setting_that_is_newer_than_the_run_had_its_default(tmp_path):
    run(CONFIG, tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    del written["config"]["method"]["kernel_features"], written["config"]["method"]["explore_share"]
    other = replace(CONFIG, method=replace(CONFIG.method, embeddings="policy", kernel_features=8))
    written["config"]["method"]["embeddings"] = "policy"  # which mopps does not read
    (tmp_path / "config.json").write_text(json.dumps(written))
    said = r"kernel_features is 8, but .* holds a run with method.kernel_features 0; give"
    with pytest.raises(ValueError, match=said):
        run(other, tmp_path, resume=True)
    without = replace(other, method=replace(other.method, kernel_features=0))
    assert len(finished(tmp_path, without)) == len(run(without, tmp_path, resume=True)) == 3
    assert not finished(tmp_path, other)


@pytest.mark.parametrize(("before", "after"), [(3, 1), (3, 5), (0, 5)])
def test_checkpoint_every_changes_only_after_the_first_checkpoint(tmp_path, before, after):
    """Whether a run without a checkpoint may start anew depends on the setting of its steps so far."""

    def with_checkpoints(every):
        return replace(CONFIG, train=replace(CONFIG.train, steps=4, checkpoint_every=every))

    with pytest.raises(KeyboardInterrupt):
        run(with_checkpoints(before), tmp_path, progress=until_killed(2))
    kept = contents(tmp_path)
    cure = f"give train.checkpoint_every={before} until the first checkpoint, or another" if before else "give another"
    with pytest.raises(ValueError, match=rf"checkpoint_every is {after}, but .* without a checkpoint.*; {cure} folder"):
        run(with_checkpoints(after), tmp_path, resume=True)
    assert contents(tmp_path) == kept
    if before:
        with pytest.raises(KeyboardInterrupt):
            run(with_checkpoints(before), tmp_path, resume=True, progress=until_killed(3))
        assert len(run(with_checkpoints(after), tmp_path, resume=True)) == 5


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"method.batch_size": 41},
            "method.batch_size is 41, and the pool has 40 prompts; give at most that or a larger",
        ),
        ({"method.stratified": True}, "method.stratified is true, and the prompts have no strata"),
        ({"method.prior_rollouts": 4}, "method.prior_rollouts is 4, and the pool has no solve rates"),
        ({"method.name": "gps", "method.embeddings": "difficulty"}, "embeddings is 'difficulty', and the prompts have"),
        ({"train.overlong_buffer": 999}, "overlong_buffer is 999; give at most"),
    ],
)
def test_what_needs_no_policy_is_refused_before_one_is_loaded(tmp_path, monkeypatch, settings, said):
    monkeypatch.setattr(runs, "make_policy", None)
    with pytest.raises(ValueError, match=said):
        run(configured(settings, CONFIG), tmp_path)
    assert not contents(tmp_path)


@pytest.mark.parametrize("by", ["held_out", "held_out_split"])
@pytest.mark.parametrize("rows", ["", '{"question": "a", "answer": ""}'], ids=["none", "odd"])
def test_held_out_prompts_that_are_none_are_refused_before_the_policy_is_loaded(tmp_path, monkeypatch, by, rows):
    (tmp_path / "train.jsonl").write_text("\n".join(f'{{"question": "{i}?", "answer": "1"}}' for i in range(4)))
    (tmp_path / "test.jsonl").write_text(rows)
    given = {"held_out": str(tmp_path / "test.jsonl"), "held_out_split": "test"}[by]
    settings = {"task": str(tmp_path), "verifier": "exact", "policy": "none", "data.split": "train"}
    settings |= {"data.skip_odd": True, f"data.{by}": given}
    monkeypatch.setattr(runs, "make_policy", None)
    with pytest.raises(ValueError, match=f"data.{by} is '{given}', which holds no prompts that can be read; give ano"):
        run(configured(settings, CONFIG), tmp_path / "run")
    assert not contents(tmp_path / "run")


def test_held_out_prompts_are_made_before_the_policy_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "make_policy", None)
    monkeypatch.setattr(runs, "task_of", lambda config: make_task("string_ops")._replace(held_out=broken))
    with pytest.raises(ValueError, match="held out"):
        run(CONFIG, tmp_path)
    assert not contents(tmp_path)


def broken(num_prompts):
    raise ValueError("held out")


def test_history_resampling_trains_on_a_pool_smaller_than_a_batch(tmp_path):
    settings = {"method.name": "history_resampling", "method.batch_size": 9, "pool_size": 5, "probe_size": 2}
    assert len(run(configured(settings, CONFIG), tmp_path)) == 3


def stopped(*args):
    raise PreemptedError(0)


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_replaces_nothing_that_no_run_wrote(tmp_path, resume):
    """The model that a run starts from may lie in its folder, or where its own policy goes."""
    from rl.policy import build_policy

    for place in ("model", "model/policy", "run/policy", "run/policy/best", "weights"):
        build_policy(make_task("string_ops").alphabet, hidden_size=32, num_layers=1).save(tmp_path / place)
    (tmp_path / "weights" / "config.json").rename(tmp_path / "weights" / "checkpoint.pt")
    (tmp_path / "vectors").mkdir()
    (tmp_path / "vectors" / "embeddings.npy").write_text("mine")
    before = contents(tmp_path)
    cases = [
        ("model", "model", "holds config.json, which no run wrote there; give another folder"),
        ("run/policy", "run", "policy .*run/policy lies where run_dir .* gets its policy; give another folder"),
        ("run/policy/best", "run", "lies where run_dir .* gets its policy"),
        ("model", "run", "holds policy, which no run wrote there"),
        ("model", "vectors", "holds embeddings.npy, which no run wrote there"),
        ("model", "weights", "holds checkpoint.pt, which no run wrote there"),
    ]
    for policy, folder, said in cases:
        with pytest.raises(ValueError, match=said):
            run(replace(CONFIG, policy=str(tmp_path / policy)), tmp_path / folder, resume=resume)
        assert contents(tmp_path) == before


def test_a_run_that_ended_before_its_first_step_starts_again(tmp_path):
    (tmp_path / "embeddings.npy").write_bytes(b"of the run that ended")
    settings = {"config": {"task": CONFIG.task}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert len(run(CONFIG, tmp_path)) == 3


@pytest.mark.parametrize("caught", [[], [Exception], [BaseException]])
def test_a_signal_while_the_policy_is_loaded_is_not_lost(caught):
    """Libraries catch errors where they try one way of loading after the other."""

    def load():
        with contextlib.suppress(*caught):
            os.kill(os.getpid(), signal.SIGUSR1)

    with pytest.raises(PreemptedError, match="before it trained"):
        _preemptible(Ranks(), load)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [(None, "no held-out accuracy, because the last probe judged 0% of its completions,"), (True, "accuracy 1.000")],
)
def test_the_last_line_of_a_run_says_what_the_final_probe_found(tmp_path, monkeypatch, verdicts, said):
    task = make_task(CONFIG.task)._replace(verify=lambda *_: verdicts)
    monkeypatch.setattr(runs, "task_of", lambda config: task)
    records = run(CONFIG, tmp_path)
    assert said in _outcome(records[-1])
    accuracy = summary(records)["held_out_accuracy"]
    assert np.isnan(accuracy) if verdicts is None else accuracy == 1


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"method.name is 'mops'; give one of uniform"):
        MethodConfig("mops")
    with pytest.raises(ValueError, match=r"engine.name is 'vlm'; give one of hf, vllm"):
        EngineConfig("vlm")
    for name in ("precision", "parallel", "tracker"):
        with pytest.raises(ValueError, match=rf"{name} is 'odd'; give one of \w+, \w+"):
            configured({name: "odd"})
    with pytest.raises(ValueError, match="task is 'chess'; give one of string_ops"):
        make_task("chess")


def test_the_tracker_gets_every_step_and_an_unknown_one_is_refused_before_the_run(tmp_path, monkeypatch):
    sent = []
    fake = SimpleNamespace(init=lambda **options: None, log=lambda metrics, step: sent.append(step))
    monkeypatch.setitem(sys.modules, "trackio", fake)
    fake.finish = lambda: sent.append("finished")
    run(replace(CONFIG, tracker="trackio"), tmp_path / "run")
    assert sent == [0, 1, 2, "finished"]
    with pytest.raises(ValueError, match="tracker is 'comet'"):
        run(replace(CONFIG, tracker="comet"), tmp_path / "other")
    assert not (tmp_path / "other" / "metrics.jsonl").exists()
    clear_runs([tmp_path / "run"])


def test_a_policy_by_path(tmp_path):
    from rl.policy import build_policy

    build_policy(make_task("string_ops").alphabet, hidden_size=32, num_layers=1).save(tmp_path / "model")
    config = replace(CONFIG, policy=str(tmp_path / "model"), precision="bfloat16")
    assert make_policy(config, make_task("string_ops")).precision == "bfloat16"
    records = run(replace(config, train=replace(config.train, gradient_checkpointing=True)), tmp_path / "run")
    assert len(records) == 3


def test_a_probe_may_hold_the_whole_of_a_data_set(tmp_path):
    from rl.policy import build_policy

    build_policy("0123456789+=", hidden_size=32, num_layers=1).save(tmp_path / "model")
    file = tmp_path / "sums.jsonl"
    file.write_text("\n".join(json.dumps({"problem": f"{i}+1=", "answer": str(i + 1)}) for i in range(20)))
    data = DataConfig(max_new_tokens=2, held_out_share=0.25)
    sizes = {"pool_size": 0, "probe_size": 0, "held_out_size": 2}
    records = run(
        replace(CONFIG, task=str(file), verifier="exact", policy=str(tmp_path / "model"), data=data, **sizes),
        tmp_path / "run",
    )
    assert records[0]["probe/rollouts"] == (15 + 2) * CONFIG.train.group_size


def test_help_describes_every_parameter():
    text = help_text.describe(RunConfig())
    for name in (
        "task = string_ops",
        "method.decay = 0.5",
        "train.learning_rate = 4e-05",
        "warm_start.steps = 2500",
        "train.steps = 200",
    ):
        assert name in text
    assert not [line for line in text.splitlines() if line.rstrip().endswith("=")]
    for word in ("submitit_slurm", "submitit_local", "exits with 75", "tracker = ''", *METHOD_NAMES):
        assert word in text


SMALL = [
    *("warm_start.hidden_size=32", "warm_start.num_layers=1", "warm_start.feed_forward_size=32"),
    *("warm_start.steps=2", "warm_start.batch_size=8", "pool_size=40", "held_out_size=4"),
    *("method.batch_size=4", "train.group_size=2"),
]


@pytest.mark.slow
def test_the_command_line_trains_and_resumes(tmp_path):
    arguments = [
        *SMALL,
        *("train.steps=3", "train.checkpoint_every=2", "train.probe_every=0", f"hydra.run.dir={tmp_path}/run"),
    ]
    command = [sys.executable, "-m", "experiments.train", *arguments]
    first = warm_processes.run(command)
    assert "held-out accuracy" in first.stdout
    before = read_metrics(tmp_path / "run" / "metrics.jsonl")
    refused = warm_processes.run(command, check=False)
    assert refused.returncode != 0
    assert "already holds a run" in refused.stderr
    warm_processes.run([*command, "--resume"])
    after = read_metrics(tmp_path / "run" / "metrics.jsonl")
    drop = [{k: v for k, v in r.items() if not k.startswith("seconds/")} for r in before]
    assert drop == [{k: v for k, v in r.items() if not k.startswith("seconds/")} for r in after]
    assert np.isfinite(after[-1]["probe/held_out_accuracy"])
    clear_runs([tmp_path / "run"])  # which refuses a folder with names that no run writes
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_command_line_trains_in_two_processes(tmp_path):
    arguments = [
        *SMALL,
        *("train.steps=2", "train.probe_every=0", "parallel=fsdp", f"hydra.run.dir={tmp_path}/run"),
    ]
    launch([sys.executable, "-m", "experiments.train", *arguments], tmp_path)
    assert "held-out accuracy" in (tmp_path / "0.log").read_text()
    assert "held-out accuracy" not in (tmp_path / "1.log").read_text()
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 3
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (written["processes"], written["config"]["parallel"]) == (2, "fsdp")


def test_a_run_whose_learning_rate_decays_keeps_its_number_of_steps(tmp_path):
    config = replace(CONFIG, train=replace(CONFIG.train, lr_schedule="linear", checkpoint_every=1))
    run(config, tmp_path)
    with pytest.raises(ValueError, match=r"train.steps is 4, but .* holds a run with train.steps 2; give that"):
        run(replace(config, train=replace(config.train, steps=4)), tmp_path, resume=True)
    run(replace(config, train=replace(config.train, keep_completions=1)), tmp_path, resume=True)


def test_a_finished_run_goes_on_with_more_steps_and_its_folder_records_them(tmp_path):
    config = replace(CONFIG, method=replace(CONFIG.method, name="uniform"))
    run(config, tmp_path)
    longer = replace(config, train=replace(config.train, steps=4, micro_batch_size=8))
    with pytest.raises(ValueError, match=r"train.steps is 1, but .* holds a run of 2 steps; give at least 2"):
        run(replace(config, train=replace(config.train, steps=1)), tmp_path, resume=True)
    before = json.loads((tmp_path / "config.json").read_text())
    assert [record["step"] for record in run(longer, tmp_path, resume=True)] == [0, 1, 2, 3, 4]
    after = json.loads((tmp_path / "config.json").read_text())
    assert after["config"]["train"] == before["config"]["train"] | {"steps": 4, "micro_batch_size": 8}
    assert finished(tmp_path, longer)
    assert read_run(tmp_path).trouble == ""


def test_a_second_run_in_a_used_folder_is_refused_and_changes_nothing(tmp_path):
    assert_refused_while_in_use(tmp_path, lambda: run(CONFIG, tmp_path))


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        *[(RunConfig, name, -5) for name in ("pool_size", "held_out_size", "probe_size", "seed")],
        *[(MethodConfig, "batch_size", value) for value in (0, 2.0, True)],
        *[(MethodConfig, name, -1) for name in ("candidate_ratio", "latent_size", "max_batches", "entropy_weight")],
        (MethodConfig, "kernel_features", -1),
        *[(MethodConfig, name, 1.5) for name in ("decay", "dps_decay", "target", "lower", "upper")],
        *[(EngineConfig, "timeout", value) for value in (-1.0, float("nan"), float("inf"))],
        *[(EngineConfig, "gpu_memory_utilization", value) for value in (0.0, 1.5)],
        *[(WarmStartConfig, name, 0) for name in ("hidden_size", "num_layers", "batch_size", "learning_rate")],
    ],
)
def test_a_setting_out_of_range_is_refused(make, name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; give"):
        make(**{name: value})


def test_a_resumed_run_that_is_refused_keeps_its_settings(tmp_path):
    config = replace(CONFIG, method=replace(CONFIG.method, name="uniform"))
    run(config, tmp_path)
    before = (tmp_path / "config.json").read_text()
    for checkpoint in tmp_path.glob("checkpoint*.pt"):
        checkpoint.unlink()
    with pytest.raises(ValueError, match="has no checkpoint"):
        run(replace(config, train=replace(config.train, steps=4)), tmp_path, resume=True)
    assert (tmp_path / "config.json").read_text() == before
    assert read_run(tmp_path).trouble == ""
