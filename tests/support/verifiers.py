"""Verifiers that users might write. The module imports little, so that a process that imports it starts quickly."""

from typing import Any

from rl.prompts import Verdict


def boolean(completion: str, answer: str) -> bool:
    return completion == answer


def number(completion: str, answer: str) -> int:
    return int(completion == answer)


def verdict(completion: str, answer: str) -> Verdict:
    return Verdict(completion == answer, 0.5)


def begins_with(completion: str, answer: str) -> Verdict:
    success = completion[:1] == answer
    return Verdict(success, float(success))


def with_unit(completion: str, answer: str, unit: str, sign: str = "") -> bool:
    return completion == f"{sign}{answer} {unit}"


def with_all(completion: str, answer: str, **columns: Any) -> bool:
    return completion == ",".join(sorted(columns))


def with_own_names(text: str, label: str, **columns: Any) -> bool:
    return text == ",".join([label, *sorted(columns)])


def by_position(text: str, label: str, /, **columns: Any) -> bool:
    return text == ",".join([label, *sorted(columns)])


def with_keyword(text: str, label: str, *, answer: str) -> bool:
    return text == f"{label},{answer}"


def of_one(completion: str) -> bool:
    return bool(completion)


not_a_function = 3


def starts_low(completion: str, answer: str) -> bool:
    return completion[:1] < "a"
