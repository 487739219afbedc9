"""Countdown: reach the target by using every number exactly once with the operations + - * /.

The prompt `3 5 7=22:` asks for `3*5+7` or another expression of the same value. Two numbers are easy for a small
policy and four are hard. The warm start, which trains on demonstrations before RL, increases the difference. Its
demonstrations are all correct, but most of them have two numbers.

Numbers up to 9 and targets up to 99 give 315,570 training prompts, where another order of the numbers is another
prompt, and 3,483 held-out prompts. max_number=99 and max_target=999 give many millions. `rl.tasks.countdown_chat` has
the published tasks of three and four numbers for language models.
"""

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial

import numpy as np

from rl.prompts import Demonstration, PromptPool, Task
from rl.tasks.countdown_dataset import load_dataset_pool
from rl.tasks.countdown_instances import Instance, Space, all_instances, held_out_mask, instances, templates
from rl.tasks.countdown_verifier import verify

__all__ = [
    "demonstrations",
    "held_out",
    "is_held_out",
    "load_dataset_pool",
    "make",
    "pool",
    "prompt_text",
    "verify",
]

ALPHABET = "0123456789+-*/()=: "
SHARES: Mapping[int, float] = {2: 1.0, 3: 1.0, 4: 1.0}
DEMONSTRATION_SHARES: Mapping[int, float] = {2: 0.6, 3: 0.35, 4: 0.05}
_MAX_COUNT = 6
_WINDOW = 2**16
# Prompts are drawn at random until the share of new ones is below _SLOW. A list then gives the rest. Where the rest is
# too large to list, drawing goes on until the share is below _HOPELESS.
_SLOW, _HOPELESS = 1 / 8, 1 / 1024
_POOL_STREAM, _HELD_OUT_STREAM, _DEMONSTRATION_STREAM = range(3)


def prompt_text(numbers: Iterable[int], target: int) -> str:
    """Return the prompt for the character-level policy, such as `3 5 7=22:`."""
    return f"{' '.join(map(str, numbers))}={target}:"


def is_held_out(numbers: Collection[int], target: int) -> bool:
    """Return whether an instance belongs to the evaluation set; the order of its numbers does not matter."""
    return bool(held_out_mask(np.array([list(numbers)]), np.array([target]))[0])


def pool(
    num_prompts: int,
    seed: int,
    *,
    shares: Mapping[int, float] = SHARES,
    max_number: int = 9,
    max_target: int = 99,
) -> PromptPool:
    """Return distinct training prompts; a smaller pool of the same seed is the beginning of a larger one.

    Args:
        num_prompts: Number of prompts.
        seed: Seed of the draws. No seed gives a prompt of `held_out`, in any order of its numbers.
        shares: Weight of each count of numbers among the draws. Repeated prompts are dropped. A count that runs out of
            prompts (two numbers up to 9 give 202) therefore gets less than its share.
        max_number: Numbers are drawn from 1 to `max_number`.
        max_target: Targets are integers from 1 to `max_target`.

    Raises:
        ValueError: An option is out of range, or there are fewer than `num_prompts` distinct prompts. The search is
            exhaustive for a count of numbers with up to eight million expressions.
    """
    _check_space("shares", shares, max_number, max_target)
    rng = _rng(_POOL_STREAM, seed)
    return _pool(num_prompts, _distinct(rng, shares, Space(max_number, max_target, held_out=False)))


def held_out(
    num_prompts: int, *, shares: Mapping[int, float] = SHARES, max_number: int = 9, max_target: int = 99
) -> PromptPool:
    """Return evaluation prompts, which are the same in every run. No two differ only in the order of their numbers.

    Args:
        num_prompts: Number of prompts.
        shares: Weight of each count of numbers among the draws.
        max_number: Numbers are drawn from 1 to `max_number`.
        max_target: Targets are integers from 1 to `max_target`.

    Raises:
        ValueError: An option is out of range, or there are fewer than `num_prompts` distinct prompts.
    """
    _check_space("shares", shares, max_number, max_target)
    rng = _rng(_HELD_OUT_STREAM, 0)
    return _pool(num_prompts, _distinct(rng, shares, Space(max_number, max_target, held_out=True)))


def demonstrations(
    seed: int,
    *,
    demonstration_shares: Mapping[int, float] = DEMONSTRATION_SHARES,
    max_number: int = 9,
    max_target: int = 99,
) -> Iterator[Demonstration]:
    """Return an endless iterator of training prompts, each with one of its solutions at random."""
    _check_space("demonstration_shares", demonstration_shares, max_number, max_target)
    rng, space = _rng(_DEMONSTRATION_STREAM, seed), Space(max_number, max_target, held_out=False)
    drawn = _drawn(rng, demonstration_shares, space)
    return (Demonstration(prompt_text(numbers, target), text) for numbers, target, text in drawn)


