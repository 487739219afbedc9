"""The command that shows what prompt files hold."""

import json

import pytest

from experiments.prompts import main


@pytest.fixture
def file(tmp_path):
    rows = [("a", "1", 0.5), ("b", "2", None), ("a", "1", 1.0), ("a", "3", 0.0)]
    path = tmp_path / "data.jsonl"
    path.write_text(
        "".join(
            json.dumps({"question": text, "answer": answer, "index": i, "solve_rate": rate}) + "\n"
            for i, (text, answer, rate) in enumerate(rows)
        )
    )
    return path


def cells(output, name):
    (line,) = [line for line in output.splitlines() if name in line]
    return line.split()


def test_a_row_per_file(file, capsys):
    main([str(file)])
    output = capsys.readouterr().out
    assert cells(output, "data.jsonl") == [
        "data.jsonl",
        *["question", "text", "answer", "index", "4", "2", "(1)", "4", "3"],
    ]


def test_merging_and_named_columns(file, capsys):
    main([str(file), "--merge", "--rate", "", "--key", "index", "--prompt", "question"])
    assert cells(capsys.readouterr().out, "data.jsonl")[-5:] == ["4", "2", "(1)", "3", "0"]


def test_messages_and_rows_that_were_left_out(tmp_path, capsys):
    system, user = {"role": "system", "content": "s"}, {"role": "user", "content": "u"}
    rows = [{"prompt": [system, user], "label": "1"}, {"prompt": [], "label": "2"}]
    (tmp_path / "chat.json").write_text(json.dumps(rows))
    main([str(tmp_path / "chat.json"), "--skip-odd"])
    output = capsys.readouterr().out
    assert "system, user" in output
    assert f"left out: prompt has no messages in row 1 of {tmp_path / 'chat.json'}; leave the row out" in output


def test_a_source_that_cannot_be_read_does_not_stop_the_others(file, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path / "missing.csv"), str(file)])
    output = capsys.readouterr().out
    assert end.value.code == 1
    assert "data.jsonl" in output
    assert "cannot be read: source is" in output
