"""The schemas of the files that other projects write, in tiny files of the same columns."""

import re
from decimal import Decimal
from fractions import Fraction

import pytest

from rl.prompts import read_prompts, read_report
from rl.prompts.rates import as_rate

SYSTEM, USER = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1="}
DONE = {"role": "assistant", "content": "2"}
VERL = {"data_source": "x", "prompt": [SYSTEM, USER], "ability": "math"}
FILES = {
    "verl": (
        VERL | {"reward_model": {"style": "rule", "ground_truth": "2"}, "extra_info": {"index": 4}},
        [SYSTEM, USER],
    ),
    "verl with more columns": (
        VERL
        | {"question": "other", "answer": "a long solution", "solution": "$2$", "id": 60}
        | {"reward_model": {"ground_truth": "2", "style": "rule"}, "extra_info": {"index": "9a9b", "split": "val"}},
        [SYSTEM, USER],
    ),
    "SkyRL": ({"prompt": [USER], "env_class": "gsm8k", "reward_spec": {"method": "rule", "ground_truth": "2"}}, "1+1="),
    "open-instruct": ({"messages": [USER], "ground_truth": "2", "dataset": "test"}, "1+1="),
    "open-instruct with a completion": ({"messages": [SYSTEM, USER, DONE], "ground_truth": "2"}, [SYSTEM, USER]),
    "slime": ({"prompt": [USER], "label": "2"}, "1+1="),
    "slime's defaults": ({"text": "1+1=", "label": "2"}, "1+1="),
    "TRL": ({"prompt": [SYSTEM, USER], "solution": "2"}, [SYSTEM, USER]),
    "TRL's texts": ({"prompt": "1+1=", "ground_truth": "2"}, "1+1="),
    "GSM8K": ({"question": "1+1=", "answer": "2"}, "1+1="),
    "GSM8K with names": ({"sample_id": "train-0", "question": "1+1=", "answer": "2", "data_source": "gsm8k"}, "1+1="),
    "MATH": ({"problem": "1+1=", "solution": "2", "level": "Level 1"}, "1+1="),
    "a solution that is null": ({"problem": "1+1=", "answer": "2", "solution": None}, "1+1="),
    "an answer that is null": ({"problem": "1+1=", "answer": None, "solution": "2"}, "1+1="),
    "NuminaMath": ({"problem": "1+1=", "solution": "2", "messages": [USER, DONE]}, "1+1="),
    "contents": ({"content": "1+1=", "answer": "2"}, "1+1="),
    "OpenMathReasoning": ({"problem": "1+1=", "expected_answer": "2", "pass_rate_72b_tir": "0.5"}, "1+1="),
}


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "json"])
@pytest.mark.parametrize("name", FILES)
def test_files_of_other_projects(write, name, suffix):
    row, expected = FILES[name]
    pool = read_prompts(write(f"data.{suffix}", [row]))
    assert pool.texts == [expected]
    assert pool.answers == ["2"]


def test_named_columns_win(write):
    row = VERL | {"reward_model": {"ground_truth": "2"}, "extra_info": {"index": 4, "question": "q", "gold": "g"}}
    path = write("data.parquet", [row])
    pool = read_prompts(path, prompt="extra_info.question", answer="extra_info.gold", key="extra_info.question")
    assert (pool.texts, pool.answers, pool.keys) == (["q"], ["g"], ["q"])


def test_a_column_with_any_name(write):
    path = write("data.parquet", [{"Aufgabe": "1+1=", "Antwort": 2, "Nummer": 7}])
    pool = read_prompts(path, prompt="Aufgabe", answer="Antwort", key="Nummer")
    assert (pool.texts, pool.answers, pool.keys) == (["1+1="], [2], ["7"])


def test_data_without_answers(write):
    path = write("data.jsonl", [{"prompt": "a"}, {"prompt": "b"}])
    with pytest.raises(
        ValueError, match=r"data.jsonl has no column reward_model.* give answer='' if the verifier needs"
    ):
        read_prompts(path)
    assert read_prompts(path, answer="").answers == [None, None]


@pytest.mark.parametrize("role", ["prompt", "answer", "rate"])
def test_a_named_column_that_is_missing(write, role):
    path = write("data.jsonl", [{"prompt": "a", "answer": "b"}])
    with pytest.raises(
        ValueError, match=rf"{role} is 'q', and .*data.jsonl has no such column but prompt, answer; name"
    ):
        read_prompts(path, **{role: "q"})  # type: ignore[arg-type]


