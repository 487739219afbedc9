import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.prompts import PromptPool, read_parquet, write, write_parquet
from rl.tasks import countdown

COLUMNS = {"data_source": "ours", "ability": "math"}


@pytest.fixture
def three():
    return PromptPool(["1+1=", "2+2=", "3+3="], ["2", "4", "6"], ["a", "b", "c"])


def verl_rows(**changes):
    """Return two rows in verl's schema, as another program would write them."""
    row = {
        "data_source": "theirs",
        "prompt": [{"role": "user", "content": "1+1="}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "2"},
        "extra_info": {"split": "train", "index": 0},
    }
    second = {**row, "extra_info": {"split": "train", "index": 7}}
    return [{**row, **changes}, {**second, **changes}]


def written(tmp_path, rows):
    path = tmp_path / "theirs.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


# Tests of the pool.


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"'texts': 2, 'answers': 1, 'keys': 2"):
        PromptPool(["a", "b"], ["1"], ["x", "y"])


def test_repeated_keys_are_refused():
    with pytest.raises(ValueError, match=r"keys repeat 'x'; give every prompt a unique key"):
        PromptPool(["a", "b"], ["1", "2"], ["x", "x"])


def test_length_and_take(three):
    assert len(three) == 3
    assert three.take([2, 0]) == PromptPool(["3+3=", "1+1="], ["6", "2"], ["c", "a"])
    assert len(three.take([])) == 0


@pytest.mark.usefixtures("unchecked_types")
def test_columns_of_pandas_are_read_by_row_and_not_by_label(three):
    columns: Any = pd.DataFrame({"texts": three.texts, "answers": three.answers, "keys": three.keys}, index=[2, 0, 1])
    pool = PromptPool(**{name: columns[name] for name in columns})
    assert pool == three
    assert pool.take([2, 0]) == three.take([2, 0])


def test_take_refuses_a_row_twice(three):
    with pytest.raises(ValueError, match=r"keys repeat"):
        three.take([1, 1])


# Tests of writing verl's Parquet schema.


def test_written_columns(tmp_path, three, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_parquet(three, "~/pool.parquet", **COLUMNS)
    table = pq.read_table(tmp_path / "pool.parquet")
    assert table.column_names == ["data_source", "prompt", "ability", "reward_model", "extra_info"]
    assert table.to_pylist()[1] == {
        "data_source": "ours",
        "prompt": [{"role": "user", "content": "2+2="}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "4"},
        "extra_info": {"index": 1, "key": "b"},
    }


def test_messages_and_rates_come_back(tmp_path):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1="}]
    pool = PromptPool(["2+2=", messages, "3+3="], ["4", "2", "6"], ["a", "b", "c"], [0.5, None, 1.0])
    write_parquet(pool, tmp_path / "pool.parquet", **COLUMNS)
    assert read_parquet(tmp_path / "pool.parquet") == pool
    assert read_parquet(tmp_path / "pool.parquet").take([1]).rates == [None]


def test_images_are_not_written_as_text(tmp_path):
    messages = [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}]
    with pytest.raises(ValueError, match=r"pool.texts has a message with more than a role and a text in row 1"):
        write_parquet(PromptPool(["a", messages], ["1", "2"], ["x", "y"]), tmp_path / "pool.parquet", **COLUMNS)


@pytest.mark.parametrize("rows_at_once", [1, 9])
def test_an_earlier_file_stays_where_a_pool_cannot_be_written(tmp_path, three, monkeypatch, rows_at_once):
    monkeypatch.setattr(write, "_ROWS_AT_ONCE", rows_at_once)
    path = tmp_path / "pool.parquet"
    write_parquet(three, path, **COLUMNS)
    before = path.read_bytes()
    named = [{"role": "user", "content": "x", "name": "bob"}]
    with pytest.raises(ValueError, match=r"pool.texts has a message with more than a role and a text in row 1"):
        write_parquet(PromptPool(["a", named], ["1", "2"], ["x", "y"]), path, **COLUMNS)

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", fail)
    with pytest.raises(OSError, match="full"):
        write_parquet(three, path, **COLUMNS)
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (before, [path])


def test_written_schema_is_what_arrow_infers_from_rows(tmp_path, three):
    path = tmp_path / "pool.parquet"
    write_parquet(three, path, **COLUMNS)
    table = pq.read_table(path)
    inferred = pa.Table.from_pylist(table.to_pylist()).schema
    assert {field.name: fields(field.type) for field in table.schema} == {
        field.name: fields(field.type) for field in inferred
    }


def fields(kind):
    """Return an Arrow type as dictionaries and lists, because old versions of pyarrow sort the fields of a record."""
    if pa.types.is_struct(kind):
        return {field.name: fields(field.type) for field in kind}
    return [fields(kind.value_type)] if pa.types.is_list(kind) else kind


