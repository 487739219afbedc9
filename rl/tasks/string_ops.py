"""A mixture of string operations of very unequal difficulty.

A prompt is a two-letter name, three to five digits and `=`. Each of the 256 names ("families") stands for one of
eight operations. The policy has to name the operation and then apply it: `ac123=` asks for `B321` if `ac` means B,
reversal. A completion is correct if it names any operation and its digits are `321`.

The warm start trains on demonstrations before RL. Each correctly applies the operation that it names,
which can be a wrong one. How often it names the right operation depends on the family:

* Easy names (40%): always.
* Middle names (30%): the share of right demonstrations falls geometrically from 0.5 to 0.01 over these names. The other
  demonstrations show another operation. A policy that imitates them solves these prompts at about the same rates.
* Hard names (30%): in one of 500 demonstrations. At first the policy practically never solves these prompts.

Uniform training spends most of its rollouts on easy and hard names.
"""

import random
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

from rl.prompts import Demonstration, PromptPool, Task, Verdict

DIGITS = "0123456789"
LETTERS = "abcdefghijklmnop"


def _mapped(function: Callable[[int], int]) -> Callable[[str], str]:
    return lambda s: "".join(str(function(int(c)) % 10) for c in s)


OPERATIONS: dict[str, Callable[[str], str]] = {
    "A": lambda s: s,
    "B": lambda s: s[::-1],
    "C": lambda s: s[1:] + s[0],
    "D": lambda s: s[-1] + s[:-1],
    "E": _mapped(lambda d: d + 1),
    "F": _mapped(lambda d: 9 - d),
    "G": lambda s: s[0] * len(s),
    "H": lambda s: s[-1] * len(s),
}

FAMILIES = ["".join(pair) for pair in product(LETTERS, LETTERS)]
_rng = random.Random("string_ops families")
MEANING = {family: _rng.choice(list(OPERATIONS)) for family in FAMILIES}
"""The operation that each name stands for."""
MISTAKEN_FOR = {family: _rng.choice([o for o in OPERATIONS if o != MEANING[family]]) for family in FAMILIES}
"""The operation that wrong demonstrations show for each name."""

_shuffled = _rng.sample(FAMILIES, len(FAMILIES))
_NUM_EASY, _NUM_HARD = 102, 77
_NUM_MIDDLE = len(FAMILIES) - _NUM_EASY - _NUM_HARD
CORRECT_SHARE = (
    dict.fromkeys(_shuffled[:_NUM_EASY], 1.0)
    | {family: 0.5 * 0.02 ** (i / (_NUM_MIDDLE - 1)) for i, family in enumerate(_shuffled[_NUM_EASY:-_NUM_HARD])}
    | dict.fromkeys(_shuffled[-_NUM_HARD:], 0.002)
)
"""The share of right demonstrations for each name."""


_MOST_PROMPTS = 1_000_000  # of 3.6 million held-out prompts, because random draws find the last ones slowly


def _is_held_out(digits: str) -> bool:
    """Return whether the digits are held out: one string in eight is, for every family and seed."""
    return (int(digits) * 2654435761 + len(digits)) % 2**32 < 2**29


def _digits(rng: random.Random, *, held_out: bool) -> str:
    while True:
        digits = "".join(rng.choices(DIGITS, k=rng.randint(3, 5)))
        if _is_held_out(digits) == held_out:
            return digits


def _generate(num_prompts: int, rng: random.Random, *, held_out: bool) -> PromptPool:
    if not 1 <= num_prompts <= _MOST_PROMPTS:
        raise ValueError(f"num_prompts is {num_prompts}; give an integer from 1 to {_MOST_PROMPTS}")
    chosen: dict[str, str] = {}
    while len(chosen) < num_prompts:
        family, digits = rng.choice(FAMILIES), _digits(rng, held_out=held_out)
        chosen[f"{family}{digits}="] = OPERATIONS[MEANING[family]](digits)
    return PromptPool(list(chosen), list(chosen.values()), list(chosen))


def pool(num_prompts: int, seed: int) -> PromptPool:
    """Return training prompts with random families and digits."""
    return _generate(num_prompts, random.Random(f"string_ops pool {seed}"), held_out=False)


def held_out(num_prompts: int) -> PromptPool:
    """Return evaluation prompts, which are the same in every run; no pool or demonstration uses their digits."""
    return _generate(num_prompts, random.Random("string_ops held out"), held_out=True)


def demonstrations(seed: int) -> Iterator[Demonstration]:
    """Yield demonstrations of uniform families without end, each right with probability `CORRECT_SHARE[family]`."""
    rng = random.Random(f"string_ops demonstrations {seed}")
    while True:
        family, digits = rng.choice(FAMILIES), _digits(rng, held_out=False)
        operation = (MEANING if rng.random() < CORRECT_SHARE[family] else MISTAKEN_FOR)[family]
        yield Demonstration(f"{family}{digits}=", operation + OPERATIONS[operation](digits))


def verify(completion: str, answer: str) -> Verdict:
    """Judge a completion: solved if it is the name of an operation and then the answer, with nothing else."""
    success = completion[:1] in OPERATIONS and completion[1:] == answer
    return Verdict(success, float(success))


def check_answer(answer: Any) -> None:
    """Refuse a reference answer to which no completion is equal.

    Raises:
        ValueError: The answer is no text.
    """
    if not isinstance(answer, str):
        raise ValueError(f"the reference answer is {answer!r:.80}; give a text")


def make() -> Task:
    """Return the task; a completion has at most an operation, five digits and the end of sequence: 7 tokens."""
    alphabet = "=" + DIGITS + LETTERS + "".join(OPERATIONS)
    return Task("string_ops", alphabet, 7, pool, held_out, demonstrations, verify)
