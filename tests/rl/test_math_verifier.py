r"""The verifier `math` on right answers in other forms, and on wrong answers that are close.

`python -m tests.support.math_counts FILES` counts the accepted reference answers and near misses of prompt files.
"""

import time

import pytest

from rl.tasks.math_answers import final_answer, parts, reference_answer
from rl.tasks.math_verifier import same_answer, verify
from rl.verification import Verifier
from rl.verifiers import OWN_PROCESS, find_verifier
from tests.support.near_misses import near_misses

pytestmark = pytest.mark.slow

# Other forms of an answer that are right.
RIGHT = {
    r"\frac{3}{4}": ["0.75", r"\dfrac34", "3/4", r"75\%", r"\tfrac{6}{8}", r"$\frac{3}{4}$", r"\( \frac{3}{4} \)"],
    r"\frac{1}{3}": ["0.333333", r"\frac{2}{6}", "1/3"],
    r"25\%": ["25", "0.25", r"\frac14", "25%", r"25 \%", "25 percent"],
    "25": [r"25\%", "25.0", "25.", r"25\text{ apples}", "x=25", r"\$25"],
    r"5\text{ cm}": ["5", "5 centimeters", r"5\,\mathrm{cm}", "5 cm"],
    r"5\text{ m}": ["5m", "5 m", "5"],
    "3 hours": [r"3\text{ hour}", "3", r"\text{3 hours}"],
    r"12\text{ square feet}": [r"12\text{ ft}^2", "12"],
    r"90^\circ": ["90", r"90^{\circ}", r"90\text{ degrees}", "90°"],
    r"\$5.50": ["5.5", r"5.50\text{ dollars}", "$5.50"],
    "(1,3)": ["( 1, 3 )", r"\left(1, \frac{6}{2}\right)"],
    "[2,5]": [r"\left[2,5.0\right]", r"x \in [2,5]", r"2 \le x \le 5"],
    r"(-\infty,1)\cup(4,\infty)": [r"(4,\infty)\cup(-\infty,1)"],
    r"\{1,2,3\}": ["3,2,1", r"\{3,1,2\}"],
    "1,-2": ["-2, 1", r"\{1,-2\}"],
    r"\pm 2": ["2,-2", "-2, 2"],
    "1,000,000": ["1000000", "1{,}000{,}000", r"1\,000\,000", "10^6"],
    "x^2+1": ["1+x^2", "1 + x^{2}"],
    "(x+1)^2": ["x^2+2x+1"],
    "y=2x+1": ["2x+1", "y = 1+2x"],
    "3+4i": ["4i+3", r"3+4\mathrm{i}", r"3 + 4\mathrm i"],
    r"2e^{\pi i/3}": [r"2\mathrm{e}^{\pi\mathrm{i}/3}"],
    r"\mathbb{R}": [r"\mathbb R", "\N{DOUBLE-STRUCK CAPITAL R}"],
    r"\frac{1}{2}": [r"\frac 1 2", r"\dfrac 1 2", r"\frac 12", r"\frac 1{2}"],
    r"\log_{2} 3": [r"\log_2 3", r"\log_2{3}", r"\frac{\ln 3}{\ln 2}"],
    r"\log_2 3": [r"\log_{2} 3", r"\frac{\ln 3}{\ln 2}"],
    "3": [r"\log_2 8", r"\log_{2} 8"],
    "200": ["2^3 5^2", "2^{3} 5^{2}"],
    r"\text{甲}": ["甲"],
    "甲": [r"\text{甲}"],
    r"\text{Gödel}": ["Gödel", "gödel", "\\textbf{Go\N{COMBINING DIAERESIS}del}"],
    "हिन्दी": [r"\text{हिन्दी}"],
    r"\frac{a}{b}": [r"\frac a b", r"\frac ab"],
    r"\frac{1}{2004!}": [r"\frac{2005}{2005!}"],
    "2^{-2000}": ["4^{-1000}", r"\frac{1}{2^{2000}}"],
    r"3\mathrm m": ["3", r"3\text{ m}"],
    "120_5": ["120_{5}", "120"],
    "-37_8": ["-37_{8}", "-37"],
    "10": ["1010_2", "10_{10}", "A_{16}"],
    "2x=3": ["2x = 3"],
    "2i": [r"\sqrt{-4}", "i + i"],
    "-1": ["i^2", r"e^{i\pi}"],
    r"i\sqrt{3}": [r"\sqrt{-3}"],
    r"\frac12": [
        r"\sin 30^\circ",
        r"\cos(60^{\circ})",
        r"\sin{30}^\circ",
        r"\sin\left(30\right)^\circ",
        r"\sin{30^\circ}",
    ],
    r"\sin 10^\circ": [r"\sin(10)^\circ", r"\sin\left(10\right)^\circ", r"\sin{10}^{\circ}", r"\sin(10^\circ)"],
    r"\cos 25^\circ": [r"\cos(20+5)^\circ", r"\cos{25}^\circ"],
    "2:1": ["2 : 1"],
    r"\text{Monday}": ["Monday", r"\text{ monday }", r"\textbf{Monday}"],
    r"\text{A, C}": ["A,C", r"\text{A,C}"],
    "2^{4181}": [r"2 \cdot 2^{4180}"],
    r"\text{(B)}": ["B", r"\text{B}"],
    r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}": [r"\begin{bmatrix}1\\ 4/2\end{bmatrix}"],
    "10^{-7}": ["0.0000001"],
    r"\frac{\sqrt3}{3}": [r"\frac{1}{\sqrt3}"],
    r"33\frac{1}{3}": [r"\frac{100}{3}"],
    "055": ["55", r"\textbf{(55) }"],
    "3.14": [r"\frac{22}{7} = 3.14"],
    r"50\%": [r"\frac12=50\%"],
    "5": [
        "=5",
        "2 + 3 = 5",
        "f(2) = 5",
        "x + y = 5",
        "2f(3) = 5",
        r"\sin x + 1 = 5",
        "2^x + 1 = 5",
        r"|x| + 1 = 5",
        r"\angle ABC = 5",
        "P = 4s = 5",
        "A = s^2 = 5",
        "r^2 = 5",
        r"x + \frac{1}{x} = 5",
        "**5**",
        "`5`",
        "5th",
        r"5^{\text{th}}",
        r"$5^\mathrm{th}$",
        "5\\ ",
        "5 \\\\",
        "5\\\\\\\\",
        r"\mathbf 5",
        r"\mathbf5",
        r"\approx 5",
        r"\therefore x = 5",
        "\N{ALMOST EQUAL TO}5",
    ],
    "2 1/2": ["2.5", r"\frac52", "2 1/2", r"2\frac{1}{2}"],
    "True": ["true", "TRUE", r"\text{true}"],
    r"\emptyset": [r"\varnothing"],
    r"71.\overline{3}": [r"\frac{214}{3}", r"71\frac{1}{3}", "71.333333"],
    r"11,\! 111,\! 111,\! 100": ["11111111100", "11,111,111,100"],
    "60 km/h": ["60", r"60\text{ km/h}", "60 kilometers per hour"],
    "\N{EURO SIGN}5": ["5", "5 euros"],
    "a + b + c": ["c+b+a"],
    r"2\sqrt{2}": ["2\N{SQUARE ROOT}2", "\N{SQUARE ROOT}8", "\N{SQUARE ROOT}(8)", "2\N{MIDDLE DOT}\N{SQUARE ROOT}2"],
    r"\infty": [r"+\infty", "infinity", "\N{INFINITY}"],
    "1e5": ["100000", "100,000", "10^5", "1.0e+5"],
    "x^2": ["x\N{SUPERSCRIPT TWO}"],
    r"\frac{5}{2}": ["2\N{VULGAR FRACTION ONE HALF}"],
    r"(-\infty,1)\cup(4,5)": ["(\N{MINUS SIGN}\N{INFINITY},1)\N{UNION}(4,5)"],
    "6ab": ["6ba"],
    "ab": ["ba", r"a \cdot b", "b a"],
    "xyz": ["zyx", "yxz"],
    "abc": ["cab", "cba"],
    "at": ["ta"],
    "no": ["No", r"\text{no}", "NO"],
    "Yes": ["yes"],
    "cat, dog": ["dog, cat", "dog and cat", r"\text{cat}, \text{dog}"],
    r"\{cat, dog\}": [r"\{dog, cat\}"],
    "x = no": ["no"],
    "no solution": ["No Solution", r"\text{No solution}"],
    "ab, no": ["ba, no"],
}
COMPLETIONS = [
    (r"It was \boxed{6}. No: \boxed{7}", 7),
    (r"<think>\boxed{6}</think> \boxed{7}", "7"),
    ("7 is it.\n#### 7", "7"),
    ("#### 1,234 ", "So 1000 + 234\n#### 1234"),
    (r"\boxed{6}" + "\n#### 7", "7"),
    (r"#### 6 \boxed{7}", ["7"]),
    (r"\fbox{\frac{1}{2}}", r"Half, so $\boxed{\frac{1}{2}}$."),
    (r"\boxed 7", 7.0),
    ("#### **7**", "7"),
    ("**#### 7**", "7"),
    ("#### Answer: 7", 7),
    ("#### The answer is 7.", 7),
    ("\\boxed{7}\n\n#### Verification", 7),
    ("\\boxed{7}\n#### ", 7),
    ("#### east\n#### ", "east"),
    (r"\boxed{10000000000000000}", 1e16),
    (r"\boxed{1.5 \times 10^{-7}}", 1.5e-7),
    (r"\boxed{\{x \mid x > 7\}}", r"\{x \mid x > 7\}"),
]