@pytest.mark.parametrize("rows_at_once", [1, 2, 3, 4])
def test_index_counts_on_through_the_chunks(tmp_path, three, monkeypatch, rows_at_once):
    monkeypatch.setattr(write, "_ROWS_AT_ONCE", rows_at_once)
    path = tmp_path / "pool.parquet"
    write_parquet(three, path, **COLUMNS)
    assert [info["index"] for info in pq.read_table(path)["extra_info"].to_pylist()] == [0, 1, 2]
    assert read_parquet(path) == three


def test_an_empty_pool_keeps_its_schema(tmp_path):
    path = tmp_path / "pool.parquet"
    write_parquet(PromptPool([], [], []), path, **COLUMNS)
    assert pq.read_table(path).num_rows == 0
    assert pq.read_table(path).column_names[1] == "prompt"


@pytest.mark.parametrize("answer", [{1, 2}, [Decimal(1)], {"at": datetime.date(2026, 1, 1)}, np.int64(1), object()])
def test_an_answer_that_json_cannot_hold_is_refused(tmp_path, answer):
    with pytest.raises(ValueError, match=r"pool.answers has a value of type .* as an answer, .* in row 0; give a text"):
        write_parquet(PromptPool(["a"], [answer], ["x"]), tmp_path / "pool.parquet", **COLUMNS)
    assert not (tmp_path / "pool.parquet").exists()


@pytest.mark.usefixtures("unchecked_types")
def test_names_and_keys_that_are_no_texts_are_refused(tmp_path):
    def refuse(what: str, answer: Any, key: Any = "x"):
        with pytest.raises(ValueError, match=rf"pool\.{what}, which is no text, in row 1; give ['\"]"):
            write_parquet(PromptPool(["a", "b"], ["1", answer], ["0", key]), tmp_path / "pool.parquet", **COLUMNS)

    for name in (1, None, True, 0.5, (1, 2)):
        refuse("answers has an answer with the name .*", [{"a": {"": 0, name: "b"}}])
    for key in (0, None, ("a", 1)):
        refuse("keys has the key .*", "2", key)
    assert not (tmp_path / "pool.parquet").exists()


@pytest.mark.parametrize("answer", ["", " ", float("nan"), [b"4"], {"target": float("nan")}, float("inf")])
def test_an_answer_that_no_reader_takes_is_not_written(tmp_path, answer):
    with pytest.raises(
        ValueError, match=r"pool.answers has (an empty answer|NaN|bytes|an infinite number) .*in row 1; give"
    ):
        write_parquet(PromptPool(["a", "b"], ["1", answer], ["x", "y"]), tmp_path / "pool.parquet", **COLUMNS)
    assert not (tmp_path / "pool.parquet").exists()


# Tests of reading verl's Parquet schema.


def test_round_trip_of_countdown(tmp_path):
    pool = countdown.pool(200, 0)
    write_parquet(pool, tmp_path / "pool.parquet", data_source="countdown", ability="math")
    again = read_parquet(tmp_path / "pool.parquet")
    assert again == pool
    for answer in again.answers:
        assert countdown.verify("1", answer).reward == 0.0


_FINITE = st.floats(allow_nan=False, allow_infinity=False)
answers = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | _FINITE | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=6,
)
# Only characters of UTF-8 (no lone surrogates), because Parquet stores texts in UTF-8.
texts = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)


@given(st.lists(st.tuples(texts, texts | answers.filter(lambda a: not isinstance(a, str))), min_size=1, max_size=5))
@settings(derandomize=True, max_examples=25, deadline=None)
def test_round_trip_of_any_text_and_answer(tmp_path_factory, rows):
    pool = PromptPool([t for t, _ in rows], [a for _, a in rows], [f"key {i}" for i in range(len(rows))])
    path = tmp_path_factory.mktemp("any") / "pool.parquet"
    write_parquet(pool, path, **COLUMNS)
    assert read_parquet(path) == pool


def test_rows_of_another_program_are_read(tmp_path):
    pool = read_parquet(written(tmp_path, verl_rows()))
    assert pool == PromptPool(["1+1=", "1+1="], ["2", "2"], ["theirs/train/0", "theirs/train/7"])


def test_messages_keep_their_roles(tmp_path):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1="}]
    pool = read_parquet(written(tmp_path, verl_rows(prompt=messages)))
    assert pool.texts == [messages] * 2
    assert pool.plain_texts == ["system: Be brief.\nuser: 1+1="] * 2


def test_a_prompt_of_plain_text_is_read(tmp_path):
    assert read_parquet(written(tmp_path, verl_rows(prompt="1+1="))).texts == ["1+1="] * 2


