import itertools
import sys
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rl.prompts import Verdict
from rl.tasks import countdown_verifier
from rl.tasks.countdown_verifier import MAX_LENGTH, Expression, extract, parse, verify

ANSWER = {"target": 22, "numbers": [3, 5, 7]}
SOLVED, WRONG = Verdict(True, 1.0), Verdict(False, 0.0)


@pytest.mark.parametrize(
    "completion",
    ["3*5+7", "7+5*3", "7+(3*5)", " 3 * 5 + 7 ", "((3)*(5))+((7))", "3*5+7\n", "(((((((3*5+7)))))))"],
)
def test_right_answers_are_successes(completion):
    assert verify(completion, ANSWER) == SOLVED
    assert verify(f"<think>3*5 is 15</think><answer>{completion}</answer>", ANSWER) == SOLVED


@pytest.mark.parametrize(
    ("completion", "target", "numbers"),
    [
        ("8/(3-8/3)", 24, [3, 3, 8, 8]),  # needs fractions; floating point misses the target
        ("1-2+3", 2, [1, 2, 3]),  # an intermediate value is negative
        ("1/3*3", 1, [1, 3, 3]),
        ("8/4/2", 1, [2, 4, 8]),
        ("9-4-3", 2, [3, 4, 9]),
        ("100*10", 1000, [10, 100]),
        ("5*0+1", 1, [0, 1, 5]),
    ],
)
def test_arithmetic_is_exact_and_associates_to_the_left(completion, target, numbers):
    assert verify(completion, {"target": target, "numbers": numbers}) == SOLVED


WELL_FORMED_BUT_WRONG = {
    "another value": "3+5+7",
    "a number left out": "3*5",
    "a number twice": "3*5+7+7-7",
    "another number of the right value": "15+7",
    "the target itself": "22",
    "digits joined": "35+7",
    "division by zero": "3*5+7/(7-7)",
    "division by zero, twice": "1/(1/0)",
    "all numbers, divided by zero": "7/(3*5-15)",
    "zero as a number": "0",
    "sixty numbers": "+".join("1" * 60),
    "long numbers": "9" * 60 + "*" + "9" * 60,
    "a long power by hand": "*".join(["99"] * 40),
    "many parentheses": "(" * 60 + "22" + ")" * 60,
}
MALFORMED = {
    "empty": "",
    "space": "   ",
    "powers": "9**9**9",
    "floor division": "7//2",
    "unary minus": "-3*5+7",
    "unary minus inside": "7-(-3)*5",
    "unary plus": "+3*5+7",
    "chain of signs": "-" * 100 + "3",
    "leading zero": "03*5+7",
    "double zero": "00",
    "underscore": "3*5+0_7",
    "float": "3.0*5+7",
    "float without digits": "3.*5+7",
    "exponent": "3e0*5+7",
    "hexadecimal": "0x3*5+7",
    "complex": "3j*5+7",
    "tail": "3*5+7=22",
    "tail with spaces": "3*5+7 = 22",
    "equation": "22=3*5+7",
    "comparison": "3*5+7==22",
    "name": "a*5+7",
    "call": "abs(3)*5+7",
    "call of a number": "3(5)+7",
    "call of a group": "(3)(5)+7",
    "number after a group": "(3)5+7",
    "empty call": "3()",
    "empty tuple": "()",
    "tuple": "(3,5,7)",
    "list": "[3,5,7]",
    "walrus": "(x:=3)*5+7",
    "lambda": "(lambda: 22)()",
    "import": "__import__('os').system('true')",
    "string": "'3*5+7'",
    "statement": "3*5+7;",
    "comment": "3*5+7#",
    "two expressions": "3*5+7\n3*5+7",
    "line break inside": "3*5\n+7",
    "tab inside": "3*5\t+7",
    "two numbers in a row": "3 5 7",
    "operator missing": "3*5 7",
    "operand missing": "3*5+",
    "operators in a row": "3*/5+7",
    "unbalanced": "(3*5+7",
    "unbalanced the other way": "3*5+7)",
    "crossed": ")3*5+7(",
    "Arabic-Indic digits": "\u0663*\u0665+\u0667",
    "full-width digits": "\uff13*\uff15+\uff17",
    "superscript": "3*5+7\u00b2",
    "circled digit": "\u2462*5+7",
    "mathematical digits": "\U0001d7d1*5+7",
    "typographic operators": "3\u00d75+7",
    "typographic minus": "7\u22123",
    "no-break space": "3*5\u00a0+7",
    "zero-width space": "3*5\u200b+7",
    "null byte": "3*5+7\0",
    "byte order mark": "\ufeff3*5+7",
    "lone surrogate": "3*5+7\ud800",
    "prose": "The answer is 3*5+7",
    "markdown": "`3*5+7`",
    "LaTeX": r"3 \times 5 + 7",
    "emoji": "\U0001f642",
}
TOO_LONG = {
    "opening parentheses": "(" * 10**6,
    "balanced parentheses": "(" * 10**5 + "22" + ")" * 10**5,
    "a million digits": "9" * 10**6,
    "a million signs": "-" * 10**6 + "3",
    "a million terms": "+".join("1" * 10**6),
    "a million spaces": "3*5+7" + " " * 10**6 + "+0",
    "a million letters": "a" * 10**6,
    "one character too many": "3*5+7".rjust(MAX_LENGTH - 1, "(") + "))",
    "brackets": "[" * 10**5,
    "opening tags": "<answer>" * 10**5,
    "closing tags": "</answer>" * 10**5,
    "tags": "<answer></answer>" * 10**5,
    "tags around a megabyte": "<answer>" + "(" * 10**6 + "</answer>",
}


