"""Files of problems for the simulated learner: what cannot be used is named."""

import json

import pytest

from experiments import real_prompts
from experiments.simulated_math import load_problems

pytest.importorskip("datasets")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"problem": "1+1?", "level": 1}], "has the fields .*, and lacks type; give problems with level and type"),
        ([{"problem": "1+1?", "type": "a"}], "and lacks level"),
        ([{"problem": "1+1?", "level": 1, "type": "a"}], "has 1 problems; give more than 5, which are held out"),
    ],
)
def test_problems_that_cannot_be_used_are_named(tmp_path, monkeypatch, rows, said):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "problems.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(ValueError, match=said):
        load_problems(str(file), more_than=5)


def test_a_file_that_does_not_exist_and_a_run_without_steps_are_errors_of_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"nofile.json, which does not exist; give a file of JSON lines"):
        real_prompts.main([str(tmp_path / "nofile.json")])
    with pytest.raises(SystemExit):
        real_prompts.main([str(tmp_path / "nofile.json"), "--steps", "0"])
    assert "--steps is 0; give an integer of at least 1" in capsys.readouterr().err