@pytest.mark.parametrize("reference", RIGHT)
def test_other_forms_of_an_answer_are_right(reference):
    wrong = [said for said in [reference, *RIGHT[reference]] if not verify(rf"So \boxed{{{said}}}.", reference)]
    assert wrong == []


@pytest.mark.parametrize(("completion", "answer"), COMPLETIONS)
def test_the_last_answer_counts(completion, answer):
    assert verify(completion, answer)


@pytest.mark.slow
def test_no_near_miss_is_right():
    misses = near_misses()
    accepted = [pair for pair in misses if verify(pair[1], pair[0])]
    print(f"{len(accepted)} of {len(misses)} near misses are accepted")
    assert accepted == []
    assert len(set(misses)) >= 200


@pytest.mark.slow
def test_the_near_misses_are_wrong_for_no_other_reason_than_their_answer():
    """The right answer in the same form is accepted. Otherwise a verifier that refuses everything would pass."""
    references = {answer for answer, _ in near_misses()}
    assert [answer for answer in references if not verify(rf"\boxed{{{reference_answer(answer)}}}", answer)] == []


@pytest.mark.parametrize("number", [-3, 0, 1, 17, 1000, 123456])
def test_whole_numbers_are_equal_exactly_if_they_are_the_same_number(number):
    for other in range(number - 2, number + 3):
        assert same_answer(str(number), f"{other:,}") == (other == number)
        assert same_answer(str(number), rf"\frac{{{3 * other}}}{{3}}") == (other == number)


