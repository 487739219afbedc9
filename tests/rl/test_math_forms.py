r"""The verifier `math` on kinds of answers: right answers in other forms are accepted, and wrong ones are refused."""

import pytest

from rl.tasks.math_answers import final_answer
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
                *("x-1", "i", r"1.5\cdot10^{-400}", "10^{-400}i", r"\frac{1}{0}", r"\frac10", r"e^{-1000}"),
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
        (
            "3",
            ["3.0", r"1.5\cdot2", r"0.75\sqrt{16}", r"\log_{10}1000.0"],
            ["3.0000001", "2.9999999", r"299.9999999\%"],
        ),
        ("100000", ["100000.0", "1.0e5"], ["99999.9999999", "100000.3"]),
        (r"\pi", ["3.14159265", r"1.0\pi"], ["3.14", "3.1415"]),
    ],
    "words after a number": [
        (
            "5",
            [
                *("5 apples", "5 square meters", "5 people", "5 apples per day", "5 seconds", r"5\text{ square units}"),
                *("5 cups of tea", "5 in total", "5 times", "5 real roots", "5 months", "5 teeth", r"5\text{ people}"),
                *("5 meters long", "5 days a week", "5 dollars", r"5\text{ cm}", "5 more apples"),
            ],
            [
                *("5 million", "5 or more", "5 and a half", "5 squared", "5 factorial", "5 hundredths", "5 thirds"),
                *("5 is wrong", "5 below zero", "5 halves", "5 quarters", "5 plus x", "5 times x", "5 times two"),
                *("5 root three", "5 over x", "5 point five", "5 dozen", "5 percent off"),
                *("5 twenty-fourths", "5 cos theta", "5 feet and six inches", "5 thousandths", "5 degrees below zero"),
                *(
                    r"5\text{ or more}",
                    r"5\text{ million}",
                    r"5\text{ thirds}",
                    r"5\text{ squared}",
                    r"5\text{ is wrong}",
                ),
                *(
                    r"5\text{ and a half}",
                    r"5\text{ root three}",
                    "5 times ab",
                    "5 thousand two hundred",
                    "5 tenths of x",
                ),
            ],
        ),
        ("2", ["2hr", "2 gal", "2cm", "2 L"], ["2mo", "2pt", "2 mo", "2gal", "2ms", "2 ns", "2 kT", "2N", "2 N"]),
        ("2", ["2 apples"], ["2 root three", "2 root x", "2 to the power n", "2 ab", "2 cd", "2 xyz"]),
        ("12", ["12 eggs"], ["12 dozen", "12 hundred", r"12\text{ dozen eggs}"]),
        (
            "60",
            ["5 dozen", "5 dozen eggs", r"5\text{ dozen}", r"5\textbf{ dozen}", r"x = 5\text{ dozen}"],
            ["5", "6 dozen", "60 dozen"],
        ),
        ("1500000", ["1.5 million", r"1.5\text{ million}", r"\$1.5 million", "1,500 thousand"], ["1.5", "1.5 billion"]),
        (
            r"\$1.5",
            ["1.50 dollars"],
            [r"\$1.5 million", r"\$1.5\text{ billion}", r"\$1.5\text{M}", r"\$1.5\text{ k}", "1.5 thousand dollars"],
        ),
        (
            r"\$1.5 million",
            ["1500000", r"\$1{,}500{,}000", "1.5 million dollars"],
            [r"\$1.5", "1.5", r"1.5\text{ euros}"],
        ),
        ("5 million", ["5,000,000", r"5\times10^6", r"5\text{ million}"], ["5", "5 billion", "5 thousand"]),
        ("500000", ["5 hundred thousand", r"\frac12\text{ million}", r"\frac12 million"], ["5 hundred", "5 thousand"]),
    ],
    "units": [
        (
            r"5\text{ km}",
            [r"5\text{ km}", "5 km", "5", "5 kilometers", r"5\,\mathrm{km}"],
            [r"5\text{ nm}", "5 nm", "5 m"],
        ),
        (r"5\text{ N}", ["5", "5 N", "5 newtons", r"5\mathrm{N}"], [r"5\text{ J}", "5 J", r"5\text{ kN}", "5 joules"]),
        (r"5\text{ GHz}", ["5 GHz", "5 gigahertz", "5"], [r"5\text{ Hz}", "5 Hz", "5 MHz", "5 kilohertz"]),
        (r"5\text{ Pa}", ["5 pascals", "5"], [r"5\text{ kPa}", r"5\text{ atm}", r"5\text{ N}"]),
        (r"5\text{ mmol}", ["5 millimoles", "5"], [r"5\text{ mol}", "5 mol", r"5\text{ mmol/L}"]),
        (r"5\text{ A}", ["5 amperes", "5 amps"], [r"5\text{ mA}", r"5\text{ MA}", r"5\text{ V}"]),
        (r"5\text{ mA}", ["5 mA", "5 milliamps"], [r"5\text{ MA}", r"5\text{ A}"]),
        (
            r"5\text{ J}",
            [r"5\text{ joule}"],
            [r"5\text{ kWh}", "5 kWh", r"5\text{ cal}", r"5\text{ eV}", r"5\text{ W}"],
        ),
        (r"5\text{ ms}", ["5 milliseconds", "5 ms"], [r"5\text{ m}", r"5\text{ s}", "5 m"]),
        (r"5\text{ kg m/s}", ["5", r"5\text{ kg m / s}"], [r"5\text{ kg m}", r"5\text{ N}", r"5\text{ kg}"]),
        (
            r"5\text{ m}/\text{s}^2",
            ["5 m/s^2", "5", r"5\text{ m/s}^2"],
            [r"5\text{ m/s}", r"5\text{ m}\cdot\text{s}^2"],
        ),
        (r"5\text{ L}", ["5 liters", "5 L", r"5\text{ l}"], [r"5\text{ mL}", "5 milliliters", r"5\text{ lb}"]),
        (r"5\text{ cm}^2", [r"5\text{ sq. cm}", "5 square centimeters", r"5\text{ sq cm}"], [r"5\text{ cm}^3", "5 cm"]),
        (r"5\text{ p.m.}", ["5 pm", r"5\text{ PM}", "5"], [r"5\text{ a.m.}", "5 am"]),
        (r"5\text{ hrs}", ["5 hours", "5 h", r"5\text{ hr}"], [r"5\text{ min}", "5 hectares per h"]),
        (
            r"5\text{ units}",
            [
                "5",
            ],
            ["6 units"],
        ),
    ],
    "lists": [
        (
            "2,2,9",
            ["2,9,2", "9, 2, 2", "2, 2 and 9", r"2,\ 2,\ \frac{18}{2}"],
            ["2,9,9", "2,9", "2,2,2,9", "2,2,9,9", "9"],
        ),
        ("1,1,2", ["2,1,1", "1, 1, and 2"], ["1,2,2", "1,2", "1,1,1,2", "(1,2)", "x=1, y=2"]),
        ("2,2", ["2, 2", "2 and 2"], ["2", "2,2,2", r"\pm 2"]),
        (
            "1,-2",
            [r"\{1,-2\}", "-2,1", r"1\text{ and }-2", "1; -2", "x=1, x=-2", r"x=1\text{ or }x=-2"],
            ["1,1,-2", "1", "x=1"],
        ),
        (r"\{1,2\}", [r"\{2,1,1\}", "2,1"], [r"\{1,3\}", "(1,2)"]),
        (
            r"1\pm\sqrt2",
            [r"1+\sqrt2, 1-\sqrt2", r"1-\sqrt{2}, 1+\sqrt{2}", r"x=1\pm\sqrt2"],
            [r"1+\sqrt2", r"1\pm\sqrt3"],
        ),
        (r"\pm 1, 2", ["1,-1,2", "2, -1, 1", r"2, \pm 1"], ["1,2", "-1,2", "1,1,2"]),
        (r"\pm 2", ["2,-2", "\N{PLUS-MINUS SIGN}2", r"x=\pm 2"], ["2,2", "2", "-2,-2"]),
        (
            "(1,2),(3,4)",
            ["(3,4),(1,2)", r"\left(3,4\right), (1,2)"],
            ["(1,2)", "(2,1),(3,4)", "(1,2),(1,2),(3,4)", "1,2,3,4"],
        ),
        (r"0.5, \sqrt2", [r"\frac12, 1.414214"], [r"\frac12, 1.41", r"\frac12"]),
        ("1234", ["1,234", r"1\,234"], ["1,235", "1, 234, 1"]),
    ],
    "names with values": [
        (
            "x=1,y=2",
            ["(1,2)", "y=2, x=1", "1,2", r"x=1,\ y=2", r"x=1\text{ and }y=2"],
            ["(2,1)", "x=2,y=1", "2,1", "x=1"],
        ),
        (
            "(1,2)",
            [
                *(r"x=1,\ y=2", r"y=2,\ x=1", r"\begin{cases}x=1\\y=2\end{cases}", r"x=1, \quad y=2", "a=1, b=2"),
                *(r"\left\{\begin{array}{l}x=1\\y=2\end{array}\right.", r"\begin{aligned}x&=1\\y&=2\end{aligned}"),
            ],
            ["x=2, y=1", "y=1,x=2", r"\begin{cases}x=2\\y=1\end{cases}", "x=1,x=2", "x=1", "x=1,y=2,z=3", "x=1 or y=2"],
        ),
        (
            r"\begin{cases}x=1\\y=2\end{cases}",
            [r"x=1,\ y=2", "(1,2)", r"\begin{cases}y=2\\x=1\end{cases}", "x = 1 and y = 2"],
            ["(2,1)", r"x=2,\ y=1", "x=1", "x=1, z=2", r"\{1,2\}"],
        ),
        ("a=3, b=-1, c=0.5", [r"(3,-1,\frac12)", "c=0.5,b=-1,a=3"], ["(3,-1)", "(-1,3,0.5)", "a=3,b=1,c=0.5"]),
        ("x=1,x=2", ["1,2", "2,1", "x=2, x=1"], ["x=1,y=2,x=3", "x=1", "x=1,x=3"]),
    ],
    "dates and numerals": [
        (
            "2023-01-02",
            ["2023-01-02", r"\text{2023-01-02}", r"2023-01-02."],
            ["2020", "2023-02-01", "2022-01-02", "2023-1-2-0"],
        ),
        ("2020", ["2,020", "2021-1"], ["2023-01-02", "2023/01/02"]),
        ("1/2/2023", ["1/2/2023"], [r"\frac{1}{4046}", "2/1/2023"]),
        ("0xFF", ["0xff", "0xFF", r"\text{0xFF}"], ["0", "255", "0xFE", "0x"]),
        ("0", ["0x", "0-0"], ["0xFF", "0b101", "0x0A"]),
        (
            "5 January",
            ["5 january", r"5\text{ January}", r"\text{5 January}"],
            ["5", "5 June", "6 January", "5 Jan 2020"],
        ),
        ("5", ["5 days"], ["5 January", r"5\text{ May}", "5 March 2020", "May 5"]),
        ("January 2, 2023", ["january 2, 2023", r"\text{January 2, 2023}"], ["2", "2,2023", "January 3, 2023", "2023"]),
        ("5", ["10-3-2", "2023-2018"], ["2023-10-3"]),
    ],
    "fonts": [
        (
            "5",
            [
                *(
                    r"\mathbf{5}",
                    r"\boldsymbol{5}",
                    r"{\bf 5}",
                    r"\bm{5}",
                    r"\underline{5}",
                    r"\color{red}5",
                    r"\Large 5",
                ),
                *(r"{\color{red}5}", r"\textcolor{red}{5}", r"\mathbf{\underline{5}}", r"\bf{5}", r"x=\mathbf{5}"),
                *(r"5\rm cm", r"5\,{\rm cm}", r"\boldsymbol{\frac{10}{2}}", r"\displaystyle 5", r"{\Huge\bf 5}"),
            ],
            [
                *(
                    r"\mathbf{6}",
                    r"{\bf 55}",
                    r"\overline{5}5",
                    r"\color{red}55",
                    r"\mathbf{5}^\mathbf{2}",
                    r"-\mathbf{5}",
                ),
                *(r"\bm{5}x", r"\cancel{5}6", r"5\rm\pi", r"\bar{5}x"),
            ],
        ),
        ("2.5", [r"\mathbf{2.5}", r"\bm{\frac52}"], [r"\mathbf{2}.\mathbf{6}", r"\mathbf{25}"]),
        (
            r"\frac12",
            [r"\frac{\mathbf{1}}{\mathbf{2}}", r"\mathbf{\frac{1}{2}}"],
            [r"\mathbf{\frac21}", r"\mathbf{12}"],
        ),
        (r"\mathbb{Z}", [r"\mathbb Z"], [r"\mathbf{5}", r"\mathbb{N}"]),
        ("{5,6}", ["5,6"], ["5", "6"]),
    ],
    "shorthands of LaTeX": [
        (
            r"\sqrt[3]{2}",
            [r"\sqrt[3]2", r"\sqrt [3] {2}", "2^{1/3}"],
            [r"\sqrt[3]3", r"\sqrt[2]2", r"\sqrt2", r"3\sqrt2"],
        ),
        (r"\sqrt[3]{2}x", [r"\sqrt[3]2x"], [r"\sqrt[3]{2x}"]),
        (r"x\equiv3\pmod{5}", [r"x\equiv3\pmod5", r"x \equiv 3 \pmod 5"], [r"x\equiv3\pmod7", r"x\equiv2\pmod5"]),
        (r"\{1,2\}", [r"\lbrace 1,2\rbrace", r"\left\lbrace2,1\right\rbrace"], [r"\lbrace 1,3\rbrace", "(1,2)"]),
        (
            r"\arctan 2",
            [r"\operatorname{arctan} 2", r"\operatorname{arctan}(2)"],
            [r"\operatorname{arcsin}2", r"\tan2"],
        ),
        (r"\frac{\pi}{4}", [r"\operatorname{arctan}1", r"\mathrm{arctan}(1)"], [r"\operatorname{tan}1"]),
        (r"\bigl(1,2\bigr)", ["(1,2)", r"\Big(1,2\Big)"], [r"\bigl(2,1\bigr)"]),
    ],
    "characters of Unicode": [
        ("10^{-3}", ["10\u207b\u00b3", "0.001"], ["10\u00b3", "10\u207b\u00b2", "10-3"]),
        ("10^{23}", ["10\u00b2\u00b3"], ["10\u00b2", "10\u00b3\u00b2", "1023"]),
        ("6.02 \\times 10^{23}", ["6.02\u00d710\u00b2\u00b3"], ["6.02\u00d710\u00b2\u2074"]),
        ("x^4", ["x\u2074"], ["x\u00b3", "x4", "x\u2084"]),
        ("x_1+x_{12}", ["x\u2081+x\u2081\u2082"], ["x\u2081+x\u2081\u2081", "x\u00b9+x\u00b9\u00b2"]),
        ("120_5", ["120\u2085"], ["120\u2086", "120\u2075"]),
        ("-12", ["\uff0d\uff11\uff12", "\u201312", "\u201112", "\u221212"], ["\uff11\uff12", "\uff0d\uff11\uff13"]),
        ("(1,2)", ["\uff081\uff0c2\uff09"], ["\uff082\uff0c1\uff09"]),
        ("x-3", ["x \u2013 3", "x\uff0d3"], ["x+3", "-3"]),
        ("-2", ["\u20132"], ["3\u20135"]),
        ("(0,1]", ["x \u2208 (0,1]", "x\u2208(0,1]"], ["x \u2208 [0,1]", "x \u2208 (0,2]"]),
        ("5\\text{ cm}^2", ["5 cm\u00b2", "5\\text{ cm}\u00b2"], ["5 cm\u00b3"]),
    ],
    "choices": [
        (
            "A",
            [
                "(A) 5",
                r"\textbf{(A)}~5",
                "A. 5",
                "A)",
                "Option A",
                r"\text{Option A}",
                "(A)",
                r"\textbf{(A) }5",
                "A) x=5",
                "A.",
            ],
            [
                "(B) 5",
                r"\textbf{(B)}~5",
                "C. 5",
                "B)",
                "Option B",
                "5",
                "(A) + 5",
                r"(A) \cdot 5",
                "A.5",
                "2A",
                "A5",
                "AB",
                "A, B",
            ],
        ),
        ("C", ["C. 5", r"\textbf{C}", r"\mathbf{C}", "Choice C"], ["(C) - 5", "C = 5", "D. C", "5 C", "C. D"]),
        ("C", [r"\text{C. None of these}", r"\text{(C) 5 and 6}"], ["(C) and (D)", "(C) 1 (D) 2", "C. or D.", "C) D)"]),
        ("C", [r"\text{(C)}\ \text{red}"], [r"\text{(C)}\text{ and }\text{(D)}", r"\text{(C) or (D)}", "C. 5, D. 6"]),
        (r"\text{(B)}", ["B. 12", "option B", r"\mathrm{(B)}\ 12"], ["(A) B", r"\text{(AB)}"]),
        (
            r"\textbf{(B)}\ 12",
            ["B", "12", "(B)", r"\text{B}", r"\textbf{(B)}\ 12", "(B) 12", r"\text{(B) }12", "x = 12"],
            ["A", "13", r"\textbf{(A)}\ 12", "(B) 13", r"\textbf{(C)}", "12B", "Option C", "B12"],
        ),
        ("5", ["(A) 5", "C. 5", r"\textbf{(A)}~5"], ["(A) 6", "Option E", "(A) + 5", "A.5", "(A) 5x", "(A)5"]),
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


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        *((rf"So \boxed{said}", said) for said in ("7", "-7", "72", r"\pi", r"\frac{1}{2}")),
        *((f"#### 8{end}", "8") for end in ("</s>", "<|im_end|>", " <|eot_id|>", "</s></s>", "<|im_end|>\n", "<eos>")),
        ("$\\boxed7$ is it", "7"),
        ("#### east<|im_end|>", "east"),
        ("#### 8<|im_end|>\n<|im_start|>user", "8"),
        ("\\boxed{5}<|im_end|>", "5"),
        ("\\boxed{5} in a \\boxed. Done", "5"),
        ("\\boxed{5} in a \\(\\boxed\\)", "5"),
        ("#### 1 < 2", "1 < 2"),
    ],
)
def test_boxes_without_braces_and_marks_of_the_end(completion, answer):
    assert final_answer(completion) == answer


def test_a_box_without_braces_and_marks_of_the_end_make_no_other_answer():
    assert not verify(r"\boxed7", 8)
    assert not verify("#### 8</s>", 7)
    assert not verify("#### 8<|im_end|>", 82)
