"""Many runs in one table, figure and page: means by hand, and runs that crashed at any point."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from experiments.collect.__main__ import main
from experiments.collect.folders import find_runs, read_run
from experiments.collect.groups import common, grouped
from experiments.collect.sections import draw
from experiments.running.config import RunConfig
from rl.run_log import RunLog
from rl.train_config import TrainConfig

STEPS = 4


def records(accuracies=(0.1, 0.2, 0.4), mixed=0.5, spearman=0.5):
    """Return four steps with probes before the first and the third step, and one after the last."""
    made = []
    for step in range(STEPS):
        record = {"step": step, "rollouts": 100 * (step + 1), "train/mixed_share": mixed}
        record |= {"seconds/selecting": 0.1, "seconds/generating": 0.2, "seconds/updating": 0.1}
        if step % 2 == 0:
            record |= {"probe/held_out_accuracy": accuracies[step // 2], "probe/spearman": spearman}
            record["seconds/probing"] = 0.5
        made.append(record)
    end = {"step": STEPS, "rollouts": 100 * STEPS}
    return [*made, end | {"probe/held_out_accuracy": accuracies[-1], "probe/spearman": spearman}]


def write_lines(folder, rows):
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def make_run(folder, rows=None, **settings):
    """Make the folder of a run as `experiments.train` does, without config.json; `rows` are the metrics per step."""
    tree = {"task": "string_ops", "held_out_size": 20, "seed": 0, "threads": 0} | settings
    seed = tree["seed"]  # runs that differ only in their seeds form one group
    inner = {
        "method": {"name": tree.pop("method", "mopps"), "decay": tree.pop("decay", 0.5)},
        "warm_start": {"steps": tree.pop("warm_steps", 20), "seed": seed},
        "train": {"steps": tree.pop("steps", STEPS), "seed": seed},
    }
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(json.dumps(tree | inner))  # JSON is also YAML
    write_lines(folder, records() if rows is None else rows)
    return folder


def collected(tmp_path, *places):
    """Collect the runs in these folders, and return the JSON and the HTML of the result."""
    main([*map(str, places), "--out", str(tmp_path / "out")])
    result = json.loads((tmp_path / "out" / "collected.json").read_text())
    return result, (tmp_path / "out" / "collected.html").read_text()


def lines(capsys):
    """Return the printed lines, with single blanks between columns."""
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_means_and_standard_errors_by_hand(tmp_path, capsys):
    sweep = tmp_path / "sweep"
    make_run(sweep / "a", records((0.1, 0.2, 0.4), mixed=0.25), seed=0)
    make_run(sweep / "b", records((0.1, 0.4, 0.6), mixed=0.75), seed=1)
    make_run(sweep / "c", records((0.1, 0.1, 0.1)), seed=0, method="uniform")
    result, page = collected(tmp_path, sweep)
    assert list(result["groups"]) == ["uniform", "mopps"]
    mopps = result["groups"]["mopps"]
    assert mopps["seeds"] == [0, 1]
    assert [folder.rpartition("/")[2] for folder in mopps["folders"]] == ["a", "b"]
    expected = {
        "held_out_accuracy": (0.4, 0.1),  # mean and error of 0.3 and 0.5, which are the means of the last two probes
        "mixed_share": (0.5, 0.25),
        "share_selecting": (0.25, 0),
        "seconds": (2.6, 0),  # four steps of 0.4 and two probes of 0.5; the last probe has no time
        "rollouts": (400, 0),
        "steps": (4, 0),
    }
    for name, (mean, error) in expected.items():
        assert mopps[name] == {"mean": pytest.approx(mean), "standard_error": pytest.approx(error)}
    assert result["groups"]["uniform"]["held_out_accuracy"] == {"mean": pytest.approx(0.1), "standard_error": None}
    row = "mopps 2 4 400 0.500 (0.250) 0.400 (0.100) 0.500 (0.000) 0.250 (0.000) 2.6 (0.0)"
    assert row in lines(capsys)
    for cell in ("0.500 (0.250)", "0.400 (0.100)", "3 of 3 runs count"):
        assert cell in page
    assert "do not count" not in page.lower()
    assert (tmp_path / "out" / "collected.png").stat().st_size > 10_000


def cut(folder):
    path = folder / "metrics.jsonl"
    path.write_text(path.read_text()[:-30])


def stop_after(number):
    return lambda folder: write_lines(folder, records()[:number])


def spoil(name, text):
    return lambda folder: (folder / name).write_bytes(text)


def remove(name):
    return lambda folder: (folder / name).unlink()


def fail_last_probe(folder):
    write_lines(folder, [*records()[:-1], {"step": STEPS, "rollouts": 400, "probe/held_out_accuracy": math.nan}])


CONFIG = ".hydra/config.yaml"
DAMAGED = "metrics.jsonl cannot be read (line 1"


@pytest.mark.parametrize(
    ("crash", "trouble"),
    [
        (stop_after(0), "no steps"),
        (remove("metrics.jsonl"), "no steps"),
        (stop_after(3), "3 of 4 steps"),
        (stop_after(4), "4 of 4 steps, but not the probe after the last"),
        (cut, "4 of 4 steps, but not the probe after the last"),
        (spoil("metrics.jsonl", b'{"step": 0, "rol'), "no steps"),
        (spoil("metrics.jsonl", b'{"step": 0}\0\0\n{}\n'), DAMAGED),
        (spoil("metrics.jsonl", b"\xff\xfe\n"), DAMAGED),
        (spoil("metrics.jsonl", b"[1]\n"), DAMAGED),
        (spoil("metrics.jsonl", b'{"loss": 1}\n'), DAMAGED),
        (spoil("metrics.jsonl", b'{"step": "0", "rollouts": 1}\n'), DAMAGED),
        (spoil("metrics.jsonl", b'{"step": 0, "rollouts": 1, "loss": "1"}\n{}\n'), DAMAGED.replace("1", "2")),
        (spoil(CONFIG, b"train: {steps: six}"), "4 steps; .hydra/config.yaml is incomplete"),
        (spoil(CONFIG, b"train: {steps: 4}\nseed: one"), "4 steps; .hydra/config.yaml is incomplete"),
        (
            spoil("metrics.jsonl", b'{"step": 0, "rollouts": 1, "loss": "1"}\n'),
            f"{DAMAGED}: loss is no number; put back",
        ),
        (spoil("metrics.jsonl", b'{"step": 0}\n'), f"{DAMAGED}: rollouts is missing; put back"),
        (spoil("metrics.jsonl", b'{"step": 0, "rollouts": NaN}\n'), f"{DAMAGED}: rollouts is missing; put back"),
        (
            spoil("metrics.jsonl", b'{"step": 0, "rollouts": 1' + b"0" * 400 + b"}\n"),
            f"{DAMAGED}: rollouts is no number; put back",
        ),
        (
            spoil("metrics.jsonl", b'{"step": 1, "rollouts": 8}\n'),
            f"{DAMAGED}: it holds step 1 in place of 0; put back",
        ),
        (fail_last_probe, "4 of 4 steps, but the probe after the last found no held-out accuracy"),
        (remove(CONFIG), "4 steps; no settings (neither config.json nor .hydra/config.yaml)"),
        (spoil(CONFIG, b""), "4 steps; .hydra/config.yaml is empty"),
        (spoil(CONFIG, b"task: [string"), "4 steps; .hydra/config.yaml cannot be read"),
        (spoil(CONFIG, b"task"), "4 steps; .hydra/config.yaml is incomplete"),
        (spoil(CONFIG, b"- 1"), "4 steps; .hydra/config.yaml cannot be read"),
        (spoil(CONFIG, b"task: string_ops\n"), "4 steps; .hydra/config.yaml is incomplete"),
        (spoil(CONFIG, b"train: {steps: 2}\n"), "4 steps, but the settings say 2: they belong to another run"),
    ],
)
def test_a_run_that_crashed_is_named_and_counts_nowhere(tmp_path, capsys, monkeypatch, crash, trouble):
    monkeypatch.setattr("experiments.collect.__main__.draw", lambda groups: Figure())
    monkeypatch.setattr("experiments.collect.sections.draw", lambda groups, panel: Figure())
    make_run(tmp_path / "sweep" / "whole", seed=1)
    crash(make_run(tmp_path / "sweep" / "broken"))
    result, page = collected(tmp_path, tmp_path / "sweep")
    said = result["left_out"][str(tmp_path / "sweep" / "broken")]
    if "(line" in trouble:
        assert said.startswith(trouble)
        assert said.endswith(("repeats it)", "delete the line)"))
    else:
        assert said == trouble
    assert f"does not count: {tmp_path / 'sweep' / 'broken'}: {said}\n" in capsys.readouterr().out
    assert [group["seeds"] for group in result["groups"].values()] == [[1]]
    assert trouble in page
    assert "1 of 2 runs count" in page


def test_the_trouble_of_a_run_without_metrics_and_with_empty_settings(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / CONFIG).touch()
    assert read_run(tmp_path).trouble == "no steps; .hydra/config.yaml is empty"


def test_without_a_finished_run_the_page_names_the_trouble_and_the_old_figure_is_removed(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "collected.png").write_text("of an earlier call")
    (tmp_path / "out" / "collected.json").write_text('{"left_out": {}}')
    result, page = collected(tmp_path, make_run(tmp_path / "run", []))
    assert result["groups"] == {}
    assert not (tmp_path / "out" / "collected.png").exists()
    assert "no steps" in page
    assert "0 of 1 runs count\n" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["json", "png", "html"])
def test_files_of_another_origin_are_not_replaced(tmp_path, kind):
    make_run(tmp_path / "run", [])
    file = tmp_path / f"thesis.{kind}"
    file.write_text('"a text with the word left_out"')
    with pytest.raises(SystemExit, match=f"thesis.{kind} exists and was not written by this command; give another"):
        main([str(tmp_path / "run"), "--out", str(tmp_path), "--name", "thesis"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", file.name]
    assert file.read_text() == '"a text with the word left_out"'


def test_a_run_that_was_preempted_and_resumed_is_finished(tmp_path):
    folder = make_run(tmp_path / "run", [])
    (folder / "metrics.jsonl").unlink()
    with RunLog(folder, first_step=0, resume=False) as log:
        for record in records()[:3]:
            log.write(record)
    assert read_run(folder).trouble == "3 of 4 steps"
    with RunLog(folder, first_step=2, resume=True) as log:
        for record in records()[2:]:
            log.write(record)
    run = read_run(folder)
    assert run.trouble == ""
    assert run.records == records()


def test_config_json_wins_over_hydras_settings(tmp_path):
    """Hydra writes the settings of a command into the folder even if the run there then refuses them."""
    folder = make_run(tmp_path / "run", decay=0.9)
    true = {"task": "string_ops", "seed": 3, "method": {"name": "mopps", "decay": 0.5}, "train": {"steps": STEPS}}
    (folder / "config.json").write_text(json.dumps({"config": true}))
    run = read_run(folder)
    assert (run.settings["method.decay"], run.seed, run.trouble) == (0.5, 3, "")
    (folder / "config.json").write_text('{"config": ')
    assert read_run(folder).settings["method.decay"] == 0.9


def test_metrics_without_a_value_leave_a_dash(tmp_path, capsys):
    rows = [row | {"probe/spearman": None, "train/mixed_share": math.nan} for row in records()[:-1]]
    result, page = collected(tmp_path, make_run(tmp_path / "run", [*rows, records()[-1] | {"probe/spearman": None}]))
    found = result["groups"]["mopps"]
    assert found["spearman"]["mean"] is None
    assert found["mixed_share"]["mean"] is None
    assert found["steps"]["mean"] == 4
    assert "mopps 1 4 400 - 0.300 - 0.250 2.6" in lines(capsys)
    assert "nan" not in page


def labels(folder):
    return [group.label for group in grouped(find_runs([folder]))]


def test_labels_say_where_groups_differ_in_order(tmp_path):
    for method, decay in (("mopps", 0.9), ("mopps", 0.25), ("uniform", 0.25), ("custom", 0.25)):
        for seed in (0, 10, 2):
            make_run(tmp_path / f"{method}-{decay}-{seed}", method=method, decay=decay, seed=seed, threads=seed)
    assert labels(tmp_path) == [
        "uniform, decay=0.25", "mopps, decay=0.25", "mopps, decay=0.9", "custom, decay=0.25"
    ]  # fmt: skip
    groups = grouped(find_runs([tmp_path]))
    assert [run.seed for run in groups[0].runs] == [0, 2, 10]
    alike = common(find_runs([tmp_path]))
    assert alike["train.steps"] == STEPS
    assert not {"method.decay", "method.name", "seed", "threads"} & alike.keys()


def test_settings_that_change_no_result_split_no_group(tmp_path):
    changed = {"checkpoint_every": 10, "keep_completions": 1, "history": True, "save_policy": False}
    changed |= {"gradient_checkpointing": True}
    for seed, others in enumerate([{}, {}, changed]):
        config = RunConfig(train=TrainConfig(steps=STEPS, **others), seed=seed)
        (make_run(tmp_path / f"{seed}") / "config.json").write_text(json.dumps({"config": asdict(config)}))
    (group,) = grouped(find_runs([tmp_path]))
    assert [run.seed for run in group.runs] == [0, 1, 2]


def test_labels_keep_prefixes_that_tell_settings_apart(tmp_path):
    make_run(tmp_path / "a")
    rows = [*records(), {**records()[-1], "step": 5}]
    make_run(tmp_path / "b", rows, steps=5, warm_steps=100)
    assert labels(tmp_path) == ["train.steps=4, warm_start.steps=20", "train.steps=5, warm_start.steps=100"]


def test_a_setting_that_a_run_lacks_is_labelled_unset(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", policy="")
    assert sorted(labels(tmp_path)) == ["policy=''", "policy=unset"]


def test_a_single_group_is_named_by_its_method(tmp_path):
    make_run(tmp_path / "run", method="dps")
    assert labels(tmp_path) == ["dps"]


def test_a_folder_counts_once_and_so_does_a_run(tmp_path):
    run = make_run(tmp_path / "sweep" / "run")
    other = tmp_path / "other"
    other.symlink_to(tmp_path / "sweep", target_is_directory=True)
    found = find_runs([tmp_path / "sweep", run, other, tmp_path / "sweep" / ".." / "sweep"])
    assert [run.folder for run in found] == [run]
    again = make_run(tmp_path / "sweep" / "run2", threads=2, tracker="wandb")
    repeated = {run.folder: run.trouble for run in find_runs([tmp_path / "sweep"])}
    assert repeated == {run: "", again: f"the same settings and seed as {run}"}


def test_runs_in_linked_folders_count(tmp_path):
    make_run(tmp_path / "far" / "sweep" / "0")
    own = make_run(tmp_path / "runs" / "own", seed=1)
    (tmp_path / "runs" / "linked").symlink_to(tmp_path / "far")
    assert [run.folder for run in find_runs([tmp_path / "runs"])] == [tmp_path / "runs" / "linked" / "sweep" / "0", own]


def test_folders_of_submitit_and_tensorboard_are_no_runs(tmp_path):
    make_run(tmp_path / "0")
    (tmp_path / ".submitit" / "17_0").mkdir(parents=True)
    (tmp_path / ".submitit" / "17_0" / "17_0_0_result.pkl").touch()
    (tmp_path / "0" / "events.out.tfevents.1").touch()
    (tmp_path / "multirun.yaml").touch()
    assert [run.folder.name for run in find_runs([tmp_path])] == ["0"]


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_a_place_without_a_run_is_an_error_of_one_line(tmp_path, capsys, folder):
    run = make_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=folder):
        find_runs([run, tmp_path / folder])
    with pytest.raises(SystemExit) as stopped:
        collected(tmp_path, run, tmp_path / folder)
    assert str(tmp_path / folder) in str(stopped.value)
    assert len(str(stopped.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()
    assert capsys.readouterr().out == ""


def test_every_task_has_its_panel_and_a_group_the_same_colour_in_all(tmp_path):
    for task in ("string_ops", "countdown"):
        for method in ("uniform", "mopps"):
            for seed in (0, 1):
                make_run(tmp_path / f"{task}{method}{seed}", task=task, method=method, seed=seed)
    make_run(tmp_path / "larger", task="countdown", method="dps", held_out_size=30)
    figure = draw(grouped(find_runs([tmp_path])))
    shown = [axes for axes in figure.axes if axes.get_visible()]
    drawn = {axes.get_title(): [line.get_label() for line in axes.lines] for axes in shown}
    assert drawn == {
        "countdown, held_out_size=20": ["uniform", "mopps"],
        "countdown, held_out_size=30": ["dps"],
        "string_ops, held_out_size=20": ["uniform", "mopps"],
    }
    assert len(figure.axes) == 4
    assert [line.get_color() for line in shown[0].lines] == [line.get_color() for line in shown[2].lines]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["uniform", "mopps", "dps"]
    rollouts, accuracy = np.array(shown[0].lines[0].get_data())
    np.testing.assert_allclose(rollouts, [0, 0.2, 0.4])
    np.testing.assert_allclose(accuracy, [0.1, 0.2, 0.4])  # probes at 0, 200 and 400
    assert len(shown[0].collections) == 2  # bands
    assert len(shown[1].collections) == 0  # a single seed has no band
    (alone,) = draw(grouped(find_runs([tmp_path])), "countdown, held_out_size=30").axes
    assert alone.lines[0].get_color() == shown[1].lines[0].get_color()


def test_twenty_groups_have_distinct_lines_and_a_legend_below(tmp_path):
    for number in range(20):
        for seed in (0, 1):
            make_run(tmp_path / f"{number}-{seed}", decay=number / 20, seed=seed)
    figure = draw(grouped(find_runs([tmp_path])))
    (axes,) = figure.axes
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in axes.lines}
    assert len(looks) == 20
    assert not axes.collections  # no bands
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert legend.y1 < axes.get_window_extent().y0 - 20  # below the numbers of the axis
    assert figure.bbox.x0 <= legend.x0
    assert legend.x1 <= figure.bbox.x1
    assert axes.get_window_extent().height > 200  # pixels, 100 an inch


HOSTILE = [
    "$\\frac{1}{2}$",
    "$\\frac{1}$",
    "a$b$c_{",
    "\\$x\\$",
    "_hidden",
    "[red]x[/red][/]",
    "<script>alert(1)</script>",
    "line\nbreak",
    "\u00fc\u4e2d\U0001f600",
    "\ud800",
    "%s {0} {",
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Glyph")  # the figure's font lacks some characters
@pytest.mark.parametrize("name", ["policy", "method", "task"])
def test_any_text_may_be_a_setting(tmp_path, name):
    for number, text in enumerate(HOSTILE):
        folder = make_run(tmp_path / "sweep" / str(number), method="mopps")
        settings = {"task": "string_ops", "held_out_size": 20, "policy": "", "train": {"steps": STEPS}, "seed": 0}
        settings |= {"method": {"name": text}} if name == "method" else {name: text}
        (folder / "config.json").write_text(json.dumps({"config": settings}))
    result, page = collected(tmp_path, tmp_path / "sweep")
    assert len(result["groups"]) == len(HOSTILE)
    assert result["left_out"] == {}
    assert "<script>alert" not in page
    figure = draw(grouped(find_runs([tmp_path / "sweep"])))
    figure.canvas.draw()
    shown = [text for text in figure.findobj(Text) if "frac{1}{2}" in text.get_text()]
    assert shown
    assert not any(text._preprocess_math(text.get_text())[1] for text in shown)  # pyright: ignore[reportAttributeAccessIssue]


def test_settings_that_cannot_be_read_are_named(tmp_path):
    folder = make_run(tmp_path / "run")
    (folder / "config.json").write_text("{")
    assert read_run(folder).trouble == ""  # the settings are in Hydra's file
    (folder / CONFIG).write_text("task: [string")
    trouble = read_run(folder).trouble
    assert "config.json cannot be read; .hydra/config.yaml cannot be read" in trouble


@pytest.mark.parametrize(("option", "said"), [(["--name", ""], "--name is ''"), (["--name", "a/b"], "--name is 'a/b'")])
def test_the_name_of_the_files_is_a_name(tmp_path, capsys, option, said):
    make_run(tmp_path / "run", [])
    with pytest.raises(SystemExit):
        main([str(tmp_path / "run"), "--out", str(tmp_path), *option])
    assert f"{said}; give a file name" in capsys.readouterr().err


def test_the_folder_of_the_files_is_no_file(tmp_path, capsys):
    make_run(tmp_path / "run", [])
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SystemExit):
        main([str(tmp_path / "run"), "--out", str(tmp_path / "file")])
    assert "file, which is a file; give a folder" in capsys.readouterr().err
