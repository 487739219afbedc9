"""The command that writes an interactive page about a recorded run."""

import re
from pathlib import Path

import numpy as np
import pytest

import jaxsel
from experiments import explore
from jaxsel.integrations.history import read_history
from tests.support import reports

pytest.importorskip("altair", reason="Altair is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    reports.record(reports.material(texts=False), folder / "history")
    return folder


def test_the_command_writes_a_page_and_prints_the_verdict(run, tmp_path, capsys):
    explore.main([str(run), "--methods", "mopps", "--out", str(tmp_path / "new" / "page.html")])
    said = capsys.readouterr().out
    assert "Can I trust the predicted probability of a mixed group?" in said
    assert "page: " in said
    assert "Before each step a method predicts" in (tmp_path / "new" / "page.html").read_text(encoding="utf-8")


def test_what_the_command_prints_has_no_markup_and_paths_are_whole(tmp_path, capsys):
    reports.record(reports.material(), tmp_path / "history", method="my [new] [/method]")
    path = tmp_path / f"[seed] {'of a sweep' * 9}" / "page.html"
    explore.main([str(tmp_path), "--out", str(path)])
    said = capsys.readouterr().out
    assert f"page: {path}\n" in said
    assert "my [new] [/method] (recorded) is nowhere right for sure" in " ".join(said.split())


def test_no_command_prints_a_path_with_markup_or_over_several_lines():
    for file in Path(explore.__file__).parent.rglob("*.py"):
        text = file.read_text()
        if "Console(markup=False, highlight=False, soft_wrap=True)" not in text:
            assert not re.search(r'console\.print\(\s*f"(page|figure|metrics): ', text), file


def test_wrong_options_are_refused_before_any_work(run, tmp_path, capsys):
    for option, value in (("--out", str(tmp_path)), ("--seed", "-1")):
        with pytest.raises(SystemExit):
            explore.main([str(run), option, value])
        assert f"{option} is {value}; give" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="holds no history"):
        explore.main([str(tmp_path), "--out", str(tmp_path / "page.html")])
    with pytest.raises(SystemExit, match="gps needs the prompts' texts or embeddings"):
        explore.main([str(run), "--methods", "gps", "--out", str(tmp_path / "page.html")])
    empty = read_history(run / "history")
    empty = empty._replace(history=empty.history.before(0))
    with pytest.raises(ValueError, match="no judged rollouts"):
        explore.make_methods(["mopps"], empty)


def test_methods_have_the_group_size_of_the_run_and_gps_needs_embeddings(run):
    recorded = read_history(run / "history")
    made = explore.make_methods(["mopps", "uniform"], recorded)
    assert {name: method.spec["predictor"]["group_size"] for name, method in made.items()} == {"mopps": 4, "uniform": 4}
    with pytest.raises(ValueError, match="gps needs the prompts' texts or embeddings"):
        explore.make_methods(["gps"], recorded)


def test_adaptive_reads_the_embeddings_of_the_history_or_its_name_says_that_there_are_none(run):
    recorded = read_history(run / "history")
    assert list(explore.make_methods(["adaptive"], recorded)) == ["adaptive, no embeddings"]
    embeddings = np.random.default_rng(0).normal(size=(recorded.num_prompts, 3)).astype(np.float32)
    made = explore.make_methods(["adaptive"], recorded._replace(embeddings=embeddings))
    assert made["adaptive"].spec == jaxsel.adaptive(embeddings, group_size=4).spec
