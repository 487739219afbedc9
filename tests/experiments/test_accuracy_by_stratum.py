"""Success rates per stratum: means and gains by hand, on histories whose counts are written down."""

import json
from pathlib import Path

import numpy as np
import pytest

import jaxsel
from experiments import accuracy_by_stratum
from jaxsel.integrations.history import HistoryLog

PROMPTS = 5
FIRST = [0, 0, 2, 4, 4]  # two hard prompts, one middle, two easy
LATER = {
    ("uniform", 0): [[0, 2, 2, 4, 4], [1, 1, 3, 4, 4]],
    ("uniform", 1): [[0, 0, 2, 4, 4], [0, 2, 2, 4, 4]],
    ("dps", 0): [[2, 2, 4, 2, 4], [4, 2, 4, 0, 4]],
}
"""Successes of 4 rollouts per prompt in the second and the third probe."""


def make_run(folder: Path, method: str, seed: int, later: list[list[int]], *, steps: int = 1) -> None:
    selector = jaxsel.PromptSelector(jaxsel.dps(), num_prompts=PROMPTS)
    ids, prediction = np.arange(PROMPTS, dtype=np.int32), selector.predict()
    log = HistoryLog(folder / "history", num_prompts=PROMPTS, spec=selector.spec)
    for step, successes in zip((0, 5, 10), [FIRST, *later], strict=False):
        log.probed(step, (ids, np.array(successes), np.full(PROMPTS, 4)), prediction)
    log.flush()
    settings = {"method": {"name": method}, "train": {"steps": steps, "seed": seed}, "seed": seed}
    (folder / "config.json").write_text(json.dumps({"config": settings}))
    rows = [{"step": step, "rollouts": 8, "probe/held_out_accuracy": 0.5} for step in range(steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    for (method, seed), later in LATER.items():
        (place / f"{method}-{seed}").mkdir()
        make_run(place / f"{method}-{seed}", method, seed, later)
    return place


def test_rates_and_gains_are_those_by_hand(runs):
    found = accuracy_by_stratum.summary(accuracy_by_stratum.read(runs))
    assert found["dps"]["seeds"] == [0]
    assert found["dps"]["steps"] == [5, 10]
    assert found["dps"]["hard"]["curve"] == pytest.approx([4 / 8, 6 / 8])
    assert found["uniform"]["easy"]["rate"]["mean"] == 1
    assert found["uniform"]["hard"]["rate"]["per_seed"] == pytest.approx([2 / 8, 1 / 8])
    assert {name: found["dps"][name]["share"] for name in ("hard", "middle", "easy")} == {
        "hard": 0.4,
        "middle": 0.2,
        "easy": 0.4,
    }
    # dps minus uniform on seed 0, the mean of both later probes
    gains = {name: found["dps"][name]["gain"]["mean"] for name in ("hard", "middle", "easy")}
    assert gains == pytest.approx({"hard": 5 / 8 - 2 / 8, "middle": 1 - 5 / 8, "easy": 5 / 8 - 1})


def test_the_command_writes_table_numbers_and_figure(runs, tmp_path, capsys):
    accuracy_by_stratum.main([f"$5_$6={runs}", "--results", str(tmp_path)])
    assert "hard (40%)" in capsys.readouterr().out
    assert set(json.loads((tmp_path / "accuracy_by_stratum.json").read_text())["runs"]["$5_$6"]) == {"uniform", "dps"}
    assert (tmp_path / "accuracy_by_stratum.png").stat().st_size > 10_000


def test_folders_without_what_is_needed_are_refused(runs, tmp_path, capsys):
    (tmp_path / "one").mkdir()
    make_run(tmp_path / "one", "dps", 0, LATER["dps", 0])
    with pytest.raises(ValueError, match="no finished run of uniform"):
        accuracy_by_stratum.read(tmp_path)
    with pytest.raises(SystemExit, match="no finished run of uniform"):
        accuracy_by_stratum.main([f"ours={tmp_path}", "--results", str(tmp_path)])
    with pytest.raises(SystemExit):
        accuracy_by_stratum.main([str(runs)])
    assert "is not LABEL=FOLDER" in capsys.readouterr().err


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    for name, method, seed in (("a", "uniform", 0), ("b", "dps", 1)):
        (tmp_path / name).mkdir()
        make_run(tmp_path / name, method, seed, LATER["dps", 0])
    with pytest.raises(
        SystemExit, match=r"has runs of dps with the seeds \[1\], and of uniform .* \[0\]; give runs with"
    ):
        accuracy_by_stratum.main([f"ours={tmp_path}", "--results", str(tmp_path)])
    (tmp_path / "c").mkdir()
    make_run(tmp_path / "c", "uniform", 0, LATER["uniform", 0])
    settings = json.loads((tmp_path / "c" / "config.json").read_text())
    settings["config"]["method"]["decay"] = 0.9
    (tmp_path / "c" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(
        ValueError, match=r"/a and .*/c are both runs of uniform with seed 0; give each of them a label"
    ):
        accuracy_by_stratum.read(tmp_path)


@pytest.mark.parametrize(("name", "value"), [("task", "countdown"), ("pool_size", 7)])
def test_runs_of_different_settings_are_not_compared(tmp_path, name, value):
    for run, method in (("a", "uniform"), ("b", "dps")):
        (tmp_path / run).mkdir()
        make_run(tmp_path / run, method, 0, LATER[method, 0])
    settings = json.loads((tmp_path / "b" / "config.json").read_text())
    settings["config"][name] = value
    (tmp_path / "b" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=rf"/a has {name} .*, and .*/b has {value!r}; give the runs of each"):
        accuracy_by_stratum.read(tmp_path)


def test_another_method_may_take_fewer_steps(tmp_path):
    for run, method, steps in (("a", "uniform", 1), ("b", "dps", 2)):
        (tmp_path / run).mkdir()
        make_run(tmp_path / run, method, 0, LATER[method, 0], steps=steps)
    assert accuracy_by_stratum.read(tmp_path).keys() == {"uniform", "dps"}


def test_runs_of_a_method_have_the_same_probes(tmp_path):
    for seed, later in ((0, LATER["uniform", 0]), (1, LATER["uniform", 1][:1])):
        (tmp_path / str(seed)).mkdir()
        make_run(tmp_path / str(seed), "uniform", seed, later)
    with pytest.raises(ValueError, match=r"/1 was probed at the steps \[5\], and another run of uniform at \[5, 10\]"):
        accuracy_by_stratum.read(tmp_path)


def test_a_label_stands_for_one_folder(runs, capsys):
    with pytest.raises(SystemExit):
        accuracy_by_stratum.main([f"a={runs}", f"a={runs}"])
    assert "the label 'a' stands for several folders" in capsys.readouterr().err
