r"""Lists of answers: which items they have, and values with names, such as `x=1, y=2`, as a tuple.

A list without braces says how often an item occurs, such as a double root; a set in braces does not. A list of names
with a value each is the tuple of the values in the alphabetical order of the names.
"""

import re
from collections.abc import Callable

from rl.tasks.math_typography import plain

_AND = r"\\(?:text|textrm|mathrm|mbox)\s*\{\s*,?\s*and\s*\}|(?<![A-Za-z\\])and(?![A-Za-z])"
_OR = _AND.replace("and", "or")
_ENVIRONMENT = re.compile(
    r"(?:\\\{)?\s*\\begin\{(cases|array|aligned)\}(?:\{[lcr|]*\})?(.*)\\end\{\1\}\s*(?:\\right)?\.?", re.DOTALL
)
_ASSIGNED = re.compile(r"([A-Za-z])(?:_\{?(\w)\}?)?\s*&?\s*=\s*([^=]+)")
_RELATION = re.compile(
    r"[<>]|\\(?:leq?|geq?|neq?|in|to|cup|cap|l?dots|cdots|begin|\{)(?![A-Za-z])|\.\.\.|\N{HORIZONTAL ELLIPSIS}"
)
_MOST_ITEMS = 64


def as_tuples(reference: str, said: str) -> tuple[str, str] | None:
    """Return two answers with tuples in place of names with values; None if neither has any.

    A list without brackets beside them is in their order. Other names than the reference's make another answer.
    """
    left, right = _assigned(reference), _assigned(said)
    if left is None and right is None:
        return None
    if left is not None and right is not None and left.keys() != right.keys():
        return reference, ""
    return _as_tuple(reference, left, right), _as_tuple(said, right, left)


def same_items(gold: str, own: str, equal: Callable[[str, str], bool]) -> bool | None:
    """Return whether two lists without braces have the same items equally often; None if they are no such lists."""
    if _RELATION.search(gold) or _RELATION.search(own):
        return None
    left, right = _items(gold), _items(own)
    if left is None or right is None or len(left) == len(right) == 1:
        return None
    if len(left) != len(right):
        is_long_number = 1 in (len(left), len(right)) and re.search(r"\d,\d{3}(?!\d)", gold + " " + own)
        return None if is_long_number or _may_be_as_long(left, right) or _may_be_as_long(right, left) else False
    if len(left) > _MOST_ITEMS:
        return None
    for item in left:
        found = next((other for other in right if other == item), None) or next(
            (other for other in right if equal(item, other)), None
        )
        if found is None:
            return False
        right.remove(found)
    return True


def _as_tuple(text: str, own: dict[tuple[str, str], str] | None, other: dict[tuple[str, str], str] | None) -> str:
    if own is not None:
        return f"({', '.join(own[name] for name in sorted(own))})"
    items = _split(plain(text), rf",|;|{_AND}")
    return f"({', '.join(items)})" if other and items and len(items) == len(other) > 1 else text


def _assigned(text: str) -> dict[tuple[str, str], str] | None:
    """Return the values of two or more different names; None if an answer is anything else."""
    bare = re.sub(r"\\q?quad(?![A-Za-z])", " ", plain(text))
    if bare[:1] == "(" and bare[-1:] == ")":
        bare = bare[1:-1]
    match = _ENVIRONMENT.fullmatch(bare.strip())
    bare = match[2].replace("&", " ") if match else bare
    items = [item for item in _split(bare, rf",|;|\\\\|{_AND}") or [] if item]
    found = [_ASSIGNED.fullmatch(item) for item in items]
    values = {(one[1], one[2] or ""): one[3].strip() for one in found if one}
    return values if len(values) == len(items) > 1 else None


def _items(text: str) -> list[str] | None:
    """Return the items of a list without braces, with both values of a double sign; None if there are none."""
    items = _split(text, rf",|;|{_AND}|{_OR}")
    if items is None or "" in items or any(len(re.findall(r"\\pm", item)) > 1 for item in items):
        return None
    return [one for item in items for one in _signs(item)]


def _may_be_as_long(bracketed: list[str], other: list[str]) -> bool:
    """Return whether a list is one pair of brackets with as many items inside as another, or plain braces."""
    if len(bracketed) != 1 or bracketed[0][:1] not in ("(", "[", "{"):
        return False
    return bracketed[0][0] == "{" or len(_items(bracketed[0][1:-1]) or other) == len(other)


def _signs(item: str) -> list[str]:
    if not re.search(r"\\(?:pm|mp)(?![A-Za-z])", item):
        return [item]
    return [
        re.sub(r"\\(pm|mp)(?![A-Za-z])", lambda sign, plus=plus: "+" if (sign[1] == "pm") == plus else "-", item)
        for plus in (True, False)
    ]


def _split(text: str, separator: str) -> list[str] | None:
    """Return the parts of a text between separators outside of all brackets; None if brackets do not match."""
    found, depth, start = [], 0, 0
    for mark in re.finditer(rf"(?P<end>{separator})|(?P<open>\\?[({{\[])|(?P<close>\\?[)}}\]])", text):
        depth += (mark["open"] is not None) - (mark["close"] is not None)
        if depth < 0:
            return None
        if mark["end"] is not None and depth == 0:
            found.append(text[start : mark.start()].strip())
            start = mark.end()
    if depth:
        return None
    parts = [*found, text[start:].strip()]
    # "1, 2, and 3" has two separators in a row
    return [part for place, part in enumerate(parts) if part or place in (0, len(parts) - 1)]
