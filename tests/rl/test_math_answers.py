r"""The final answer of a completion, and which letters are words. Neither needs the parser of mathematics."""

import pytest

from rl.tasks.math_answers import final_answer, reference_answer
from rl.tasks.math_words import with_words


@pytest.mark.parametrize(
    "after",
    [
        "",
        "#",
        "Verification",
        "**Check**",
        "Step 2: check",
        "2. Verification",
        "**2)** Sum",
        "(a) Sum",
        "---",
        "x is 7",
    ],
)
def test_a_heading_after_an_answer_is_no_answer(after):
    assert final_answer(f"\\boxed{{5}}\n\n#### {after}\nIndeed.") == "5"
    assert final_answer(f"#### 5\n\n#### {after}\nIndeed.") == "5"


@pytest.mark.parametrize(
    "line",
    ["72", "$72", r"\$72", "1,234", "72 apples", "-0.5", "**72**", "x = 72", r"-\frac{1}{2}", r"\pi", "(1, 2)", "B"],
)
def test_an_answer_after_hashes_counts_if_it_comes_last(line):
    assert final_answer(f"\\boxed{{5}}\n#### {line}") == line
    assert final_answer(f"#### {line}\n\\boxed{{5}}") == "5"
    assert final_answer(f"#### 5\n#### {line}") == line


def test_words_after_hashes_are_the_answer_where_nothing_else_is():
    assert final_answer("#### west\n#### east\n####") == "east"
    assert final_answer("####\n5") is None


@pytest.mark.parametrize(
    "line",
    ["Answer: 5", "The answer is 5", "**Answer:** 5", "The final answer is: 5.", "So the answer is 5", "ANSWER = 5"],
)
def test_the_words_before_an_answer_are_left_out(line):
    assert final_answer(f"\\boxed{{4}}\n#### {line}") == "5"


def test_an_answer_in_words_after_its_name_counts():
    assert final_answer("\\boxed{4}\n#### Answer: east") == "east"


@pytest.mark.parametrize("inside", ["5", r"5 \\", r"\{1\}", r"a \} b", r"\\{1\\}", r"\frac{1}{2}", r"\\\}"])
def test_a_box_ends_at_its_own_brace(inside):
    assert final_answer(rf"\boxed{{{inside}}} and \}} and }}") == inside


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ('{"ground_truth": "42"}', "42"),
        ({"ground_truth": "42"}, "42"),
        (' {"ground_truth": ["so #### 4.0"], "kind": "math"}', "4.0"),
        ('{"kind": "math", "ground_truth": 42.0}', "42"),
        ('["16"]', "16"),
        ('[{"ground_truth": "16"}]', "16"),
        ('[["16"]]', "16"),
        *(
            (text, text)
            for text in ("[1, 2]", "[1,2)", "{1, 2}", r"\{1,2\}", "{}", "[]", "[[1]]", "72", '"72"', "null")
        ),
        *((text, text) for text in ('["a", "b")', '{"a", "b"}', '{"ground_truth": 4', '[["' * 9999)),
    ],
)
def test_an_answer_that_is_json_stands_for_what_it_holds_and_mathematics_stays(answer, text):
    assert reference_answer(answer) == text


@pytest.mark.parametrize(
    "answer", ['["16", "18"]', '{"target": 3}', '{"ground_truth": null}', '{"ground_truth": ["1", "2"]}', '["1", 2]']
)
def test_json_without_one_answer_is_refused(answer):
    with pytest.raises(ValueError, match=r"the reference answer is .*; give one text or number"):
        reference_answer(answer)


def test_thoughts_count_only_where_the_completion_does_not_say_that_they_are_thoughts():
    """A template may write `<think>` into the prompt; the guide says to put it in front of the completion again."""
    cut, done = r"Maybe \boxed{3}? Wait", r"Maybe \boxed{3}?</think> It is \boxed{4}."
    assert [final_answer(text) for text in (cut, done)] == ["3", "4"]
    assert [final_answer("<think>" + text) for text in (cut, done)] == [None, "4"]


@pytest.mark.parametrize("answers", [("ab", "ba"), ("xyz", "zyx"), ("at", "ta"), ("6cat", "act"), ("cat", "c+a+t")])
def test_products_of_variables_are_not_words(answers):
    assert with_words(*answers) == answers


@pytest.mark.parametrize(
    ("answer", "marked"),
    [
        ("no", r"\text{no}"),
        ("No", r"\text{no}"),
        ("Mon", r"\text{mon}"),
        ("(cat,  ab)", r"(\text{cat}, ab)"),
        (r"\{six, ten and two\}", r"\{\text{six}, \text{ten}, \text{two}\}"),
        ("x = no", r"x=\text{no}"),
        ("no solution", r"\text{nosolution}"),
        ("2, top", r"2, \text{top}"),
        (r"\text{Ab}, \mathrm{cat}", r"\text{ab}, \text{cat}"),
        ("x cos y", "x cos y"),
    ],
)
def test_words_are_marked(answer, marked):
    assert with_words(answer) == (marked,)
