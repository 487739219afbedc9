"""Names of run folders, settings that a resumed run may change, and command lines that end quietly."""

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from experiments import train  # noqa: F401  (registers the configuration)
from experiments.running.folders import clear_runs, name_of, of_run, of_sweep
from experiments.running.overrides import check_command

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _hydra():
    with initialize(version_base="1.3", config_path=None):
        yield


@functools.cache
def configured(*overrides: str):
    return compose("train", list(overrides), return_hydra_config=True)


def folder(*overrides: str) -> str:
    config = configured(*overrides)
    HydraConfig.instance().set_config(config)
    return str(OmegaConf.select(config, "hydra.run.dir"))


def test_the_folder_of_a_run_names_its_own_settings():
    assert folder() == "runs/string_ops-mopps-0"
    assert folder("train.learning_rate=0.001", "seed=3") == "runs/string_ops-mopps-3,train.learning_rate=0.001"
    assert folder("seed=3", "train.learning_rate=1e-3") == folder("train.learning_rate=0.001", "seed=3")
    assert folder("train.learning_rate=0.00004") == folder()  # the default
    others = [
        "method.decay=0.4",
        "pool_size=40",
        "policy=/models/a",
        "policy=/models_a",
        "policy=/models/b",
        "task=countdown",
    ]
    names = [folder(other) for other in others]
    assert len({*names, folder()}) == len(others) + 1
    assert all(name.count("/") == 1 for name in names)


def test_settings_that_a_resumed_run_may_change_keep_its_folder():
    changed = ["train.steps=7", "train.checkpoint_every=3", "train.probe_every=2", "train.micro_batch_size=8"]
    changed += [
        "train.gradient_checkpointing=true",
        "train.share_prompts=true",
        "resume=true",
        "threads=1",
        "engine.name=vllm",
        "eval=[a.parquet]",
        "eval_k=2",
        "eval_data.prompt=Problem",
    ]
    assert folder(*changed) == folder()
    decaying = [folder("train.lr_schedule=cosine", f"train.steps={steps}") for steps in (7, 9)]
    assert len(set(decaying)) == 2  # with a decaying learning rate, a resumed run may not change its steps


def test_the_folders_of_a_sweep_are_short_distinct_and_stable():
    long = [
        f"train.{name}={value}" for name, value in {"learning_rate": 1e-3, "clip_low": 0.1, "clip_high": 0.3}.items()
    ]
    one, other = (of_sweep(configured(*long, f"method.name={name}"), ["method.name"]) for name in ("dps", "mopps"))
    assert one.startswith("method.name=dps-")
    assert one.removeprefix("method.name=dps") == other.removeprefix("method.name=mopps")
    assert one == of_sweep(configured("method.name=dps", *long[::-1], "train.steps=9", "resume=true"), ["method.name"])
    assert one != of_sweep(configured("method.name=dps", *long[1:]), ["method.name"])
    assert of_sweep(configured("method.name=dps", "seed=1"), ["seed", "method.name"]) == "seed=1,method.name=dps"
    paths = [
        of_sweep(configured(f"policy={path}"), ["policy"])
        for path in ("/a/b", "/a_b", f"/{'x' * 300}", f"/{'x' * 301}")
    ]
    assert len(set(paths)) == len(paths)
    assert all("/" not in path and len(path.encode()) < 200 for path in paths)


def test_any_text_makes_a_name():
    names = [name_of({"policy": text}) for text in ("é" * 200, "\ud800", "a\nb", "..", "$\\frac{1}{2}$", "")]
    assert len(set(names)) == len(names)
    assert all(name.isascii() and "/" not in name and len(name) < 200 for name in names)


def test_only_a_run_is_deleted(tmp_path):
    (tmp_path / "mine").mkdir()
    clear_runs([tmp_path / "mine"])
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="mine holds files, but no run"):
        clear_runs([tmp_path / "mine"])
    assert (tmp_path / "mine" / "thesis.tex").exists()
    for settings, said in (("{}", "holds files, but no run"), ('{"config": {}}', "mine holds thesis.tex beside a run")):
        (tmp_path / "mine" / "config.json").write_text(settings)
        with pytest.raises(ValueError, match=said):
            clear_runs([tmp_path / "mine"])
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"
    (tmp_path / "mine" / "thesis.tex").unlink()
    for place in ("policy", "history", "completions"):
        own = tmp_path / "mine" / place / "notes.txt"
        own.parent.mkdir()
        own.write_text("mine")
        with pytest.raises(ValueError, match=f"mine holds {place}/notes.txt beside a run; give another folder, or mov"):
            clear_runs([tmp_path / "mine"])
        own.unlink()
    clear_runs([tmp_path / "mine"])
    assert not (tmp_path / "mine").exists()


