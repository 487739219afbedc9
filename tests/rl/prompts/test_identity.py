"""Keys of prompts, repeated prompts, and rows that cannot be used."""

import logging

import pytest

from rl.prompts import PromptPool, read_prompts, read_report


def verl(text, answer="1", **changes):
    row = {
        "data_source": "a",
        "prompt": [{"role": "user", "content": text}],
        "extra_info": {"index": 0, "split": "train"},
    }
    return row | {"reward_model": {"ground_truth": answer}} | changes


def with_index(text, index, split: str | None = "train", source: str | None = "a"):
    return verl(text, data_source=source, extra_info={"index": index, "split": split})


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.parametrize(
    ("rows", "key", "keys"),
    [
        ([with_index("a", 4), with_index("b", 2)], "data_source/split/index", ["a/train/4", "a/train/2"]),
        (
            [with_index("a", "9a-f", None), with_index("b", "b4-2")],
            "data_source/split/index",
            ["a/9a-f", "a/train/b4-2"],
        ),
        ([with_index("a", 4), with_index("b", 2, source=None)], "index", ["4", "2"]),
        ([{"question": "a", "answer": "1", "index": 5}], "index", ["5"]),
        ([with_index("a", 0), with_index("b", 0, "test")], "data_source/split/index", ["a/train/0", "a/test/0"]),
        ([with_index("a", 0), with_index("b", 0, source="b")], "data_source/split/index", ["a/train/0", "b/train/0"]),
        ([with_index("a", 0), with_index("b", 0)], "text", None),
        ([with_index("a", 0), with_index("b", None)], "text", None),
        ([verl("a", extra_info=None), verl("b")], "text", None),
        ([{"question": "a", "answer": "1"}, {"question": "b", "answer": "1"}], "text", None),
    ],
)
def test_the_key_is_the_first_that_tells_all_rows_apart(write, suffix, rows, key, keys):
    report = read_report(write(f"data.{suffix}", rows))
    assert report.key == key
    assert len(set(report.pool.keys)) == len(rows)
    assert keys is None or report.pool.keys == keys


def test_keys_tell_data_sets_apart_and_survive_another_source(write):
    one, other = ([with_index(f"{source}{i}", i, source=source) for i in range(3)] for source in "ab")
    first, second = (read_prompts(write(f"{rows[0]['data_source']}.jsonl", rows)) for rows in (one, other))
    assert not {*first.keys} & {*second.keys}
    both = read_prompts(write("both.jsonl", [*other, *one]))
    assert both.keys == [*second.keys, *first.keys]


def test_a_key_that_utf8_cannot_hold_does_not_count(write):
    report = read_report(
        write("data.jsonl", [{"question": one, "answer": "1", "index": one + "\ud800"} for one in "ab"])
    )
    assert report.key == "text"


def test_a_named_key_wins(write):
    path = write("data.jsonl", [{"question": "a", "answer": "1", "index": 0, "id": "x"}])
    assert read_prompts(path, key="id").keys == ["x"]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["x", "x"], "key is 'id', which is 'x' in row 0 of .* and in row 1 of .*; give every prompt a key of its own"),
        ([1, "1"], "key is 'id', which is '1' in row 0 of .* and in row 1 of .*; give every prompt"),
        (["x", None], "key is 'id', which is None in row 1 of .*; give every row an integer or a text"),
        (["x", 0.5], "key is 'id', which is 0.5 in row 1 of .*; give every row an integer or a text"),
        (["x", "\ud800"], r"key is 'id', which is '\\ud800' in row 1 of .*; give every row .* that UTF-8 can hold"),
    ],
)
def test_a_named_key_that_names_nothing(write, ids, message):
    rows = [{"question": f"{i}", "answer": "1", "id": one} for i, one in enumerate(ids)]
    with pytest.raises(ValueError, match=message):
        read_prompts(write("data.jsonl", rows), key="id")


def test_the_text_names_a_prompt_in_any_file_and_order(write):
    texts = ["a", "b", "x" * 10**6]
    one = read_prompts(write("a.jsonl", [{"question": text, "answer": "1"} for text in texts]))
    two = read_prompts(write("b.parquet", [verl(text, extra_info=None) for text in reversed(texts)]))
    assert one.keys == list(reversed(two.keys))
    assert max(map(len, one.keys)) == 32


def test_roles_are_part_of_the_text(write):
    messages = [[{"role": role, "content": "a"}, {"role": "user", "content": "b"}] for role in ("system", "assistant")]
    pool = read_prompts(write("a.jsonl", [{"prompt": one, "label": "1"} for one in messages]))
    assert len(set(pool.keys)) == 2


# Tests of prompts that repeat.

REPEATED = [("a", "1"), ("b", "2"), ("a", "1"), ("a", "3")]


def questions(pairs, **columns):
    return [
        {"question": text, "answer": answer} | {name: values[i] for name, values in columns.items()}
        for i, (text, answer) in enumerate(pairs)
    ]


def test_repeated_prompts_are_named(write, caplog):
    path = write("data.jsonl", questions(REPEATED, index=[0, 1, 2, 3]))
    with caplog.at_level(logging.WARNING, "rl.prompts"):
        assert len(read_prompts(path)) == 4
    (record,) = caplog.records
    named = (
        f"2 prompts repeat an earlier one (row 2 of {path} repeats row 0 of {path}, row 3 of {path} repeats row 0 of"
    )
    assert named in record.getMessage()
    assert "with another answer, '3' instead of '1'" in record.getMessage()


