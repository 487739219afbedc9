"""The page about running experiments: what is read of folders that grow, and what the server answers."""

import json
import socket
import urllib.error
import urllib.request

import numpy as np
import pytest

from experiments.watch import __main__ as command
from experiments.watch.metrics import SMOOTH, Metrics, thinned
from experiments.watch.predictions import Predictions
from experiments.watch.runs import Watched, is_run, names_of, repeated
from jaxsel.integrations.history import HistoryLog, read_history
from jaxsel.report.cells import cells, scored
from jaxsel.report.judgement import corp
from jaxsel.report.material import recorded_rows
from rl.run_folder.holder import LOCK, Holder, holder, said_by_this_process
from tests.support.growing import Growing
from tests.support.watching import served

pytest.importorskip("altair", reason="Altair is not installed")


def values(table, name):
    return table["columns"][name]["values"]


def asked(address, **headers):
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=20) as answer:
        return answer.read().decode()


def refused(address, **headers):
    with pytest.raises(urllib.error.HTTPError) as error:
        asked(address, **headers)
    with error.value as answer:
        return answer.code, answer.read().decode()


@pytest.fixture
def growing(tmp_path):
    return Growing(tmp_path / "run", steps=40).advance(12)


def test_new_lines_are_read_and_a_torn_one_waits(growing):
    metrics = Metrics(growing.folder)
    assert metrics.read()
    assert (metrics.steps, metrics.behind, metrics.ended) == (12, 0, False)
    assert not metrics.read()
    with (growing.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "rollouts": 600, "train/rew')
    assert not metrics.read()
    assert (metrics.steps, metrics.trouble) == (12, "")
    with (growing.folder / "metrics.jsonl").open("a") as file:
        file.write('ard": 0.75}\n')
    assert metrics.read()
    assert (metrics.steps, metrics.last("train/reward")) == (13, 0.75)


def test_a_resumed_run_is_read_again(growing):
    metrics = Metrics(growing.folder)
    metrics.read()
    path = growing.folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    for kept in (lines[:8], lines[:8] + ['{"step": 8, "rollouts": 1, "train/reward": 0.5}\n'] * 9):
        path.with_suffix(".new").write_text("".join(kept))
        path.with_suffix(".new").replace(path)
        assert metrics.read()
        assert metrics.steps == len(kept[:9])
    path.unlink()
    assert metrics.read()
    assert metrics.steps == 0
    path.mkdir()
    assert not metrics.read()
    assert "cannot be read" in metrics.trouble


def test_a_damaged_line_is_left_out_and_said(growing):
    with (growing.folder / "metrics.jsonl").open("a") as file:
        file.write('no json\n{"step": 12, "rollouts": 600, "train/reward": 1}\n')
    metrics = Metrics(growing.folder)
    metrics.read()
    assert metrics.steps == 13
    assert "line 13 of" in metrics.trouble


def test_a_number_that_no_float_holds_is_missing_and_later_lines_are_kept(growing):
    huge = "9" * 400
    lines = [
        f'{{"step": 12, "rollouts": 600, "train/reward": {huge}, "seconds/generating": {huge}, "policy/entropy": 2}}',
        '{"step": 13, "rollouts": 650, "train/reward": "x", "seconds/generating": "x", "seconds/probing": "x"}',
        f'{{"step": {huge}, "rollouts": 700, "train/reward": 0.5}}',
        '{"step": 15, "rollouts": Infinity, "train/reward": [1]}',
        '{"step": 16, "rollouts": 800, "train/reward": 0.25, "seconds/generating": 2}',
    ]
    with (growing.folder / "metrics.jsonl").open("a") as file:
        file.write("".join(line + "\n" for line in lines))
    metrics = Metrics(growing.folder)
    assert metrics.read()
    assert "line 15 of" in metrics.trouble
    assert (metrics.steps, metrics.last("train/reward"), metrics.last("policy/entropy")) == (17, 0.25, 2)
    found = metrics.training()
    assert len({len(column) for column in found.values()}) == 1
    assert found["step"][-4:].tolist() == [12, 13, 15, 16]
    assert np.isnan(found["train/reward"][-4:]).tolist() == [True, True, True, False]
    assert np.isfinite(metrics.seconds_left(40))


def test_curves_are_means_and_end_in_the_last_step(growing):
    metrics = Metrics(growing.finish().folder)
    metrics.read()
    assert metrics.ended
    table, probes = metrics.training(), metrics.probes()
    reward = table["train/reward"][:40]
    assert table["train/reward" + SMOOTH][30] == pytest.approx(reward[11:31].mean())
    assert np.isnan(table["train/reward"][40])  # the final probe
    assert probes["step"].tolist() == [*range(0, 40, 5), 40]
    assert probes["rollouts"].tolist() == [48 * step for step in [*range(0, 40, 5), 40]]  # before the probe
    few = thinned(table, 10)
    assert len(few["step"]) == 9  # 41 rows in fives
    assert (few["step"][-1], few["rollouts"][-1]) == (40, 40 * 48)
    assert few["train/reward"][0] == pytest.approx(reward[:5].mean())


def test_curves_have_few_points_and_evaluations_appear(tmp_path):
    lines = [{"step": i, "rollouts": 8 * i, "train/reward": i % 2, "seconds/generating": 0.5} for i in range(1000)]
    lines[500] |= {"eval/aime/mean@8": 0.25, "eval/aime/mean@8/stderr": 0.1}
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    metrics = Metrics(tmp_path)
    metrics.read()
    assert len(metrics.training()["step"]) == 250
    np.testing.assert_allclose(metrics.training()["train/reward"], 0.5)
    assert metrics.evaluations() == {"eval/aime/mean@8": "aime/mean@8"}
    assert metrics.probes()["eval/aime/mean@8"].tolist() == [0.25]
    assert metrics.seconds_left(1100) == pytest.approx(50)


@pytest.mark.slow
def test_sums_of_a_growing_history_are_those_of_the_whole(tmp_path):
    growing = Growing(tmp_path / "run", steps=100)
    found = Predictions(growing.folder)
    assert not found.read()
    for _ in range(9):
        growing.advance(11)
        found.read()
    growing.finish()
    assert found.read()
    assert not found.read()
    recorded = read_history(growing.folder / "history")
    table, curve = found.cells(), found.curve()
    for kind, columns in (("ahead", recorded.rollouts), ("probes", recorded.probes)):
        rows = recorded_rows(recorded.history, columns)
        whole = cells(rows, scored(rows))
        of = table["kind"] == kind
        assert len(np.unique(table["step"][of])) <= 24
        for part in range(4):
            for name in ("groups", "mixed", "states", "brier", "cover3"):
                mine = table[name][of & (table["part"] == part)].sum()
                assert mine == pytest.approx(whole[name][whole["part"] == part].sum(), rel=1e-6)
        mean = np.average(table["step"][of], weights=table["groups"][of])
        assert mean == pytest.approx(rows.step.mean(), abs=0.5)
        np.testing.assert_allclose(curve["observed"][curve["kind"] == kind], corp(rows).observed, atol=1e-6)
    probed = table["step"][table["kind"] == "probes"]
    assert set(probed) & set(recorded.probes["clock"])


def test_a_history_that_a_resumed_run_cuts_is_read_again(growing):
    found = Predictions(growing.folder)
    found.read()
    before = found.cells()["groups"].sum()
    HistoryLog(growing.folder / "history", num_prompts=60, spec={"method": "mopps"}, first_step=5)
    assert found.read()
    assert 0 < found.cells()["groups"].sum() < before
    part = next((growing.folder / "history").glob("part-*"))
    part.write_bytes(b"no parquet")
    assert found.read()
    assert "is damaged" in found.trouble
    assert not found.read()


def test_states_of_runs(tmp_path, growing):
    run = growing.folder
    watched = Watched([run, tmp_path / "later", tmp_path / "empty", tmp_path / "run" / "history"])
    (tmp_path / "empty").mkdir()

    def states():
        watched.update()
        return [one["state"] for one in watched.snapshot()["runs"].values()]

    unread = "a history without metrics"
    assert states() == ["running", "waiting for the folder", "waiting for the first step", unread]
    (run / LOCK).write_text(said_by_this_process())
    assert states()[0] == "running"
    dead = holder(run)
    assert dead is not None
    (run / LOCK).write_text(f"process {2**22 + 1} on {dead.host}\n")  # no process has so high a number
    assert states()[0] == "stopped"
    (run / LOCK).write_text("process 1 on another-machine\n")
    assert states()[0] == "running"
    watched.runs["run"]._metrics.changed_at -= 7 * 86400
    assert watched.runs["run"].status()["state"] == "silent: it may have stopped"
    growing.finish()
    assert states()[0] == "finished"
    status = watched.snapshot()["runs"]["run"]
    assert (status["steps"], status["of"], status["left"], status["history"]) == (40, 40, None, True)


def test_a_run_whose_first_probe_is_on_disk_waits_for_its_first_step(tmp_path):
    run = Growing(tmp_path / "run")
    run._probe(0)  # as a training run, which writes the metrics of step 0 after its end
    watched = Watched([run.folder])
    for said, state in (
        (said_by_this_process(), "waiting for the first step"),
        (f"process {2**22 + 1} on {socket.gethostname()}\n", "stopped before the first step"),
    ):
        (run.folder / LOCK).write_text(said)
        watched.update()
        status = watched.snapshot()["runs"]["run"]
        assert (status["state"], status["history"]) == (state, True)


def test_a_holder_is_read_without_the_lock(tmp_path):
    assert holder(tmp_path) is None
    (tmp_path / LOCK).write_text("proc")  # a process writes its name at this moment
    assert holder(tmp_path) is None
    assert Holder(1, "another-machine").is_alive is None


def test_folders_of_sweeps_are_searched_and_repetitions_are_shown_once(tmp_path):
    for name in ("a", "b"):
        Growing(tmp_path / "sweep" / name, history=False).advance(2)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "sweep" / "a")
    watched = Watched([tmp_path / "sweep", link, tmp_path / "sweep"])
    watched.update()
    assert [*watched.runs] == ["a", "b"]
    version = watched.version
    Growing(tmp_path / "sweep" / "c", history=False).advance(1)
    watched.update()
    assert [*watched.runs] == ["a", "b", "c"]
    assert set(watched.snapshot(version)["tables"]) == {"a", "b", "c"}
    assert repeated([tmp_path / "sweep", link, tmp_path / "sweep"]) == [tmp_path / "sweep"]
    assert not is_run(tmp_path / "sweep")
    assert names_of([tmp_path / "x" / "run", tmp_path / "y" / "run"]) == ["x/run", "y/run"]


