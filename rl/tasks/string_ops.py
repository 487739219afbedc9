"""A mixture of string operations of very unequal difficulty.

A prompt is a two-letter name, three to five digits and `=`. Each of the 256 names ("families") stands for one of
eight operations. The policy has to say which one, then carry it out: `ac123=` asks for `B321` if `ac` means B,
reversal. Only the digits are judged.

The warm start shows every operation carried out right, and the meaning of the names unequally:

* easy names (40%) are always shown right;
* middle names (30%): the share of right demonstrations falls geometrically from 0.5 to 0.01, the others mistake the
  name for another operation. A policy that imitates them solves these prompts about that often;
* hard names (30%) are shown right once in five hundred times: at first, in practice, never solved.

Uniform training spends most of its rollouts on the first and the last.
"""

import random
from collections.abc import Callable, Iterator
from itertools import product

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
"""The operation that a name stands for."""
MISTAKEN_FOR = {family: _rng.choice([o for o in OPERATIONS if o != MEANING[family]]) for family in FAMILIES}
"""The operation that wrong demonstrations show."""

_shuffled = _rng.sample(FAMILIES, len(FAMILIES))
_NUM_EASY, _NUM_HARD = 102, 77
_NUM_MIDDLE = len(FAMILIES) - _NUM_EASY - _NUM_HARD
CORRECT_SHARE = (
    dict.fromkeys(_shuffled[:_NUM_EASY], 1.0)
    | {family: 0.5 * 0.02 ** (i / (_NUM_MIDDLE - 1)) for i, family in enumerate(_shuffled[_NUM_EASY:-_NUM_HARD])}
    | dict.fromkeys(_shuffled[-_NUM_HARD:], 0.002)
)
"""The share of a family's demonstrations that are right."""


_MOST_PROMPTS = 1_000_000  # of some 3 million held-out ones; random draws find the last ones slowly


def _is_held_out(digits: str) -> bool:
    """One string of digits in eight belongs to the held-out set, whatever the family and the seed."""
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
    """Training prompts, families and digits at random."""
    return _generate(num_prompts, random.Random(f"string_ops pool {seed}"), held_out=False)


def held_out(num_prompts: int) -> PromptPool:
    """Evaluation prompts, the same in every run, of digits that no pool and no demonstration uses."""
    return _generate(num_prompts, random.Random("string_ops held out"), held_out=True)


def demonstrations(seed: int) -> Iterator[Demonstration]:
    """Endless demonstrations, families uniform, right with the probability `CORRECT_SHARE` of the family."""
    rng = random.Random(f"string_ops demonstrations {seed}")
    while True:
        family, digits = rng.choice(FAMILIES), _digits(rng, held_out=False)
        operation = (MEANING if rng.random() < CORRECT_SHARE[family] else MISTAKEN_FOR)[family]
        yield Demonstration(f"{family}{digits}=", operation + OPERATIONS[operation](digits))


def verify(completion: str, answer: str) -> Verdict:
    """Solved when the completion is the name of an operation, then the answer, and nothing else."""
    success = completion[:1] in OPERATIONS and completion[1:] == answer
    return Verdict(success, float(success))


def make() -> Task:
    """The task; a completion is an operation, five digits and the end of sequence at most."""
    alphabet = "=" + DIGITS + LETTERS + "".join(OPERATIONS)
    return Task("string_ops", alphabet, 7, pool, held_out, demonstrations, verify)