def test_repeated_prompts_are_counted(write):
    report = read_report(write("data.jsonl", questions(REPEATED, index=[0, 1, 2, 3])))
    assert (report.rows, len(report.repeats), report.conflicts) == (4, 2, 1)


def test_merging_keeps_other_answers_and_averages_rates(write):
    rows = questions(REPEATED, index=[0, 1, 2, 3], solve_rate=[0.5, None, 1.0, 0.25])
    pool = read_prompts(write("data.jsonl", rows), merge=True)
    assert pool == PromptPool(["a", "b", "a"], ["1", "2", "3"], ["0", "1", "3"], [0.75, None, 0.25])


def test_answers_of_another_type_are_other_answers(write):
    path = write("data.jsonl", questions([("a", "1"), ("a", 1), ("a", 1.0)], index=[0, 1, 2]))
    assert read_prompts(path, merge=True).answers == ["1", 1, 1.0]


def test_repeats_without_any_key_are_refused_or_merged(write):
    path = write("data.jsonl", questions(REPEATED[:3]))
    with pytest.raises(
        ValueError, match=r"1 prompts repeat .* no column tells them apart; merge=True reads them as one"
    ):
        read_prompts(path)
    assert read_prompts(path, merge=True).texts == ["a", "b"]


def test_repeats_with_other_answers_and_without_any_key_are_refused(write):
    path = write("data.jsonl", questions(REPEATED))
    with pytest.raises(
        ValueError, match=r"with another answer, '3' instead of '1'.*; leave out the rows with the wrong"
    ):
        read_prompts(path, merge=True)


def test_a_key_that_repeats_with_its_prompt_merges(write):
    path = write("data.jsonl", questions(REPEATED[:3], id=["x", "y", "x"]))
    assert read_prompts(path, key="id", merge=True).keys == ["x", "y"]


# Tests of odd rows.

ODD = {
    "no answer": ({"prompt": "q", "answer": None}, "answer has no answer in row 1 of .*data.jsonl; give one"),
    "an empty answer": (
        {"prompt": "q", "answer": ""},
        "answer has an empty answer in row 1 of .*data.jsonl; give one, or read no answers by answer=''",
    ),
    "spaces as an answer": ({"prompt": "q", "answer": " \n"}, "answer has an empty answer in row 1 of"),
    "NaN": ({"prompt": "q", "answer": float("nan")}, "answer has NaN as an answer, which is no value in row 1 of"),
    "NaN in a list": ({"prompt": "q", "answer": [1, float("nan")]}, "answer has NaN as an answer"),
    "infinity": (
        {"prompt": "q", "answer": {"value": float("-inf")}},
        "answer has an infinite number as an answer, which JSON cannot hold in row 1 of .*; give a text, or read no",
    ),
    "spaces": ({"prompt": " \n", "answer": "1"}, "prompt has an empty text in row 1 of .*; leave the row out"),
    "no prompt": (
        {"answer": "1"},
        "prompt has a value of type NoneType in row 1 of .*data.jsonl; give text",
    ),
    "a number": (
        {"prompt": 3, "answer": "1"},
        "prompt has a value of type int in row 1 of .*; give text",
    ),
    "an empty text": ({"prompt": "", "answer": "1"}, "prompt has an empty text in row 1 of .*; leave the row out"),
    "a surrogate": ({"prompt": "\ud800", "answer": "1"}, r"prompt has the lone surrogate '\\ud800' in row 1 of"),
    "a surrogate in an answer": (
        {"prompt": "q", "answer": "\ud800"},
        r"answer has the lone surrogate '\\ud800' in row 1",
    ),
    "a surrogate in a list of answers": (
        {"prompt": "q", "answer": ["1", "\ud800"]},
        r"answer has the lone surrogate '\\ud800' in row 1",
    ),
    "a surrogate in a role": (
        {"prompt": [{"role": "\ud800", "content": "q"}], "answer": "1"},
        r"prompt has the lone surrogate '\\ud800' in row 1",
    ),
    "a surrogate in an image's path": (
        {"prompt": "q", "images": ["\ud800.png"], "answer": "1"},
        r"prompt has the lone surrogate '\\ud800' in row 1",
    ),
    "other fields": (
        {"prompt": [{"from": "human", "value": "q"}], "answer": "1"},
        r"prompt has a message without role, but with \['from', 'value'\] in row 1 of .*; name its fields role and",
    ),
    "texts as messages": ({"prompt": ["q"], "answer": "1"}, "prompt has a message that is str in row 1 of"),
    "one message": (
        {"prompt": {"role": "user", "content": "q"}, "answer": "1"},
        "prompt has a value of type dict in row 1 of",
    ),
    "a null content": (
        {"prompt": [{"role": "user", "content": None}], "answer": "1"},
        "prompt has a message of role user whose content is not text in row 1 of .*; give text, or parts",
    ),
    "a part without type": (
        {"prompt": [{"role": "user", "content": ["q"]}], "answer": "1"},
        "prompt has the content part 'q' in row 1 of .*; give a record with its type",
    ),
    "empty messages": (
        {"prompt": [{"role": "system", "content": ""}, {"role": "user", "content": " "}], "answer": "1"},
        "prompt has an empty text in row 1 of",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_row_is_named_or_left_out(write, caplog, name):
    row, message = ODD[name]
    path = write("data.jsonl", [{"prompt": "a", "answer": "1"}, row, {"prompt": "b", "answer": "2"}])
    with pytest.raises(ValueError, match=message + ".*skip_odd=True"):
        read_prompts(path)
    with caplog.at_level(logging.WARNING, "rl.prompts"):
        assert read_prompts(path, skip_odd=True).texts == ["a", "b"]
    assert "1 odd rows of" in caplog.text
