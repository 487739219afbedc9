import csv
import gzip
import json
import math

import numpy as np
import pytest

import jaxsel
from jaxsel.integrations._log_files import rows_of
from jaxsel.integrations.trainer_logs import (
    read_logs,
    read_nemo_rl,
    read_open_instruct,
    read_prime_rl,
    read_slime,
    read_trl,
    read_verl,
)
from tests.support.damaged import damage_pages

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

# Rows of a log, (step, prompt, reward), from steps 3 and 7 of a trainer, in no particular order.
ROWS = [
    (7, "b, with a comma", 1.0),
    (3, 'a "quoted"\nin two lines', 1.0),
    (3, 'a "quoted"\nin two lines', 0.0),
    (3, "b, with a comma", 0.0),
    (7, "c", None),
    (7, "b, with a comma", 0.6),
    (7, "b, with a comma", 0.4),
    (7, "b, with a comma", None),
]
NAMES = ("step", "prompt", "reward")


def write_csv(path, rows, names=NAMES):
    def cell(value):
        return "" if value is None else '"' + str(value).replace('"', '""') + '"'

    path.write_text("\n".join(",".join(map(cell, row)) for row in [names, *rows]) + "\n")


def write_jsonl(path, rows, names=NAMES):
    path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))


def write_parquet(path, rows, names=NAMES):
    pq.write_table(pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))), path)


WRITERS = {".csv": write_csv, ".jsonl": write_jsonl, ".parquet": write_parquet}


def check(found):
    """Check that `found` holds the groups of ROWS: one per step and prompt with at least one reward."""
    assert found.num_prompts == 3
    assert found.prompts == ['a "quoted"\nin two lines', "b, with a comma", "c"]
    assert found.steps.tolist() == [3, 7]
    assert found.history.step.tolist() == [0, 0, 1]
    assert found.history.prompt_ids.tolist() == [0, 1, 1]
    assert found.history.successes.tolist() == [1, 0, 2]
    assert found.history.group_size.tolist() == [2, 1, 3]


@pytest.mark.parametrize("suffix", WRITERS)
def test_completions_become_visits(tmp_path, suffix):
    file = tmp_path / f"log{suffix}"
    WRITERS[suffix](file, ROWS)
    check(read_logs(file))
    check(read_logs(tmp_path))


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_folder_is_one_log(tmp_path, suffix):
    for number, rows in enumerate([ROWS[:2], ROWS[2:3], ROWS[3:]]):
        WRITERS[suffix](tmp_path / f"{number}{suffix}", rows)
    (tmp_path / "notes.txt").write_text("not a log")
    check(read_logs(tmp_path))


def test_other_column_names_and_another_threshold_are_accepted(tmp_path):
    write_csv(tmp_path / "a.csv", [(0, 17, -1.0), (0, 17, 0.2), (1, 4, -0.5)], ("iteration", "row", "return"))
    found = read_logs(tmp_path / "a.csv", step="iteration", prompt="row", reward="return", threshold=0)
    assert found.prompts == ["17", "4"]
    assert found.history.successes.tolist() == [1, 0]
    assert found.history.group_size.tolist() == [2, 1]


@pytest.mark.parametrize("credit", [0.1, 0.3])
@pytest.mark.parametrize("suffix", WRITERS)
def test_a_credit_in_float32_does_not_exceed_a_threshold_of_the_same_size(tmp_path, suffix, credit):
    WRITERS[suffix](tmp_path / f"log{suffix}", [(0, "a", float(np.float32(credit))), (0, "a", 1.0)])
    assert read_logs(tmp_path, threshold=credit).history.successes.tolist() == [1]


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_missing_rewards_do_not_count(tmp_path, missing):
    write_jsonl(tmp_path / "a.jsonl", [(0, "x", 1), (1, "x", missing), (2, "x", True), (2, "x", False)])
    found = read_logs(tmp_path / "a.jsonl")
    assert found.history.step.tolist() == [0, 2]  # step 1 has no reward, but it counts as a step
    assert found.history.group_size.tolist() == [1, 2]
    assert found.history.successes.tolist() == [1, 1]
    assert found.steps.tolist() == [0, 1, 2]