@pytest.mark.parametrize(
    ("stored", "answer"),
    [
        *((text, text) for text in ("72", "48.00", "033", "[0, 4]", "1e5", "true", "null", "1/3", '"a"', " 7 ")),
        ('{"a": [1]}', '{"a": [1]}'),
        (r"\frac{1}{2}", r"\frac{1}{2}"),
        ("Paris", "Paris"),
        ("0" * 5000, "0" * 5000),
        ("9" * 5000, "9" * 5000),
        ({"target": 22, "numbers": [3, 5, 7]}, {"target": 22, "numbers": [3, 5, 7]}),
    ],
)
def test_ground_truth_is_kept_unchanged(tmp_path, stored, answer):
    path = written(tmp_path, verl_rows(reward_model={"style": "rule", "ground_truth": stored}))
    assert read_parquet(path).answers == [answer] * 2


@pytest.mark.parametrize("info", [{"split": "train"}, {"index": 3}, {"index": None, "split": "train"}, None])
def test_a_missing_or_repeated_index_is_refused(tmp_path, info):
    with pytest.raises(ValueError, match=r"row 1 of .*theirs.parquet repeats row 0 of .* no column tells them apart; "):
        read_parquet(written(tmp_path, verl_rows(extra_info=info)))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("prompt", "theirs.parquet has no column prompt, .* for the prompt but data_source, ability, reward_model"),
        ("reward_model", "has no column reward_model.ground_truth, .* for the answer but .* or give answer='' if"),
        ("extra_info", "1 prompts repeat an earlier one .* no column tells them apart; merge=True reads them as one"),
    ],
)
def test_column_missing(tmp_path, column, message):
    rows = [{name: value for name, value in row.items() if name != column} for row in verl_rows()]
    with pytest.raises(ValueError, match=message):
        read_parquet(written(tmp_path, rows))


def test_a_file_that_changed_is_read_anew(tmp_path, three):
    path = tmp_path / "pool.parquet"
    write_parquet(three, path, **COLUMNS)
    assert read_parquet(path) == three
    write_parquet(three.take([2]), path, **COLUMNS)
    assert read_parquet(path) == three.take([2])
    assert pq.read_table(path)["reward_model"].to_pylist()[0]["ground_truth"] == "6"


def test_answers_that_are_not_all_text_are_marked_as_json(tmp_path):
    path = tmp_path / "pool.parquet"
    pool = PromptPool(["a", "b"], ["2", 2], ["x", "y"])
    write_parquet(pool, path, **COLUMNS)
    assert [row["ground_truth"] for row in pq.read_table(path)["reward_model"].to_pylist()] == ['"2"', "2"]
    assert read_parquet(path) == pool


def test_a_countdown_file_that_lost_its_metadata_can_still_be_judged(tmp_path):
    path = tmp_path / "pool.parquet"
    write_parquet(PromptPool(["3 5=8:"], [{"numbers": [3, 5], "target": 8}], ["x"]), path, **COLUMNS)
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    (answer,) = read_parquet(path).answers
    assert isinstance(answer, str)
    assert countdown.verify("5+3", answer).success
    assert not countdown.verify("5-3", answer).success


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "has an empty text in row 0 of .*theirs.parquet; leave the row out"),
        ([{"role": "user", "content": ""}], "has an empty text in row 0"),
        ([], "has no messages in row 0"),
        ([{"role": "user", "content": None}], "content is not text in row 0 of .*theirs.parquet; give text"),
    ],
)
def test_a_prompt_that_cannot_be_read_is_refused(tmp_path, prompt, message):
    with pytest.raises(ValueError, match=message):
        read_parquet(written(tmp_path, verl_rows(prompt=prompt)))


def test_a_null_among_the_prompts(tmp_path):
    rows = verl_rows()
    rows[0]["prompt"] = None
    with pytest.raises(ValueError, match=r"prompt has a value of type NoneType in row 0 of .*; give text"):
        read_parquet(written(tmp_path, rows))


@pytest.mark.parametrize("name", ["texts", "answers", "keys"])
def test_a_lone_surrogate_is_not_written(tmp_path, name):
    columns: dict[str, Any] = {"texts": ["a", "b"], "answers": ["1", "2"], "keys": ["x", "y"]}
    columns[name] = ["a", "b\ud800"]
    with pytest.raises(ValueError, match=rf"pool.{name} has the lone surrogate '\\ud800' in row 1"):
        write_parquet(PromptPool(**columns), tmp_path / "pool.parquet", **COLUMNS)
    assert not (tmp_path / "pool.parquet").exists()


@pytest.mark.parametrize("judged", [{"style": "rule"}, None])
def test_a_row_without_ground_truth(tmp_path, judged):
    rows = verl_rows()
    rows[0]["reward_model"] = judged
    with pytest.raises(ValueError, match=r"reward_model.ground_truth has no answer in row 0 of .*; give one"):
        read_parquet(written(tmp_path, rows))


def test_a_key_of_zero_is_a_key(tmp_path):
    rows = verl_rows()
    for key, row in enumerate(rows):
        row["extra_info"] = row["extra_info"] | {"key": key}
    assert read_parquet(written(tmp_path, rows)).keys == ["0", "1"]