def make(
    *,
    shares: Mapping[int, float] = SHARES,
    demonstration_shares: Mapping[int, float] = DEMONSTRATION_SHARES,
    max_number: int = 9,
    max_target: int = 99,
    format_credit: float = 0.0,
) -> Task:
    """Return the task for the character-level policy.

    Args:
        shares: Weight of each count of numbers, from 2 to 6, in the pools; see `pool`.
        demonstration_shares: Weight of each count of numbers in the demonstrations.
        max_number: Numbers are drawn from 1 to `max_number`.
        max_target: Targets are integers from 1 to `max_target`.
        format_credit: Reward of a well-formed expression that is wrong, at least 0 and below 1.

    Raises:
        ValueError: An option is out of range.
    """
    _check_space("shares", shares, max_number, max_target)
    _check_space("demonstration_shares", demonstration_shares, max_number, max_target)
    if not 0 <= format_credit < 1:
        raise ValueError(f"format_credit={format_credit}; give at least 0 and less than 1, the reward of a solution")
    bounds = {"max_number": max_number, "max_target": max_target}
    return Task(
        name="countdown",
        alphabet=ALPHABET,
        max_new_tokens=_longest_completion({*shares, *demonstration_shares}, max_number) + 1,
        pool=partial(pool, shares=dict(shares), **bounds),
        held_out=partial(held_out, shares=dict(shares), **bounds),
        demonstrations=partial(demonstrations, demonstration_shares=dict(demonstration_shares), **bounds),
        verify=partial(verify, format_credit=format_credit),
    )


def _check_space(name: str, shares: Mapping[int, float], max_number: int, max_target: int) -> None:
    if not all(isinstance(k, int) and 2 <= k <= _MAX_COUNT and w >= 0 for k, w in shares.items()):
        raise ValueError(f"{name}={dict(shares)}; map counts from 2 to {_MAX_COUNT} to weights of 0 or more")
    if not 0 < sum(shares.values()) < float("inf"):
        raise ValueError(f"{name}={dict(shares)} has no positive, finite sum; give a weight to some count")
    if max_number < 2 or (2 * max_number) ** max(shares) > 2**63:
        raise ValueError(
            f"max_number={max_number} with {max(shares)} numbers; give at least 2, and so small a number that "
            f"the rationals fit int64: (2 * max_number) ** {max(shares)} <= 2 ** 63"
        )
    if not 1 <= max_target < 2**31:
        raise ValueError(f"max_target={max_target}; give at least 1 and less than 2 ** 31")


def _rng(stream: int, seed: int) -> np.random.Generator:
    if seed < 0:
        raise ValueError(f"seed={seed}; give 0 or more")
    return np.random.default_rng((stream, seed))


def _counts(shares: Mapping[int, float]) -> list[int]:
    return sorted(count for count, weight in shares.items() if weight > 0)


def _drawn(rng: np.random.Generator, shares: Mapping[int, float], space: Space) -> Iterator[Instance]:
    """Yield random instances without end; the count of numbers is drawn in proportion to `shares`."""
    counts = _counts(shares)
    weights = np.array([shares[count] for count in counts], float)
    streams = {k: instances(child, k, space) for k, child in zip(counts, rng.spawn(len(counts)), strict=True)}
    while True:
        for count in rng.choice(counts, size=2**12, p=weights / weights.sum()).tolist():
            yield next(streams[count])


def _listed(rng: np.random.Generator, shares: Mapping[int, float], space: Space) -> Iterator[Instance]:
    """Yield all instances that `all_instances` can list, in every order of their numbers and without a solution."""
    for count in _counts(shares):
        rows = all_instances(count, space)
        if rows is None:
            continue
        for order in rng.permutation(list(itertools.permutations(range(count)))):
            for *numbers, target in rng.permutation(rows)[:, [*order, count]].tolist():
                yield Instance(numbers, target, "")


def _distinct(rng: np.random.Generator, shares: Mapping[int, float], space: Space) -> Iterator[Instance]:
    """Yield distinct instances: drawn ones until few draws are new, then listed ones, then drawn ones again."""
    seen: set[str] = set()
    drawn = _drawn(rng, shares, space)

    def new(found: Iterable[Instance]) -> Iterator[Instance]:
        for instance in found:
            numbers = sorted(instance.numbers) if space.held_out else instance.numbers
            text = prompt_text(numbers, instance.target)
            if text not in seen:
                seen.add(text)
                yield instance

    def new_drawn(least: float) -> Iterator[Instance]:
        before = -_WINDOW
        while len(seen) - before >= least * _WINDOW:
            before = len(seen)
            yield from new(itertools.islice(drawn, _WINDOW))

    yield from new_drawn(_SLOW)
    yield from new(_listed(rng, shares, space))
    yield from new_drawn(_HOPELESS)


def _pool(num_prompts: int, found: Iterator[Instance]) -> PromptPool:
    if num_prompts < 0:
        raise ValueError(f"num_prompts={num_prompts}; give 0 or more")
    rows = list(itertools.islice(found, num_prompts))
    if len(rows) < num_prompts:
        raise ValueError(
            f"num_prompts={num_prompts}, but only {len(rows)} distinct Countdown prompts were found; give a "
            "smaller num_prompts, raise max_number or max_target, or give more weight to larger counts in shares"
        )
    texts = [prompt_text(numbers, target) for numbers, target, _ in rows]
    return PromptPool(texts, [{"target": target, "numbers": numbers} for numbers, target, _ in rows], texts)


def _longest_completion(counts: Collection[int], max_number: int) -> int:
    texts = (text for count in counts for row in templates(count) for text in row)
    return max(len(text.replace("%d", str(max_number))) for text in texts)