def test_only_what_changed_is_sent(tmp_path, growing):
    other = Growing(tmp_path / "other", history=False).advance(3)
    watched = Watched([growing.folder, other.folder])
    watched.update()
    first = watched.snapshot()
    assert set(first["tables"]) == {"run", "other"}
    assert first["tables"]["other"]["cells"] is None
    assert set(first["tables"]["run"]) == {"training", "probes", "cells", "curve"}
    watched.update()
    assert watched.snapshot(first["version"])["tables"] == {}
    other.advance(1)
    watched.update()
    second = watched.snapshot(first["version"])
    assert {name: set(tables) for name, tables in second["tables"].items()} == {"other": {"training", "probes"}}
    assert values(second["tables"]["other"]["training"], "step") == [0, 1, 2, 3]


def test_a_long_file_is_read_in_pieces(monkeypatch, growing):
    monkeypatch.setattr("experiments.watch.metrics._PIECE", 2000)
    watched = Watched([growing.folder], budget=0.0)
    watched.update()
    (status,) = watched.snapshot()["runs"].values()
    assert 0 < status["steps"] < 12
    assert status["notes"][0].startswith("reading: ")
    assert watched.behind
    while watched.behind:
        watched.update()
    assert next(iter(watched.snapshot()["runs"].values()))["steps"] == 12