def test_the_folder_of_a_model_is_not_deleted(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["Qwen2ForCausalLM"]}')
    (tmp_path / "model.safetensors").write_text("weights")
    with pytest.raises(ValueError, match="holds files, but no run"):
        clear_runs([tmp_path])
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["-m", "--dry-run", "seed=0,1"]])
def test_answers_without_a_run_import_neither_torch_nor_jax(arguments):
    """These imports take seconds of processor time."""
    script = f"""
import runpy, sys
sys.argv = ["train", *{arguments}]
try:
    runpy.run_module("experiments.train", run_name="__main__", alter_sys=True)
finally:
    assert not sys.modules.keys() & {{"torch", "transformers", "jax"}}, "heavy imports"
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=25)
    assert (done.returncode, done.stderr) == (0, "")
    assert "seed" in done.stdout


@pytest.mark.slow
def test_help_into_a_closed_pipe_is_quiet():
    started = []
    # all at the same time, because imports take seconds
    for module in ("experiments.train", "experiments.collect", "experiments.watch"):
        read, write = os.pipe()
        os.close(read)
        with os.fdopen(write, "wb") as closed:
            command = [sys.executable, "-m", module, "--help"]
            started.append(subprocess.Popen(command, cwd=ROOT, stdout=closed, stderr=subprocess.PIPE))
    assert [process.communicate()[1] for process in started] == [b"", b"", b""]


def test_every_command_line_ends_quietly():
    found = [path for path in (ROOT / "experiments").rglob("*.py") if '__name__ == "__main__"' in path.read_text()]
    assert len(found) > 15
    assert [path.name for path in found if "with quiet_pipe():" not in path.read_text()] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_imports_stops_at_once_to_be_queued_again(number):
    """An import hook sends the signal when hydra is imported."""
    code = f"import os, sys, time; os.kill(os.getpid(), {int(number)}); time.sleep(30)"
    script = f"""
import runpy, sys, types
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "hydra":
            exec({code!r})
sys.meta_path.insert(0, Finder())
runpy.run_module("experiments.train", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=False, timeout=25)
    assert done.returncode == os.EX_TEMPFAIL
    assert done.stderr == b"stopped before it trained, as it was asked to; resume to go on\n"


def test_a_long_task_and_many_settings_make_a_name_that_file_systems_take(tmp_path):
    options = ["method.name=adaptive", "method.embeddings=policy", "train.learning_rate=1e-6", "train.group_size=16"]
    options += ["method.batch_size=64", "data.max_new_tokens=1024", "train.advantage=dr_grpo", "verifier=math"]
    names = {of_run(configured(f"task={'a' * 130}", f"policy=/models/{size}B", *options)) for size in (3, 7)}
    assert len(names) == 2
    for name in names:
        (tmp_path / name).mkdir()
        assert name.startswith("a" * 130)


def test_a_run_is_named_after_its_task_method_and_seed():
    config = configured("seed=2", "method.name=dps")
    assert of_run(config) == "string_ops-dps-2"


def test_no_run_is_deleted_if_one_folder_is_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"config": {}}')
    (tmp_path / "b" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"b holds mine.txt beside a run"):
        clear_runs(tmp_path / name for name in ("a", "b"))
    assert (tmp_path / "a" / "config.json").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"resume": "no"}, "resume is 'no'; give true or false"),
        ({"dry_run": 1}, "dry_run is 1; give true or false"),
        ({"threads": "abc"}, "threads is 'abc'; give an integer of at least 0"),
        ({"threads": -1}, "threads is -1; give an integer"),
    ],
)
def test_settings_of_the_command_have_their_types(given, said):
    sound = {"resume": False, "dry_run": False, "threads": 0}
    check_command(sound)
    with pytest.raises(ValueError, match=said):
        check_command(sound | given)