@pytest.mark.parametrize("name", WELL_FORMED_BUT_WRONG)
def test_wrong_answers_get_at_most_the_format_credit(name):
    completion = WELL_FORMED_BUT_WRONG[name]
    assert verify(completion, ANSWER) == WRONG
    assert verify(completion, ANSWER, format_credit=0.1) == Verdict(False, 0.1)


@pytest.mark.parametrize("name", [*MALFORMED, *TOO_LONG])
def test_malformed_completions_get_no_credit(name):
    completion = (MALFORMED | TOO_LONG)[name]
    for text in (completion, f"<answer>{completion}</answer>"):
        assert verify(text, ANSWER, format_credit=0.1) == WRONG


@pytest.mark.parametrize("name", TOO_LONG)
def test_long_text_never_reaches_the_parser(name, monkeypatch):
    def unreachable(*args, **kwargs):
        raise AssertionError("parsed")

    monkeypatch.setattr(countdown_verifier.ast, "parse", unreachable)
    assert verify(TOO_LONG[name], ANSWER) == WRONG


def test_length_bound_is_exact():
    longest = "(" * 62 + "22" + ")" * 62 + "+0"
    assert len(longest) == MAX_LENGTH
    assert parse(longest) == Expression([22, 0], Fraction(22))
    assert parse(longest + "0") is None
    assert parse(longest + " ") is None


@pytest.mark.parametrize(
    ("completion", "extracted"),
    [
        ("3+5", "3+5"),
        (" 3+5\r\n", "3+5"),
        ("<answer>3+5</answer>", "3+5"),
        ("thus <answer>\n3+5\n</answer> and so on", "3+5"),
        ("<answer>1</answer> no, <answer>2</answer>", "2"),
        ("<answer>1</answer> no, <answer>2", "1"),
        ("<answer>1<answer>2</answer>", "2"),
        ("<answer>3+5", ""),
        ("3+5</answer>", ""),
        ("</answer>3+5<answer>", ""),
        ("<answer></answer>", ""),
        ("<ANSWER>3+5</ANSWER>", "<ANSWER>3+5</ANSWER>"),
    ],
)
def test_extract_takes_the_text_of_the_answer(completion, extracted):
    assert extract(completion) == extracted