@pytest.mark.parametrize("answer", [None, ["1", "2"], [], {"value": "1"}])
def test_an_answer_that_is_not_one_text_or_number_is_refused(answer):
    with pytest.raises(ValueError, match="give one text or number"):
        verify(r"\boxed{1}", answer)


def test_parts_of_an_answer():
    assert parts(r"12\text{ square feet}")[:2] == ("12", "ft^2")
    assert parts(r"5\% ").percent
    assert parts("3 apples")[:2] == ("3", "")
    assert [parts(text).value for text in ("2x", "2xy", "x^{2}yz", "2c", "2 ab")] == [
        "2x",
        "2xy",
        "x^{2}yz",
        "2c",
        "2 ab",
    ]
    assert [parts(text).unit for text in ("5 m", r"5\text{cm^2}", "60 mph", "9 m/s^2")] == [
        "m",
        "cm^2",
        "mi/h",
        "m/s^2",
    ]
    assert final_answer(r"\boxed{a \} b}") == r"a \} b"


@pytest.mark.slow
def test_a_verifier_that_hangs_is_killed_and_the_next_completion_is_judged():
    """SymPy computes this power in compiled code, which no signal interrupts."""
    assert "math" in OWN_PROCESS
    hanging = r"\boxed{7^{10^9} - 7^{10^9} + \frac{10^9!}{3}}"
    start = time.monotonic()
    # the first answer of a new process takes a second on a busy machine
    with Verifier(find_verifier("math"), timeout=4.0, own_process=True) as verifier:
        found = verifier([hanging, r"\boxed{7}"], ["2", "7"], ["a", "b"])
        counts = verifier.take_counts()
    assert time.monotonic() - start < 60
    assert found[1] is not None
    assert found[1].success
    assert found[0] is None or not found[0].success
    assert counts["train/verifier_timeouts"] == (found[0] is None)


@pytest.mark.parametrize(
    "text", ["", "{", r"\boxed{" * 50, r"\boxed{\frac{}}", r"\boxed{(}", r"\boxed{,}", r"\boxed{x_}"]
)
def test_odd_texts_are_wrong_and_raise_nothing(text):
    assert not verify(text, "3")