def test_a_history_can_be_replayed(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    found = read_logs(tmp_path / "a.jsonl")
    replayed = jaxsel.replay(found.history, jaxsel.mopps(decay=1.0), num_prompts=found.num_prompts)
    np.testing.assert_allclose(replayed.prediction.success_rate, [1 / 2, 1 / 2, 1 / 3], rtol=1e-6)


def write_verl(folder, steps):
    """Write a log as verl 0.9.1 does: one file per step, named after the step."""
    folder.mkdir()
    for step, rows in steps.items():
        names = ("input", "output", "gts", "score", "step", "acc", "uid")
        rows = [(p, "text", "42", score, step, score > 0, f"{i}_0_0") for i, (p, score) in enumerate(rows)]
        write_jsonl(folder / f"{step}.jsonl", rows, names)


def test_verl(tmp_path):
    steps = {
        2: [("user\nx\n", 1.0), ("user\nx\n", 0.1), ("user\ny\n", 1.0)],
        10: [("user\nx\n", 1.0)],
        9: [("user\nz\n", 0.1)],
    }
    write_verl(tmp_path / "rollouts", steps)
    found = read_verl(tmp_path / "rollouts")
    assert found.steps.tolist() == [2, 9, 10]
    assert found.prompts == ["user\nx\n", "user\ny\n", "user\nz\n"]
    assert found.history.step.tolist() == [0, 0, 1, 2]
    assert found.history.successes.tolist() == [1, 1, 0, 1]
    assert found.history.group_size.tolist() == [2, 1, 1, 1]
    assert read_verl(tmp_path / "rollouts", reward="acc").history.successes.tolist() == [2, 1, 1, 1]


def write_trl(folder, step, rows, **rewards):
    """Write a log as TRL 1.16.0 does, from rows of prompt and completion and a column per reward function."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = {"step": [step] * len(rows), "prompt": [row[0] for row in rows], "completion": [row[1] for row in rows]}
    table = pa.table({**columns, **rewards, "advantage": [0.0] * len(rows)})
    pq.write_table(table, folder / f"completions_{step:05d}.parquet")


def test_trl(tmp_path):
    folder = tmp_path / "completions"
    rows = [("x", "1"), ("x", "2"), ("y", "1"), ("y", "1")]
    write_trl(folder, 1, rows, correct=[1.0, 0.0, 0.0, float("nan")])
    write_trl(folder, 2, rows, correct=[1.0, 0.0, 0.0, float("nan")])  # the same batch, used for a second step
    write_trl(folder, 3, [("x", "1"), ("z", "1")], correct=[1.0, 1.0])
    for path in (tmp_path, folder):
        found = read_trl(path)
        assert found.prompts == ["x", "y", "z"]
        assert found.steps.tolist() == [1, 3]
        assert found.history.step.tolist() == [0, 0, 1, 1]
        assert found.history.prompt_ids.tolist() == [0, 1, 0, 2]
        assert found.history.successes.tolist() == [1, 0, 1, 1]
        assert found.history.group_size.tolist() == [2, 1, 1, 1]


def test_trl_with_conversations_and_several_rewards(tmp_path):
    said, thought = {"role": "user", "content": "x"}, {"role": "user", "content": "x", "reasoning": None}
    later = {"role": "user", "content": "y", "reasoning": "r"}
    done = [{"role": "assistant", "content": "1"}]
    write_trl(tmp_path, 1, [([said], done)], correct=[1.0], format=[0.0])
    write_trl(tmp_path, 2, [([thought], done), ([later], done)], correct=[0.0, 0.0], format=[1.0, 0.0])
    with pytest.raises(ValueError, match="'correct', 'format', 'advantage'; give the name of one reward function"):
        read_trl(tmp_path)
    found = read_trl(tmp_path, reward="correct")
    assert [json.loads(prompt) for prompt in found.prompts] == [[said], [later]]
    assert found.history.prompt_ids.tolist() == [0, 0, 1]
    assert found.history.successes.tolist() == [1, 0, 0]
    assert read_trl(tmp_path, reward="format").history.successes.tolist() == [0, 1, 0]


def test_missing_and_unknown_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere does not exist; give a file of \.csv, \.jsonl, \.parquet"):
        read_logs(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no log"):
        read_verl(tmp_path)
    with pytest.raises(ValueError, match="holds no log"):
        read_trl(tmp_path)
    (tmp_path / "a.txt").write_text("step,prompt,reward\n")
    with pytest.raises(ValueError, match=r"holds '\.txt'"):
        read_logs(tmp_path / "a.txt")
    write_csv(tmp_path / "a.csv", ROWS)
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(ValueError, match=r"holds '\.csv', '\.jsonl'; give .* files of one kind"):
        read_logs(tmp_path)


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_missing_column_is_named_with_the_existing_columns(tmp_path, suffix):
    file = tmp_path / f"a{suffix}"
    WRITERS[suffix](file, ROWS)
    expected = "no column 'score'; give the name of the reward among 'step', 'prompt', 'reward'"
    with pytest.raises(ValueError, match=expected):
        read_logs(file, reward="score")


@pytest.mark.parametrize("content", ["", "step,prompt,reward\n"])
def test_a_log_without_rows_is_refused(tmp_path, content):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ValueError, match="has no rows"):
        read_logs(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((1, None, 1.0), r"a\.jsonl, line 2, has no prompt in 'prompt'"),
        ((None, "x", 1.0), r"a\.jsonl, line 2, has a 'step' that is not a whole number"),
        ((10**30, "x", 1.0), "'step' that is not a whole number of 64 bits"),
        ((10**400, "x", 1.0), r"a\.jsonl, line 2, has a 'step' that is not a whole number of 64 bits but 1000"),
        ((-(10**400), "x", 1.0), r"a\.jsonl, line 2, has a 'step' that is not a whole number of 64 bits but -100"),
        (
            (1.5, "x", 1.0),
            "'step' that is not a whole number of 64 bits but 1.5; give the column of the training step, or delete",
        ),
        (("first", "x", 1.0), r"a\.jsonl, line 2: 'step' holds 'first'; give a column of numbers, or delete the row"),
        ((1, "x", "right"), r"a\.jsonl, line 2: 'reward' holds 'right'; give a column of numbers"),
        ((1, "x", [1, "yes"]), "line 2: 'reward' holds 'yes'; give a column of numbers"),
        ((1, "x", {"acc": 1}), "'reward' holds {'acc': 1}; give a column of numbers"),
        ((1, "x", None), "no reward in 'reward'"),
    ],
)
def test_bad_cells_are_refused(tmp_path, row, message):
    good = [] if row[2] is None else [(1, "x", 1.0)]
    write_jsonl(tmp_path / "a.jsonl", [*good, row])
    with pytest.raises(ValueError, match=message):
        read_logs(tmp_path)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("threshold", [math.nan, math.inf, None, "x", 10**400])
@pytest.mark.parametrize("read", [read_logs, read_verl, read_prime_rl, read_nemo_rl, read_open_instruct, read_slime])
def test_a_threshold_must_be_a_finite_number(tmp_path, read, threshold):
    (tmp_path / "step_1").mkdir()
    for name in ("step_1/train_rollouts.jsonl", "a_rollouts_0.jsonl", "train_data_step1.jsonl"):
        write_jsonl(tmp_path / name, [(1, "x", 1.0)])
    with pytest.raises(ValueError, match=r"threshold is .*; give a finite number"):
        read(tmp_path, threshold=threshold)


def test_a_pattern_may_be_absolute(tmp_path):
    for name in ("a.jsonl", "step_7/train.jsonl", "step_7/eval.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_jsonl(tmp_path / name, [(1, name, 1.0)])
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path, tmp_path / "empty"):
        assert read_logs(folder, files=str(tmp_path / "**" / "train*.jsonl")).prompts == ["step_7/train.jsonl"]
        with pytest.raises(ValueError, match=r"holds no log named /.*/\*\.csv"):
            read_logs(folder, files=str(tmp_path / "*.csv"))
        bare = tmp_path / "step_7" / "train.jsonl"
        bare.write_text('{"prompt": "p", "reward": 1}\n')
        assert read_logs(folder, files=str(tmp_path / "**" / "train*.jsonl")).steps.tolist() == [7]
        write_jsonl(bare, [(1, "step_7/train.jsonl", 1.0)])


def test_a_reader_that_ends_does_not_disturb_one_that_is_open(tmp_path):
    rows = [(0, "a", 1.0), (1, "x" * 2**18, 0.0)]
    for name in ("a.csv", "b.csv"):
        write_csv(tmp_path / name, rows)
    csv.field_size_limit(2**17)  # Python's default
    first, second = (rows_of(tmp_path / name, ["prompt"]) for name in ("a.csv", "b.csv"))
    assert next(first).cells["prompt"] == next(second).cells["prompt"] == "a"
    list(first)
    assert len(next(second).cells["prompt"]) == 2**18


def test_a_line_cut_short_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"step": 1, "prompt": "x", "reward": 1}\n{"step": 1, "pro')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2, is not JSON"):
        read_logs(tmp_path)
    (tmp_path / "a.jsonl").write_text("[1, 2]\n")
    with pytest.raises(ValueError, match=r"line 1, is \[1, 2\]; give one JSON object per completion"):
        read_logs(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"step": 1, "prompt": "é", "reward": 1}\n'.encode("latin-1")),
        ("a.csv", "step,prompt,reward\n1,é,1\n".encode("latin-1")),
        ("a.jsonl.gz", gzip.compress(b'{"step": 1, "prompt": "a", "reward": 1}\n' * 9, mtime=0)[:-12]),
        ("a.csv.gz", b"step,prompt,reward\n1,a,1\n"),
        ("a.parquet", b"PAR1 cut short"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} cannot be read \(.*\); write it again in UTF-8, or copy it again"):
        read_logs(tmp_path)


def test_a_damaged_page_is_named(tmp_path):
    write_parquet(tmp_path / "a.parquet", ROWS)
    damage_pages(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a.parquet cannot be read \(.*\); write it again in UTF-8, or copy it again"):
        read_logs(tmp_path)


def test_a_text_of_parquet_that_is_not_utf8_is_named(tmp_path):
    texts = pa.array([b"\xff"]).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"step": [1], "prompt": texts, "reward": [1.0]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a.parquet cannot be read \(.*UTF8.*\); write it again in UTF-8"):
        read_logs(tmp_path)


def test_numbers_and_nesting_beyond_json_name_the_line(tmp_path):
    for line in ("[" * 100_000, '{"step": 1, "prompt": "a", "reward": ' + "1" * 5000 + "}"):
        (tmp_path / "a.jsonl").write_text(line + "\n")
        with pytest.raises(ValueError, match=r"a\.jsonl, line 1, is not JSON"):
            read_logs(tmp_path)


def test_a_column_that_occurs_twice_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("step,prompt,reward,reward,note,note\n1,a,1,0,x,y\n")
    with pytest.raises(ValueError, match=r"a\.csv has several columns 'reward'"):
        read_logs(tmp_path)
    (tmp_path / "a.csv").write_text("step,prompt,reward,note,note\n1,a,1,x,y\n")
    assert read_logs(tmp_path).prompts == ["a"]


@pytest.mark.parametrize("suffix", WRITERS)
def test_steps_may_be_times_in_nanoseconds(tmp_path, suffix):
    first = 1_764_000_000_000_000_001
    WRITERS[suffix](tmp_path / f"a{suffix}", [(first, "a", 1.0), (first + 1, "a", 0.0)])
    assert read_logs(tmp_path).steps.tolist() == [first, first + 1]


def test_an_empty_prompt_in_a_csv_is_refused(tmp_path):
    file = tmp_path / "log.csv"
    file.write_text("step,prompt,reward\n1,,1\n1,a,0\n")
    with pytest.raises(ValueError, match="prompt"):
        read_logs(file)


def test_a_byte_order_mark_is_skipped(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_text('{"step": 1, "prompt": "a", "reward": 1}\n', encoding="utf-8-sig")
    assert read_logs(file).prompts == ["a"]


def test_infinite_rewards_do_not_count_and_an_infinite_step_is_refused(tmp_path):
    file = tmp_path / "log.csv"
    file.write_text("step,prompt,reward\n1,a,1\n1,a,inf\n1,b,-Infinity\n1,b,0\n1,b,nan\n")
    history = read_logs(file).history
    assert history.group_size.sum() == 2
    assert history.successes.sum() == 1
    file.write_text("step,prompt,reward\ninf,a,1\n")
    with pytest.raises(ValueError, match="not a whole number"):
        read_logs(file)


def test_steps_are_exact_up_to_64_bits(tmp_path):
    write_jsonl(tmp_path / "log.jsonl", [(2**60 + 1, "a", 1), (2**60, "a", 0), (str(2**60 + 2), "a", 1)])
    assert read_logs(tmp_path / "log.jsonl").steps.tolist() == [2**60, 2**60 + 1, 2**60 + 2]


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_jsonl(tmp_path / "log.jsonl", ROWS)
    check(read_logs("~/log.jsonl"))
