r"""The verifier `math` on kinds of answers: right answers in other forms are accepted, and wrong ones are refused."""

import pytest

from rl.tasks.math_verifier import same_answer, verify

pytestmark = pytest.mark.slow

# By kind: the reference, right answers, wrong answers.
KINDS: dict[str, list[tuple[str, list[str], list[str]]]] = {
    "zero by calculation": [
        (
            zero,
            [
                *("5-5", r"\cos\frac{\pi}{2}", r"\sqrt{4}-2", r"\frac34-0.75", "3+4-7=0", r"\sin\pi", "(2-2)^2"),
                *(r"\ln e-1", "f(1)=1-1=0", "0.1+0.2-0.3", r"\sqrt{3+2\sqrt2}-1-\sqrt2", "0i", "i-i"),
            ],
            [
                *("10^{-9}", "10^{-400}", "0.000001", "5-4", "1-1=1", "3+4-7=1", r"\cos\pi", "0.1+0.2-0.30001"),
                *("x-1", "i", "10^{-400}i", r"\frac{1}{0}", r"\frac10", r"e^{-1000}"),
            ],
        )
        for zero in ("0", "1-1")
    ],
    "large numbers and decimals in expressions": [
        (
            "602000000000000000000000",
            ["6.02e+23", "6.02e23", r"6.02\times10^{23}", "6.02E23", r"602\times10^{21}"],
            ["6.03e23", "6.02e22", "602000000000000000000001", "601999999999999999999999"],
        ),
        ("6.02e23", ["6.02e+23", r"6.02\cdot 10^{23}"], ["6.03e23", "602000000000000000000001", "6.02"]),
        (r"12\times10^{23}", [r"1.2\times10^{24}"], [r"1.2\times10^{23}", r"1.20001\times10^{24}", r"12\times10^{24}"]),
        ("1000000000000000000000001", ["10^{24}+1"], ["10^{24}", "1.0e24", r"1.0\times10^{24}", "1e24"]),
        ("12345678901234567890.5", ["12,345,678,901,234,567,890.50"], ["12345678901234567891.5"]),
        ("123456789012345678901", ["123,456,789,012,345,678,901"], ["123456789012345678902"]),
        (r"\frac13", [r"33.3333333\%", "0.33333333"], [r"33.33\%", r"33\%", "0.33", "0.333"]),
        (r"\sqrt2", ["2^{0.5}", "1.414214", r"2\cdot 2^{-0.5}"], ["2^{0.51}", "1.4142", "2^{-0.5}"]),
        (r"\frac{\pi}{3}", [r"0.333333333\pi", "1.04719755"], [r"0.333\pi", "1.047", "0.333333333"]),
        (r"\pi", ["3.14159265", r"1.0\pi"], ["3.14", "3.1415"]),
    ],
}
CASES = [(kind, *case) for kind, cases in KINDS.items() for case in cases]


@pytest.mark.parametrize(("kind", "reference", "right", "wrong"), CASES)
def test_kinds_of_answers(kind, reference, right, wrong):
    assert [said for said in right if not same_answer(reference, said)] == [], f"{kind}: right"
    assert [said for said in wrong if same_answer(reference, said)] == [], f"{kind}: wrong"


@pytest.mark.parametrize("number", [6.02e23, 1e22, 1.5e300, 1e-10, 5e-324, 123456789012345678.0, 0.1, 1e16, -2.5e-7])
def test_a_float_accepts_its_own_text(number):
    assert verify(rf"\boxed{{{number!r}}}", number)
    assert not verify(rf"\boxed{{{1.001 * number!r}}}", number) or 1.001 * number == number