def test_only_the_last_answer_counts():
    assert verify("<answer>3*5+7</answer><answer>3+5+7</answer>", ANSWER) == WRONG
    assert verify("<answer>3+5+7</answer><answer>3*5+7</answer>", ANSWER) == SOLVED


def test_parsing_works_deep_in_the_call_stack():
    def deep(levels):
        return verify("+".join("1" * 64), ANSWER) if levels == 0 else deep(levels - 1)

    assert deep(sys.getrecursionlimit() - 300) == WRONG


def test_success_is_a_bool_apart_from_the_reward():
    for completion in ("3*5+7", "3+5+7", "3+"):
        verdict = verify(completion, ANSWER, format_credit=0.1)
        assert type(verdict.success) is bool
        assert type(verdict.reward) is float
        assert verdict.success == (verdict.reward == 1.0)


@given(st.text())
@example("0" * 5000)
@settings(derandomize=True, deadline=None, max_examples=500)
def test_any_text_gets_a_verdict(text):
    for completion in (text, f"<answer>{text}</answer>", text + "<answer>", "</answer>" + text):
        assert verify(completion, ANSWER) in (WRONG, SOLVED)


@given(st.text(alphabet="0123456789+-*/() ", max_size=140))
@settings(derandomize=True, deadline=None, max_examples=2000)
def test_accepted_text_has_the_value_that_python_gives(text):
    expression = parse(text)
    if expression is not None and expression.value is not None:
        assert eval(text.strip(), {"__builtins__": {}}) == pytest.approx(float(expression.value))


def test_all_short_texts_of_the_alphabet():
    accepted = Counter()
    for size in range(1, 6):
        for characters in itertools.product("01+-*/() ", repeat=size):
            accepted[size] += parse("".join(characters)) is not None
    assert accepted[1] == 2
    # The number 10, the number 11, and a digit with a space on each side.
    assert accepted[2] == 2 + 2 * 2


expressions = st.recursive(
    st.integers(0, 99).map(lambda n: (str(n), [n], Fraction(n))),
    lambda children: st.tuples(children, st.sampled_from("+-*/"), children).map(lambda parts: combine(*parts)),
    max_leaves=8,
)


def combine(left, operation, right):
    a, b = left[2], right[2]
    if a is None or b is None or (operation == "/" and b == 0):
        value = None
    else:
        value = {"+": a + b, "-": a - b, "*": a * b, "/": a / (b or 1)}[operation]
    return f"({left[0]} {operation} {right[0]})", left[1] + right[1], value


@given(expressions)
@settings(derandomize=True, deadline=None, max_examples=500)
def test_random_expressions_have_their_exact_value(expression):
    text, numbers, value = expression
    assert parse(text) == Expression(numbers, value)
    target = 1 if value is None else value
    answer = {"target": target, "numbers": sorted(numbers)}
    assert verify(text, answer).success == (value is not None)
    assert not verify(text, answer | {"numbers": [*numbers, 1]}).success
    assert not verify(text, answer | {"target": target + Fraction(1, 10**12)}).success


@pytest.mark.parametrize(
    "answer",
    [
        {"numbers": [3, 5], "target": "8"},
        {"numbers": ["3", "5"], "target": 8},
        '{"numbers": [3, 5], "target": "8"}',
        '{"target": 8, "numbers": [5, 3]}',
    ],
)
def test_answers_given_as_text(answer):
    assert verify("3+5", answer).success
    assert not verify("3*5", answer).success
    assert not verify("8", answer).success


@pytest.mark.parametrize("answer", ["", "8", "null", '{"numbers": [3, 5]}', {"numbers": [3, "x"], "target": 8}, {}])
def test_a_malformed_answer_is_named(answer):
    with pytest.raises(ValueError, match=r"answer is .*; give numbers and target"):
        verify("3+5", answer)
