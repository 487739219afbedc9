import itertools
import sys
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rl.prompts import Verdict
from rl.tasks import countdown_verifier
from rl.tasks.countdown_verifier import MAX_LENGTH, Expression, extract, parse, plain, verify

ANSWER = {"target": 22, "numbers": [3, 5, 7]}
SOLVED, WRONG = Verdict(True, 1.0), Verdict(False, 0.0)


@pytest.mark.parametrize(
    "completion",
    [
        *("3*5+7", "7+5*3", "7+(3*5)", " 3 * 5 + 7 ", "((3)*(5))+((7))", "3*5+7\n", "(((((((3*5+7)))))))"),
        *("3*5+7=22", "3*5+7 = 22", "3 * 5 + 7\n= 22", "3*5\n+7", "3*5\t+7", "\t3\r\n*\r\n5\t+ 7\r\n"),
        *(
            "3\u00d75+7",
            "3\u22c55+7",
            "3\u00b75+7",
            "3\u22175+7",
            r"3 \times 5 + 7",
            r"3\times5+7",
            r"3\cdot 5+7",
            r"\left(3*5\right)+7",
            r"3 \, \times \, 5 + 7",
            "\uff083\u22195\uff09\uff0b7",
        ),
        *("$3*5+7$", "$$3*5+7$$", r"\(3*5+7\)", r"\[ 3 \times 5 + 7 = 22 \]", "$\n3*5+7\n$", "$ 3*5+7 = 22 $"),
    ],
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
    "typographic minus": "7\u22123",
    "another value with the target as its result": "3*5-7=22",
    "many parentheses": "(" * 60 + "22" + ")" * 60,
}
MALFORMED = {
    "raised digits": "3*5+\u2077",
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
    "typographic sign": "\u22123*5+7",
    "another result": "3*5+7=23",
    "the negative result": "3*5+7=-22",
    "the result in floating point": "3*5+7=22.0",
    "the result and more": "3*5+7=22 apples",
    "the result twice": "3*5+7=22=22",
    "the result alone": "=22",
    "an empty result": "3*5+7=",
    "nearly equal": "3*5+7\u224822",
    "the letter x": "3x5+7",
    "the letter chi": "3\u03c75+7",
    "a dot for a product": "3.5+7",
    "a colon for a quotient": "3:5+7",
    "em dash": "7\u20143",
    "one dollar": "$3*5+7",
    "crossed delimiters": r"\[3*5+7\)",
    "delimiters inside": "$3$*$5$+$7$",
    "delimiters twice": r"$\(3*5+7\)$",
    "the result outside": "$3*5+7$=22",
    "a dollar alone": "$",
    "fraction": r"\frac{3}{5}+7",
    "box": r"\boxed{3*5+7}",
    "an unknown command": r"3\timesx 5+7",
    "an escaped product": r"3\*5+7",
    "the command in words": "3 times 5 + 7",
    "brackets": "[3*5+7]",
    "braces": "{3*5+7}",
    "percent": "3*5+7%",
    "a thousand separator": "3,0*5+7",
    "no-break space": "3*5\u00a0+7",
    "zero-width space": "3*5\u200b+7",
    "null byte": "3*5+7\0",
    "byte order mark": "\ufeff3*5+7",
    "lone surrogate": "3*5+7\ud800",
    "prose": "The answer is 3*5+7",
    "markdown": "`3*5+7`",
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
        ("<answer><answer>1</answer></answer>", "1"),
        ("<answer>1</answer></answer>", "1"),
        ("<answer><answer>1</answer>2</answer>", "1"),
        ("<answer>1</answer><answer><answer>2</answer>", "2"),
        ("</answer><answer>1</answer><answer>", "1"),
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
    # The accepted texts are the numbers 10 and 11, and each of these digits with a space before or after it.
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
        {"numbers": "[3, 5]", "target": "8"},
        {"numbers": "3 5", "target": 8.0},
        {"numbers": "3, 5", "target": " 8 "},
        {"numbers": (3.0, 5.0), "target": 8},
        '{"numbers": "[5,3]", "target": "8"}',
        '{"numbers": [3, 5], "target": "8"}',
        '{"target": 8, "numbers": [5, 3]}',
        {"nums": [3, 5], "target": 8},
    ],
)
def test_answers_given_as_text(answer):
    assert verify("3+5", answer).success
    assert not verify("3*5", answer).success
    assert not verify("8", answer).success


@pytest.mark.parametrize("said", ["3+5=8", "3+5 = 8", "8 = 3+5", "3+5=9"])
def test_a_result_counts_only_if_it_is_the_target(said):
    for target, numbers in ((8, [3, 5]), ("8", ["3", "5"]), (8.0, [3, 5])):
        assert verify(said, {"target": target, "numbers": numbers}).success == (said.replace(" ", "") == "3+5=8")
    assert verify("3+5+1=8", {"target": 8, "numbers": [3, 5]}, format_credit=0.1) == Verdict(False, 0.1)


def test_every_way_to_write_a_minus_or_a_quotient():
    for minus in "-\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d":
        assert verify(f"7{minus}3", {"target": 4, "numbers": [3, 7]}) == SOLVED
        assert verify(f"3{minus}7", {"target": 4, "numbers": [3, 7]}) == WRONG
        assert verify(f"{minus}3+7", {"target": 4, "numbers": [3, 7]}) == WRONG
    for quotient in ("/", "\u00f7", "\u2215", "\u2044", r"\div ", r" \div "):
        assert verify(f"6{quotient}3", {"target": 2, "numbers": [3, 6]}) == SOLVED
        assert verify(f"3{quotient}6", {"target": 2, "numbers": [3, 6]}) == WRONG


@given(st.text(alphabet="0123456789+-*/()= $\\[]\t\n\u00d7\u2212", max_size=40))
@settings(derandomize=True, deadline=None, max_examples=1000)
def test_the_plain_form_of_a_plain_form_is_itself_in_the_grammar(text):
    """If the text is accepted after `plain`, the numbers of the expression have exactly the digits of the text."""
    expression = parse(plain(text))
    if expression is not None:
        digits = "".join(letter for letter in text if letter.isdigit())
        assert "".join(map(str, expression.numbers)) == digits
        assert "=" not in text


@pytest.mark.parametrize(
    "answer",
    [
        *("", "8", "null", '{"numbers": [3, 5]}', {}),
        *({"numbers": [3, "x"], "target": 8}, {"numbers": "3 x", "target": 8}, {"numbers": [3, None], "target": 8}),
        *({"numbers": [3, 5], "target": None}, {"numbers": [3.5, 5], "target": 8}),
    ],
)
def test_a_malformed_answer_is_named(answer):
    with pytest.raises(ValueError, match=r"answer is .*; give numbers and target"):
        verify("3+5", answer)
