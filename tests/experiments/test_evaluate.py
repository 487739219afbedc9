"""Evaluation sets by name, the command that evaluates, and training runs with evaluation sets."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments import evaluate
from experiments.evaluate import EvaluateConfig, parsed, powers_up_to
from experiments.running.config import RunConfig, configured
from experiments.running.evaluation_sets import evaluation_of, evaluation_set
from experiments.running.method_config import MethodConfig
from experiments.running.runs import run
from experiments.running.tasks import make_task
from rl.evaluation import Counts
from rl.policy import build_policy
from rl.prompts import sources
from rl.prompts.files import Source
from rl.tasks.data_config import DataConfig
from rl.train_config import TrainConfig

ALPHABET = "".join(map(chr, range(32, 127))) + "\n"


def judge(completion, answer):
    """Judge any completion right if the reference answer is above 5."""
    return int(answer) > 5


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    build_policy(ALPHABET, hidden_size=32, num_layers=1, feed_forward_size=16, seed=0).save(folder)
    return str(folder)


@pytest.fixture
def files(tmp_path):
    """Return files of 8 problems, `0+1=` to `7+1=`, by name. Their columns are those of AIME, AMC and MATH files."""
    rows = [{"problem": f"{i}+1=", "answer": str(i + 1), "url": "x", "solution": "..."} for i in range(8)]
    (tmp_path / "aime24.json").write_text(json.dumps(rows))
    (tmp_path / "amc23.jsonl").write_text(
        "\n".join(json.dumps({"question": r["problem"], "answer": 6.0}) for r in rows)
    )
    lines = [{"content": r["problem"], "answer": r["answer"]} for r in rows]
    (tmp_path / "MATH500.json").write_text("\n".join(map(json.dumps, lines)))
    return {path.name: str(path) for path in tmp_path.iterdir()}


def test_all_prompts_of_a_file_count_in_their_order(files):
    for name, short in (("aime24.json", "aime24"), ("amc23.jsonl", "amc23"), ("MATH500.json", "MATH500")):
        found = evaluation_set(files[name], "math", DataConfig(), size=2)
        assert found.name == short
        assert found.problems.texts == [f"{i}+1=" for i in range(8)]
        assert found.task.verify(r"So \boxed{6}.", found.problems.answers[5])
        boxed = evaluation_set(f"math:{files[name]}", "", DataConfig())
        assert (boxed.name, len(boxed.problems)) == (short, 8)
        assert boxed.problems.texts[3] == "3+1=\n\nReason step by step, and write the final answer inside \\boxed{}."


def test_files_of_one_name_are_told_apart_by_their_folders(files, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(files["aime24.json"], other)
    names = [f"math:{files['aime24.json']}", str(other / "aime24.json"), files["amc23.jsonl"]]
    evaluation = evaluation_of(configured({"eval": names, "eval_verifier": "math"}))
    assert [one.name for one in evaluation.sets] == [f"{tmp_path.name}-aime24", "other-aime24", "amc23"]
    with pytest.raises(ValueError, match=r"the evaluation sets are named aime24, aime24"):
        evaluation_of(configured({"eval": [names[0]] * 2}))


def test_of_a_task_the_held_out_prompts_count():
    for name in ("countdown-4", "countdown-34", "countdown", "string_ops"):
        found = evaluation_set(name, "", DataConfig(), size=7)
        assert (found.name, len(found.problems)) == (name, 7)
    assert found.task.alphabet


def test_a_run_evaluates_with_its_own_template_only_on_its_own_task(files):
    settings = {"task": "countdown-34", "data.template": "T {prompt}", "eval_verifier": "exact", "held_out_size": 3}
    settings |= {"eval": ["countdown-4", f"math:{files['aime24.json']}", files["amc23.jsonl"]], "eval_k": 4}
    evaluation = evaluation_of(configured(settings))
    starts = [one.problems.texts[0][:2] for one in evaluation.sets]
    assert starts == ["A ", "0+", "T "]
    assert [len(one.problems) for one in evaluation.sets] == [3, 8, 8]
    assert evaluation.k == 4
    same = evaluation_of(configured(settings | {"eval": ["countdown-34"], "eval_verifier": ""}))
    assert same.sets[0].problems.texts[0].startswith("T Using the numbers [")


def test_a_run_holds_out_what_its_own_evaluation_set_asks():
    settings = {"task": "word_problems", "eval": ["word_problems"], "held_out_size": 40, "data.held_out_seed": 1}
    config = configured(settings)
    task = make_task("word_problems", "", config.data)
    asked = evaluation_of(config).sets[0].problems
    assert list(asked.texts) == list(task.held_out(40).texts)
    assert list(asked.texts) != list(make_task("word_problems").held_out(40).texts)


@pytest.fixture
def odd_file(tmp_path):
    """Return a file whose columns have other names, with two columns of solve rates and a repeated problem."""
    rows = [{"Aufgabe": f"{i}+1=", "Antwort": str(i + 1), "pass_rate": 0.5, "b_pass_rate": 0.2} for i in (0, 1, 2, 2)]
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(rows))
    return str(path)


def test_settings_name_the_columns_of_evaluation_sets(odd_file):
    columns = {"prompt": "Aufgabe", "answer": "Antwort", "merge": True}
    settings = {f"eval_data.{name}": value for name, value in columns.items()} | {"eval_verifier": "math"}
    settings |= {"eval": [odd_file, "countdown-4"], "held_out_size": 2}
    of_run, countdown = evaluation_of(configured(settings)).sets
    assert (list(of_run.problems.texts), of_run.problems.answers) == (["0+1=", "1+1=", "2+1="], ["1", "2", "3"])
    assert len(countdown.problems) == 2
    command = parsed(["policy=p", f"task={odd_file}", *(f"data.{name}={value}" for name, value in columns.items())])
    assert command.data.settings("", 9, []).prompt == "Aufgabe"
    assert command.data == configured(settings).eval_data


def test_the_cures_for_an_evaluation_set_are_settings_of_the_command(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"problem": "p", "answer": ""}))
    cures = r"in row 0 of .*/data.jsonl; .* by {0}\.answer=none if .* by {0}\.skip_odd=true"
    with pytest.raises(ValueError, match=cures.format("eval_data")):
        evaluation_of(RunConfig(eval=[str(path)], eval_verifier="exact"))
    with pytest.raises(ValueError, match=cures.format("data")):
        evaluate.evaluation_of(parsed(["policy=p", f"task={path}", "verifier=exact"]))


def test_solve_rates_of_evaluation_sets_are_not_read(tmp_path):
    path = tmp_path / "rated.json"
    path.write_text(json.dumps([{"Problem": "p", "Answer": "1", "a_pass_rate": 0.5, "b_pass_rate": "high"}]))
    found = evaluation_of(configured({"eval": [str(path)], "eval_verifier": "math"})).sets[0]
    assert (found.problems.texts, found.problems.rates) == (["p"], None)


def test_settings_of_data_sets_without_a_data_set_are_refused():
    with pytest.raises(
        ValueError, match=r"eval_data is given, and no evaluation set of .* is a data set; leave it out"
    ):
        evaluation_of(configured({"eval": ["countdown-4"], "eval_data.prompt": "Problem"}))
    with pytest.raises(ValueError, match=r"data is given, and no evaluation set of .* is a data set; leave it out"):
        evaluate.evaluation_of(parsed(["policy=p", "task=countdown-4", "data.prompt=Problem"]))
    with pytest.raises(ValueError, match=r"eval_verifier is 'exact', and each evaluation set of \['gsm8k:a'\] has"):
        evaluation_of(configured({"eval": ["gsm8k:a"], "eval_verifier": "exact"}))


def test_a_configuration_holds_for_the_evaluation_sets_on_the_hub(files, monkeypatch):
    local, asked = files["aime24.json"], []

    def from_hub(name, split, config):
        asked.append((name, config))
        return [Source(local, local)]

    monkeypatch.setattr(sources, "_from_hub", from_hub)
    given = {"eval_verifier": "math", "eval_data.config": "main"}
    sets = evaluation_of(configured(given | {"eval": ["owner/data", local, f"math:{files['amc23.jsonl']}"]})).sets
    assert [len(one.problems) for one in sets] == [8, 8, 8]
    assert asked == [("owner/data", "main")]
    for name in (local, f"math:{local}"):
        with pytest.raises(ValueError, match=r"eval_data.config is 'main', and no evaluation set of .* is on the hub"):
            evaluation_of(configured(given | {"eval": [name, "countdown-4"]}))
        with pytest.raises(ValueError, match=r"data.config is 'main', and no evaluation set of .*; give the folder"):
            evaluate.evaluation_of(parsed(["policy=p", f"task={name}", "data.config=main"]))


@pytest.mark.parametrize(
    ("names", "verifier", "fault"),
    [
        (["aime24.json"], "", "verifier is '' with the data set .*aime24.json; give one of exact"),
        (["math500"], "", "task is 'math500', whose problems .*; give their file as math:PATH, or as PATH with verif"),
        (["AIME-2024"], "", "task is 'AIME-2024', whose problems are not part of this package; give their file"),
        (["chess"], "", "task is 'chess'; give one of string_ops"),
        (["aime24.json", "math:aime24.json"], "exact", "the evaluation sets are named aime24, aime24; give every"),
        (["aime24.json"], "judge", "verifier is 'judge'; give one of exact"),
        (["nowhere.json"], "exact", "source is 'nowhere.json', where there is no file"),
    ],
)
def test_unusable_sets_are_refused(files, names, verifier, fault):
    names = [name.replace("aime24.json", files["aime24.json"]) for name in names]
    with pytest.raises(ValueError, match=fault):
        evaluation_of(RunConfig(eval=names, eval_verifier=verifier))


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"eval": "a.json"}, "eval is 'a.json'; give a list"),
        ({"eval_k": 0}, "eval_k is 0; give an integer of at least 1"),
        ({"eval_every": -1}, "eval_every is -1; give an integer of at least 0"),
        ({"eval_top_p": 0.0}, "eval_top_p is 0.0; give a number above 0"),
        ({"eval_temperature": -1.0}, "eval_temperature is -1.0; give a finite number"),
        ({"eval_temperature": 1e-45}, "eval_temperature is 1e-45; give 0, for the likeliest tokens, or a number of at"),
        ({"precision": "fp16"}, "precision is 'fp16'; give one of float32, bfloat16"),
        ({"parallel": "tp"}, "parallel is 'tp'; give one of ddp, fsdp"),
        ({"tracker": "comet"}, "tracker is 'comet'; give one of wandb, trackio"),
    ],
)
def test_settings_out_of_range_are_refused(settings, fault):
    with pytest.raises(ValueError, match=fault):
        RunConfig(**settings)


@pytest.mark.parametrize(("k", "powers"), [(1, [1]), (2, [2]), (3, [2, 3]), (8, [2, 4, 8]), (9, [2, 4, 8, 9])])
def test_pass_at_k_is_reported_for_k_and_smaller_powers_of_two(k, powers):
    assert powers_up_to(k) == powers


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["task=a.json"], "policy is ''; give policy=PATH"),
        (["policy=p"], "task is ''; give the name of a task, a path"),
        (["policy=p", "task=a", "k=4", "samples=2"], "samples is 2 with k=4; give at least k"),
        (["policy=p", "task=a", "temperature=inf"], "temperature is inf; give a finite number of at least 0"),
        (["policy=p", "task=a", "temperature=-1"], "temperature is -1.0; give a finite number of at least 0"),
        (["policy=p", "task=a", "top_p=0"], "top_p is 0.0; give a number above 0"),
        (["policy=p", "task=a", "top_p=nan"], "top_p is nan; give a number above 0"),
        (["policy=p", "task=a", "max_new_tokens=0"], "max_new_tokens is 0; give an integer of at least 1"),
        (["policy=p", "task=a", "stop=[(]"], r"stop is '\[\(\]', which is no list; give texts in quotes"),
        (["policy=p", "task=a", "stop=['']"], "stop is .*; give a tuple of texts that are not empty"),
        (["policy=p", "task=a", "precision=fp16"], "precision is 'fp16'; give one of float32, bfloat16"),
        (["policy=p", "task=a", "engine.name=sglang"], "engine.name is 'sglang'; give one of hf, vllm"),
        (["policy=p", "task=a", "heat=1"], "Key 'heat' not in 'EvaluateConfig'; see python -m"),
        (["policy=p", "task=a", "k=many"], "Value 'many' .*; see python -m"),
    ],
)
def test_a_command_line_is_refused(arguments, fault):
    with pytest.raises(ValueError, match=fault):
        parsed(arguments)


@pytest.mark.parametrize(
    "text", ["{prompt}", "Solve: {prompt}", "{prompt", "1e5", "null", "a #1", "$${prompt}$", "\\${prompt}$"]
)
def test_a_text_is_taken_as_it_was_given(text):
    assert parsed(["policy=p", "task=t", f"template={text}"]).template == text
    found = parsed([f"policy={text}", f"task={text}", f"out={text}"])
    assert (found.policy, found.task, found.out) == (text, text, text)
    assert parsed(["policy=p", "task=t", f"template='{text}'"]).template == text  # YAML's own quotes


def test_the_settings_of_the_command_line():
    config = parsed(["policy=p", "task=[a.json,countdown-4]", "engine.name=vllm", "k=2"])
    assert config == EvaluateConfig(policy="p", task=["a.json", "countdown-4"], k=2, engine=replace(config.engine))
    assert (config.tasks, config.engine.name) == (["a.json", "countdown-4"], "vllm")
    assert parsed(["policy=p", "task=a", "verify_timeout=0"]).verify_timeout == 0  # no limit


@pytest.mark.slow
def test_the_command_prints_a_table_and_writes_json(files, model, tmp_path, capsys):
    out = tmp_path / "scores.json"
    command = [f"policy={model}", f"task=[{files['aime24.json']},math:{files['MATH500.json']}]", "k=2", "samples=3"]
    command += [f"verifier={__name__}:judge", "max_new_tokens=2", f"out={out}", "device=cpu"]
    evaluate.main(command)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "aime24" in line]
    each = np.array([0] * 5 + [1] * 3)
    error = 100 * each.std(ddof=1) / 8**0.5
    assert line.split() == ["aime24", "8", *2 * ["37.5", f"({error:.1f})"], "1.000", "2"]
    found = json.loads(out.read_text())["evaluation_sets"]
    assert found["aime24"]["successes"] == [0] * 5 + [3] * 3
    assert found["aime24"]["scores"]["pass@2/stderr"] == pytest.approx(error / 100)
    assert len(found["aime24"]["keys"]) == found["MATH500"]["problems"] == 8
    evaluate.main(command)  # the command replaces the file that it wrote itself
    out.write_text("{}")
    with pytest.raises(
        SystemExit, match=r"out is .*scores.json', which exists and was not written by this command; give another"
    ):
        evaluate.main(command)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["task=nowhere.json", "verifier=math"], "source is 'nowhere.json', where there is no file"),
        (["task=countdown-4", "temperature=inf"], "temperature is inf; give a finite number of at least 0"),
        (["task=countdown-4", "heat=1"], "Key 'heat' not in 'EvaluateConfig'; see python -m"),
    ],
)
def test_a_mistake_ends_the_command_with_one_line_before_the_policy_is_loaded(tmp_path, monkeypatch, settings, said):
    monkeypatch.setattr(evaluate, "load_policy", None)
    with pytest.raises(SystemExit, match=said) as ended:
        evaluate.main(["policy=p", f"out={tmp_path / 'a.json'}", *settings])
    assert "\n" not in str(ended.value)


def test_a_file_that_cannot_be_written_ends_the_command_before_the_policy_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "load_policy", None)
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "a.json", Path("/proc/a.json")):
        with pytest.raises(SystemExit, match=f"out is '{out}', which cannot be written .*; give a file in a folder"):
            evaluate.main(["policy=p", "task=countdown-4", "size=2", f"out={out}"])


def test_finished_sets_are_printed_and_written_when_a_later_one_fails(files, tmp_path, monkeypatch, capsys):
    class Engine:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    def count(evaluation, one, *_, **__):
        if one.name == "amc23":
            raise ValueError("too long")
        return Counts(np.array([1] * 8), np.array([2] * 8), 16, 5.0, {})

    policy = build_policy(ALPHABET, hidden_size=32, num_layers=1, feed_forward_size=16, seed=0)
    monkeypatch.setattr(evaluate, "load_policy", lambda _: policy)
    monkeypatch.setattr(evaluate, "make_engine", lambda *_: Engine())
    monkeypatch.setattr(evaluate.Evaluation, "count", count)
    out = tmp_path / "new" / "a.json"
    task = f"task=[{files['aime24.json']},{files['amc23.jsonl']}]"
    with pytest.raises(ValueError, match="too long"):
        evaluate.main(["policy=p", task, "verifier=math", "k=2", f"out={out}", "device=cpu"])
    assert list(json.loads(out.read_text())["evaluation_sets"]) == ["aime24"]
    assert "aime24" in capsys.readouterr().out


def test_an_error_of_the_code_keeps_its_traceback(tmp_path, monkeypatch):
    def broken(path):
        raise ValueError("a bug")

    monkeypatch.setattr(evaluate, "load_policy", broken)
    with pytest.raises(ValueError, match="a bug"):
        evaluate.main(["policy=p", "task=countdown-4", "size=2", f"out={tmp_path / 'a.json'}"])


@pytest.mark.slow
def test_the_verifier_of_the_command_may_run_in_its_own_process(tmp_path, model):
    (tmp_path / "a.json").write_text(json.dumps([{"problem": "p", "answer": str(os.getpid())}]))
    verifier = "verifier=tests.support.hanging_verifier:elsewhere"
    command = [f"policy={model}", f"task={tmp_path / 'a.json'}", verifier, "k=1", "max_new_tokens=1", "device=cpu"]
    for own_process in (False, True):
        config = parsed([*command, f"verify_process={own_process}"])
        found = evaluate.evaluate(config, evaluate.evaluation_of(config))
        assert found["a"]["successes"] == [own_process]


def test_help_names_every_setting(capsys):
    evaluate.main(["--help"])
    text = capsys.readouterr().out
    assert all(f"  {name} = " in text for name in ("policy", "task", "verifier", "k", "samples", "engine.name", "out"))


@pytest.mark.slow
def test_a_training_run_logs_its_evaluation_sets(files, model, tmp_path):
    config = RunConfig(
        task=files["aime24.json"],
        verifier=f"{__name__}:judge",
        policy=model,
        eval=[files["aime24.json"], files["amc23.jsonl"]],
        eval_k=2,
        eval_every=2,
        held_out_size=2,
        data=DataConfig(max_new_tokens=2),
        method=MethodConfig("mopps", batch_size=2, candidate_ratio=2),
        train=TrainConfig(steps=3, group_size=2, probe_every=0, checkpoint_every=1),
    )
    records = run(config, tmp_path / "run")
    assert [record["step"] for record in records if "eval/aime24/mean@2" in record] == [0, 2, 3]
    assert records[0]["eval/aime24/mean@2"] == records[0]["eval/aime24/pass@2"] == 3 / 8
    assert records[0]["eval/amc23/mean@2"] == 1
    more = replace(config, eval=[files["MATH500.json"]], eval_verifier="math", eval_every=1)
    records = run(replace(more, train=replace(config.train, steps=4)), tmp_path / "run", resume=True)
    assert [record["step"] for record in records if "eval/MATH500/pass@2/stderr" in record] == [3, 4]