@pytest.mark.slow
def test_the_server_answers_the_page_the_data_and_the_report(growing):
    with served(Watched([growing.folder])) as server:
        page = asked(server.address)
        assert "connect-src 'self'" in page
        first = json.loads(asked(server.address + "data"))
        assert "drawn" in first
        growing.advance(1)
        second = json.loads(asked(f"{server.address}data?since={first['version']}"))
        assert "drawn" not in second
        assert values(second["tables"]["run"]["training"], "step")[-1] == 12
        assert second["runs"]["run"]["steps"] == 13
        assert refused(server.address + "report?run=none") == (
            404,
            "there is no run 'none'; reload the page of all runs",
        )
        assert refused(server.address + "data?since=x") == (404, "since is 'x'; give the number of a version")
        assert refused(server.address + "etc")[0] == 404
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as sent:
            sent.sendall(b"GET http://[ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert sent.makefile("rb").readline().startswith(b"HTTP/1.0 400")
        assert refused(server.address, Host="attacker.example:80")[0] == 403
        assert refused(server.address + "etc", Host="localhost")[0] == 404  # without a port, as browsers ask port 80


@pytest.mark.slow
def test_the_server_makes_the_full_report(growing):
    bare = Growing(growing.folder.parent / "bare", history=False).advance(1)
    with served(Watched([growing.folder, bare.folder])) as server:
        asked(server.address + "data")
        report = asked(server.address + "report?run=run")
        assert "How good are the predictions of run?" in report
        assert "Can I trust" in report
        assert "bare has no report yet: " in refused(server.address + "report?run=bare")[1]


def test_the_page_is_written_once(growing, tmp_path, capsys):
    path = tmp_path / "new" / "page.html"
    command.main([str(growing.folder), str(growing.folder), str(tmp_path / "later"), "--out", str(path)])
    said = capsys.readouterr().out
    assert "is given twice; it is shown once" in said
    assert "later does not exist yet; the page waits for it" in said
    page = path.read_text(encoding="utf-8")
    assert "connect-src" not in page
    assert page.count("</script>") == 3
    with pytest.raises(SystemExit):
        command.main([str(growing.folder), "--out", str(tmp_path / "page.txt")])
    assert "give the name of an HTML file" in capsys.readouterr().err
    command.main([str(growing.folder), "--out", str(path)])  # its own page is replaced
    path.write_text("<p>my page</p>")
    with pytest.raises(SystemExit):
        command.main([str(growing.folder), "--out", str(path)])
    assert "page.html, which exists and was not written by this command; give another name" in capsys.readouterr().err
    assert path.read_text() == "<p>my page</p>"
    for seconds in ("0", "nan", "inf", "3e6"):
        with pytest.raises(SystemExit):
            command.main([str(growing.folder), "--every", seconds])
        said = capsys.readouterr().err
        assert f"--every is {float(seconds):g}; give a number of seconds above 0, at most 86400" in said
    with pytest.raises(SystemExit):
        command.main([str(growing.folder), "--port", "70000"])
    assert "--port is 70000; give a number from 0 to 65535" in capsys.readouterr().err
