r"""Count how many reference answers of prompt files the verifier `math` accepts, and how many nearly right answers.

    python -m tests.support.math_counts FILES...

A reference answer, put inside \boxed{}, is judged against itself; a reference solution against the row's answer.
"""

import sys
import time
from collections.abc import Iterable
from typing import Any

from rl.prompts import read_report
from rl.tasks.math_answers import final_answer, reference_answer
from rl.tasks.math_verifier import verify
from rl.verification import attempt
from tests.support.near_misses import near_misses

_SOLUTIONS = ("extra_info.answer", "solution", "orig_solution", "answer")
_SECONDS = 10.0


def pairs(file: str) -> list[tuple[str, str, Any]]:
    """Return (kind, completion, reference answer): from every row its answer and, if it has one, its solution."""
    report = read_report(file, others=None, skip_odd=True)
    for message in report.skipped:
        print(f"left out: {message}")
    found = []
    for answer, row in zip(report.pool.answers, report.others, strict=True):
        found.append(("answers", rf"\boxed{{{reference_answer(answer)}}}", answer))
        flat = {**row, **{f"extra_info.{name}": value for name, value in (row.get("extra_info") or {}).items()}}
        for name in _SOLUTIONS:
            text = flat.get(name)
            if isinstance(text, str) and final_answer(text) is not None:
                found.append((f"solutions in {name}", text, answer))
    return found


def count(rows: Iterable[tuple[str, str, Any]]) -> dict[str, tuple[int, int, list[str]]]:
    """Return, for answers and for solutions, how many are right, how many there are, and which ones are wrong."""
    found: dict[str, tuple[int, int, list[str]]] = {}
    for kind, completion, answer in rows:
        outcome, said = attempt(verify, completion, answer, _SECONDS)
        is_right = outcome == "verdict" and said.success
        right, of, wrong = found.get(kind, (0, 0, []))
        more = [] if is_right else [f"{reference_answer(answer)!r} | {final_answer(completion)!r} | {outcome}"]
        found[kind] = (right + is_right, of + 1, wrong + more)
    return found


def main(files: list[str]) -> None:
    """Print the counts of every file, and how many of the wrong answers in `near_misses` are accepted."""
    for file in files:
        start = time.perf_counter()
        for kind, (right, of, wrong) in count(pairs(file)).items():
            print(f"{file}: {right} of {of} {kind} are right ({100 * right / of:.2f}%)", *wrong[:10], sep="\n    ")
        print(f"    {time.perf_counter() - start:.1f} s")
    misses = near_misses()
    accepted = [(answer, said) for answer, said in misses if verify(said, answer)]
    print(f"{len(accepted)} of {len(misses)} near misses are accepted", *accepted, sep="\n    ")


if __name__ == "__main__":
    main(sys.argv[1:])