def test_answers_of_any_type_stay(write):
    answers = ["2", 2, 2.0, [1, "a"], {"target": 98, "numbers": [44, 19, 35]}, True, 2**70, "2020-01-01", [""], []]
    path = write("data.jsonl", [{"prompt": f"{i}", "answer": answer} for i, answer in enumerate(answers)])
    found = read_prompts(path).answers
    assert found == answers
    assert list(map(type, found)) == list(map(type, answers))


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_names_with_capitals_are_found_where_no_other_name_is(write, suffix):
    row = {"ID": "2024-I-1", "Problem": "p", "Solution": "so 7", "Answer": "7"}
    report = read_report(write(f"aime.{suffix}", [row]))
    assert (report.pool.texts, report.pool.answers, report.columns[:2]) == (["p"], ["7"], ("Problem", "Answer"))
    both = read_report(write(f"both.{suffix}", [row | {"solution": "8", "Prompt": "q", "problem": "r"}]))
    assert both.columns[:2] == ("problem", "solution")


# Tests of solve rates.


@pytest.mark.parametrize(
    "name",
    [
        *("solve_rate", "llama8b_solve_rate", "solve_rate_qwen_7b", "pass_rate", "success_rate"),
        *("pass_rate@8", "solve_rates", "Pass_Rate", "qwen-7b pass_rate", "SUCCESS_RATE2"),
    ],
)
def test_rates_beside_the_prompts(write, name):
    rates = [0.5, None, 0.0, 1 / 3, 1]
    rows = [{"problem": f"{i}", "answer": "1", name: rate} for i, rate in enumerate(rates)]
    for suffix in ("parquet", "jsonl"):
        report = read_report(write(f"data.{suffix}", rows))
        assert report.pool.rates == rates
        assert report.columns.rate == name


@pytest.mark.parametrize(
    "name", ["compass_rate", "pass_rated", "solve_ratio", "passrate", "rate", "pass", "error_rate"]
)
def test_other_names_are_no_rates(write, name):
    path = write("data.jsonl", [{"problem": "a", "answer": "1", name: 0.5, "extra_info": {name: 0.5}}])
    assert read_prompts(path).rates is None


def test_rates_as_texts_and_fractions(write):
    texts = ["0.65625", "n/a", "", "5/8", "NaN"]
    rows = [{"problem": f"{i}", "answer": "1", "difficulty": text} for i, text in enumerate(texts)]
    assert read_prompts(write("data.jsonl", rows)).rates is None  # the column's name does not say that it is a rate
    assert read_prompts(write("data.jsonl", rows), rate="difficulty").rates == [0.65625, None, None, 0.625, None]


def test_rates_inside_extra_info(write):
    row = VERL | {"reward_model": {"ground_truth": "2"}, "extra_info": {"index": 4, "pass_rate": 0.25}}
    assert read_prompts(write("data.parquet", [row])).rates == [0.25]


@pytest.mark.parametrize("info", [7, 0.5, True, "pass_rate", ["pass_rate"], None, {"pass_rate": None}])
@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_extra_info_of_any_type_has_no_rates(write, suffix, info):
    rows = [{"problem": text, "answer": "1", "extra_info": info} for text in "ab"]
    assert read_prompts(write(f"data.{suffix}", rows)).rates is None


@pytest.mark.parametrize("rate", [37.5, -0.1, "half", True, [0.5], "1/0", float("inf"), "1e400", 10**400])
def test_rates_out_of_range(write, rate):
    path = write("data.jsonl", [{"problem": "a", "answer": "1", "pass_rate": rate}])
    with pytest.raises(ValueError, match=r"pass_rate has the solve rate .* in row 0 of .*; give a number from 0 to 1"):
        read_prompts(path)
    assert read_prompts(path, rate="").rates is None


@pytest.mark.parametrize(
    "rate", ["1e999999999", "1e-999999999", "1E+9_999", "1e-1000", Decimal("1e999"), Decimal("sNaN"), Fraction(10**400)]
)
def test_numbers_that_no_float_holds_are_no_rates(rate):
    with pytest.raises(ValueError, match=re.escape(f"{rate!r:.60}")):
        as_rate(rate)


def test_small_rates_with_an_exponent():
    assert [as_rate(text) for text in ("1e-3", "5E-01", "1e-400", "0e999")] == [0.001, 0.5, 0.0, 0.0]


def test_several_columns_of_rates(write):
    path = write("data.jsonl", [{"problem": "a", "answer": "1", "pass_rate": 0.5, "solve_rate_7b": 0.25}])
    with pytest.raises(ValueError, match=r"solve rates in \['pass_rate', 'solve_rate_7b'\]; name one of them"):
        read_prompts(path)
    assert read_prompts(path, rate="solve_rate_7b").rates == [0.25]
