r"""Wrong final answers that are close to the reference, as pairs of the reference and a completion."""

import re

# The reference, and final answers that are wrong.
_WRITTEN: dict[str, list[str]] = {
    r"\frac{3}{4}": [r"\frac{4}{3}", r"-\frac{3}{4}", r"\frac{3}{5}", "0.7", "0.750001", "75", r"0.75\%", r"34", "3,4"],
    r"\frac{1}{3}": ["0.33", "0.333", "0.34", r"\frac{1}{2}", r"33\%", "3", "0.3"],
    r"25\%": ["0.025", r"2.5\%", r"0.25\%", r"\frac{25}{10}", r"\frac{1}{25}", "2.5", r"-25\%", r"52\%", "4"],
    r"150\%": ["15", "0.15", r"1.5\%", r"\frac{2}{3}", "1500"],
    "0.5": [r"0.5\%", r"5\%", "5", "0.05", r"\frac{2}{1}", "0.51", "-0.5", r"500\%"],
    r"\frac{1}{4}": [r"\frac{1}{4}\%", "25", "0.4", "4", r"2.5\%", r"\frac{2}{4}"],
    r"5\text{ cm}": [r"5\text{ m}", r"5\text{ cm}^2", r"5\text{ mm}", r"50\text{ cm}", "5 inches", "0.05", "-5"],
    r"3\text{ hours}": [r"3\text{ minutes}", "180", r"180\text{ seconds}", "3 days", "2"],
    r"12\text{ square feet}": [r"12\text{ feet}", r"12\text{ ft}^3", "12 inches", "144"],
    r"90^\circ": [r"\frac{\pi}{2}", r"9^\circ", "180", r"-90^\circ", r"90\text{ radians}"],
    r"\$5.50": ["550", r"\$5.05", r"5.50\text{ cents}", "5.5001", r"\$55", "5"],
    "(1,3)": ["(3,1)", "[1,3]", "(1,3]", "[1,3)", r"\{1,3\}", "(1,4)", "(-1,3)", "3,1", "(1,3,0)", "1", "13"],
    "[2,5]": ["[5,2]", "(2,5)", "(2,5]", "[2,5)", "[2,6]", r"\{2,5\}", "[-2,5]", "25", "2.5"],
    r"(-\infty,2)": [r"(2,\infty)", r"(-\infty,2]", r"(-\infty,-2)", r"(\infty,2)", r"(-2,\infty)", "2"],
    r"(-\infty,1)\cup(4,\infty)": ["(1,4)", r"(-\infty,1]\cup[4,\infty)", r"(-\infty,4)\cup(1,\infty)", r"(4,\infty)"],
    r"\{1,2,3\}": [r"\{1,2\}", r"\{1,2,4\}", "(1,2,3)", "123", r"\{1,2,3,4\}", "6", r"\{-1,2,3\}"],
    "1,-2": ["1,2", "-1,2", "1", "-2", "1,-2,3", "-1,-2", "1-2"],
    r"\pm 2": ["2", "-2", r"\pm 4", "4", r"\pm\sqrt{2}"],
    r"\sqrt{2}": [
        "2",
        "1.41",
        r"-\sqrt{2}",
        r"\sqrt{3}",
        r"\frac{1}{\sqrt{2}}",
        r"2\sqrt{2}",
        r"\sqrt[3]{2}",
        "1.4143",
    ],
    r"\pi": ["3.14", "3", r"2\pi", r"\frac{22}{7}", r"\pi^2", r"-\pi", "3.1415", r"\frac{\pi}{2}", "p"],
    "x^2+1": ["x^2-1", "x^2", "(x+1)^2", "y^2+1", "2x+1", "x^2+2", "-x^2-1", "x^3+1"],
    "2x+3": ["3x+2", "2x-3", "2(x+3)", "2x", "2y+3", "5x", "-2x-3"],
    r"\frac{x+1}{x-1}": [r"\frac{x-1}{x+1}", r"\frac{x+1}{x}", r"-\frac{x+1}{x-1}", "-1", r"x+1"],
    "x=3": ["2x=3", "x=-3", "y=3", "x=4", "4", "x=2,3", "x>3"],
    "x>3": ["x<3", r"x\ge 3", "x>4", "3", "y>3", r"x\le 3"],
    r"y=2x+1": ["y=2x-1", "x=2y+1", "y=x+1", "2x+1=0", "y=2x"],
    r"1+2\mathrm{i}": ["3", "1+2", r"1-2\mathrm{i}", r"2+\mathrm{i}", "1+2e"],
    r"3\mathrm{e}": ["3", r"3\mathrm{i}"],
    r"\mathbb{R}": [r"\mathbb Z", r"\mathbb R^2"],
    r"\frac{1}{23}": [r"\frac 1 2 3", r"\frac 2 3"],
    "9": ["x^2 + 3x = 9", "x^2 - 4 = 9", "4x = 9", "x = 4x = 9", r"i\infty", r"-\infty i", "10^{400}i", "9 + i"],
    "2i": ["-2i", "2", r"\sqrt{4}", "2j"],
    r"\frac{1}{2}": [r"\sin 60^\circ", r"\sin 30"],
    "3+4i": [r"\infty", r"\infty + i", "10^{999}", "3-4i", "4+3i", "7i", "-3+4i", "5", "3+4", "7"],
    "120_5": ["120_6", "121_5", "35_6", "210_5"],
    "-37_8": ["-37_9", "37_8", "-73_8"],
    "10": ["10_2", "10_{16}", "10_1", "1010_3"],
    "2:1": ["1:2", "2:3", "2:1:1", "21", "-2:1"],
    r"\text{Monday}": [r"\text{Tuesday}", "Sunday", r"\text{not Monday}", "Mondays", "1"],
    r"\text{east}": [r"\text{seat}", r"\text{west}", "eat", r"\text{south-east}"],
    r"\text{(B)}": [r"\text{(A)}", "C", r"\text{D}", r"\text{(AB)}", "8"],
    r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}": [
        r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}",
        r"\begin{pmatrix} 1 \\ -2 \end{pmatrix}",
        r"\begin{pmatrix} 1 & 2 \end{pmatrix}",
        r"\begin{pmatrix} 1 \\ 2 \\ 0 \end{pmatrix}",
        "3",
    ],
    "10^{-7}": ["0", "10^{7}", "10^{-8}", "-10^{-7}", "10"],
    "1,000,000": ["1,000", "100,000", "1,000,001", "10,000,000", "1.000"],
    "3": ["1 2", "3.1", "2", "-3", "33", r"\frac{1}{3}", "3,4", "03.3", r"3\pi", "3x", ""],
    "2^{10}": ["2^{11}", "10^2", "20", "1023", "1025", "2^{-10}"],
    r"\frac{1}{2004!}": [r"\frac{1}{2006!}", r"-\frac{1}{2004!}", "0", "2004!"],
    "2^{-2000}": ["2^{-1999}", r"1.001 \cdot 2^{-2000}", "0"],
    "e^{-1000}": ["e^{-900}", "0"],
    "0": ["10^{-400}", r"\frac{1}{0}"],
    "n!": ["(n-1)!", "n", "n^2", "(n+1)!"],
    r"\log_2 3": [r"\log_3 2", r"\log 3", "1.58", r"\log_2 4"],
    "2ab": ["2", "2cd", "2a", "2 apples", "2abc"],
    r"\sqrt{2}c": [r"\sqrt{2}", r"\sqrt{2}d", "c"],
    "a + b + c": ["a + b", "a + b + d", "a + b - c"],
    "east": ["seat", "west", "teas"],
    "no": ["on", "No one", "yes", r"\text{on}"],
    "cat": ["act", "Act", "cats", "dog"],
    "tan": ["ant", "nat", "red"],
    "six": ["xis", "ten", "5"],
    "top": ["pot", "opt", "bottom"],
    "pi": ["ip"],
    "x=no": ["x=on"],
    "cat, dog": ["act, god", "cat", "cat, dog, pig", "dog, cot"],
    "(cat, dog)": ["(act, dog)", "(dog, cat)"],
    "east, west": ["seat, west", "east, stew"],
    "2, top": ["2, pot"],
    "no solution": ["on solution", "solution no", "one solution"],
    "red cat": ["cat red", "red act"],
    "ab": ["a", "ac", "abb"],
    "xyz": ["xy", "xyw"],
    "3 1/2": ["31/2", "3", "1.5", "7"],
    "12": ["1 2", r"1\ 2"],
    r"\frac{2}{7}": [
        "3\N{MIDDLE DOT}\\frac{2}{7}",
        "x\N{SUPERSCRIPT TWO} + \\frac{2}{7}",
        r"]\frac{2}{7}",
        r"\frac{2}{7}\frac{1}",
    ],
    r"\infty": [r"-\infty", "0", "1"],
    "5": ["7 = 5", "x = 7 = 5", r"3 + 3 = 5", "4x=5", r"\frac{x}{2} = 5", "x + 1 = 5", "-x = 5"],
    "1e5": ["10000", "1e-5", "5", "15"],
    "1,2,10": [r"1,2,\ldots,10"],
    r"60\text{ mph}": [r"60\text{ km/h}", "60 km per hour", r"60\text{ miles}"],
    r"5\text{ m/s}": [r"5\text{ km/s}", r"5\text{ m}", "5 m/s^2"],
    r"5\text{cm^2}": [r"5\text{ cm}", "5 m", "5\N{SUPERSCRIPT TWO}"],
    "5 m": ["5 s", "5 h", "5 kg", "5s", "15m", "5km"],
    r"5\%": ["5 cm", "500"],
    r"0.\overline{3}": ["0.3", "0.33", "3"],
    "33\\frac{1}{3}": ["11", "33.3", r"\frac{34}{3}", r"33\frac{2}{3}", "33"],
}
# Whole completions: the right answer is not the final one.
_COMPLETIONS: list[tuple[str, str]] = [
    ("7", r"First \boxed{7}, but no: \boxed{8}."),
    ("7", r"The answer is 7. Therefore \boxed{6}"),
    ("7", r"<think>It is \boxed{7}.</think> So \boxed{9}."),
    ("7", r"<think>It is \boxed{7}.</think> I do not know."),
    ("7", r"<think>It is \boxed{7}, or"),
    ("7", "The answer is 7."),
    ("7", "#### 7\n#### 8"),
    ("7", r"\boxed{7} #### 8"),
    ("7", r"#### 7 \boxed{8}"),
    ("7", r"\boxed{7"),
    ("7", r"\boxed{}"),
    ("7", "####\n7"),
    ("7", ""),
    ("so\n#### 7", r"\boxed{8}"),
    ("5", "\\boxed{7}\n#### 5. Verification"),
    ("Verification", "\\boxed{7}\n#### Verification"),
    ("7", "\\boxed{7}\n#### Answer: 8"),
    ("7", "#### 7\n#### The answer is 8"),
    ("7", "#### Answer: east\n7"),
    ("7", "#### Answer\n7"),
]


def _changed(number: str) -> set[str]:
    """Return numbers that typical slips make of a number."""
    value = int(number)
    slips = {str(value + 1), str(value - 1), str(-value), str(10 * value), str(2 * value), number[::-1], f"{number}.5"}
    return {slip for slip in slips if int(float(slip)) != value or "." in slip}


def near_misses() -> list[tuple[str, str]]:
    """Return pairs of a reference and a completion whose final answer is wrong, in the same order at each call."""
    pairs = [(answer, said) for answer, wrong in _WRITTEN.items() for said in wrong]
    for number in ("12", "72", "204", "1024", "7", "365"):
        pairs += [(number, slip) for slip in sorted(_changed(number))]
    boxed = [(answer, rf"Therefore \boxed{{{said}}}.") for answer, said in pairs]
    hashes = [(a, f"So\n#### {s}") for a, s in pairs if re.fullmatch(r"-?[\d.,]+", s) and re.fullmatch(r"[\d,]+", a)]
    return [*boxed, *hashes, *_COMPLETIONS]
