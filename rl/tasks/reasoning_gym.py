"""The tasks of the library reasoning-gym, whose prompts are generated when they are read.

    python -m experiments.train task=reasoning_gym:basic_arithmetic pool_size=1000000 policy=Qwen/Qwen2.5-0.5B-Instruct

No extra of jaxsel installs the library, because it pins a version of tabulate that our tested versions exclude. Install
it by `pip install reasoning-gym`. A pool stores keys but no texts, so a million prompts take little memory. The stratum
of a prompt is its difficulty in the library's words; to read the strata of a pool generates all of its prompts.

A key is `NAME/SEED/SHARE/SPLIT_SEED/ROW`, with the settings of the split into training and held-out prompts. It names
one prompt whatever the size of the pool: a smaller pool is the beginning of a larger one.

All 106 tasks of version 0.1.25 were tried with five prompts each. The verifiers of 99 accept the library's own answers
and reject another text. Five (boxnet, graph_color, propositional_logic, rubiks_cube, rush_hour) have no reference
answer, so that they have no demonstrations, and their verifiers use other data. The other two are refused: composite
needs a list of tasks, and game_of_life_halting accepts any text. acre and word_ladder generate at most 10,000 and
20,000 prompts, which limits their pools.

Python's hash seed changes the prompts of isomorphic_strings, polynomial_multiplication and ransom_note, which therefore
need PYTHONHASHSEED=0: a verifier in its own process, a resumed run and another rank would have other prompts. The hash
seed also chooses one of several right answers in knight_swap and word_ladder, which changes only demonstrations. A few
programs of codeio draw random numbers, so that no completion can be right (2 of 40 prompts tried).
"""

import importlib
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, overload

from rl.prompts import Demonstration, PromptPool, Task, Verdict
from rl.tasks.data_config import DataConfig, refuse_unused
from rl.tasks.held_out import Split, split_of_generator
from rl.tasks.templates import filled

PREFIX = "reasoning_gym:"
TEMPLATE = "{prompt}\n\nThink first, then write the answer between <answer> and </answer>."
# The library seeds prompt i of most data sets with seed + i. Held-out prompts, pools and demonstrations therefore have
# seeds of their own, this far apart: the multiples 0, 1 + 2 * seed and 2 + 2 * seed.
_SPACING = 10_000_000
_NEXT_TRY = 10**13  # added to the seed for each earlier try whose prompt is on the other side of the split
_TRIES = 1000
_MOST_PROMPTS = 5_000_000
_32_BITS = frozenset({"pool_matrix"})  # tasks with an older generator of NumPy, whose seeds must be below 2**32
_SIZES = {"acre": 10_000, "word_ladder": 20_000}  # the most prompts that these tasks can generate
_USED = ("template", "max_new_tokens", "stop", "held_out_share", "held_out_seed")
_UNUSABLE = {
    "composite": "which needs a list of tasks with their settings",
    "game_of_life_halting": "whose verifier in the library accepts any text",
}
# these iterate over sets of texts
_HASHED = frozenset({"isomorphic_strings", "polynomial_multiplication", "ransom_note"})


class Generated(Sequence[Any]):
    """A column whose entries are computed when they are read, so that a million of them take no memory."""

    def __init__(self, count: int, entry: Callable[[int], Any]):
        self._rows, self._entry = range(count), entry

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, at: int) -> Any: ...
    @overload
    def __getitem__(self, at: slice) -> list[Any]: ...
    def __getitem__(self, at: int | slice) -> Any:
        if isinstance(at, slice):
            return [self._entry(row) for row in self._rows[at]]
        return self._entry(self._rows[at])


def make(name: str, config: DataConfig | None = None) -> Task:
    """Return the task `reasoning_gym:NAME` of the library.

    The text of a prompt decides whether it is held out, so that no training pool holds a held-out prompt. To read the
    last prompts of a held-out pool generates all prompts before them.

    Args:
        name: Such as `reasoning_gym:basic_arithmetic`.
        config: The settings, of which template, max_new_tokens, stop, held_out_share and held_out_seed count.

    Raises:
        ValueError: The library is missing or has no such task, the task is refused or needs another hash seed (see the
            top of this module), a setting is given that it ignores, or held_out_share is too near to 0 or 1.
    """
    config = config or DataConfig()
    kind = name.removeprefix(PREFIX)
    known = _library("reasoning_gym.factory").DATASETS
    if kind not in known:
        raise ValueError(f"task is {name!r}; give {PREFIX} and one of {', '.join(sorted(known))}")
    if kind in _UNUSABLE:
        raise ValueError(f"task is {name!r}, {_UNUSABLE[kind]}; give another task")
    if kind in _HASHED and sys.flags.hash_randomization:
        cure = "start Python with PYTHONHASHSEED=0"
        raise ValueError(f"task is {name!r}, whose prompts depend on Python's hash seed; {cure}")
    refuse_unused(name, config, _USED)
    template = config.template or TEMPLATE
    split = split_of_generator(name, config.held_out_share, config.held_out_seed)
    return Task(
        name=name,
        alphabet="",
        max_new_tokens=config.max_new_tokens,
        pool=partial(_pool, kind, template, split),
        held_out=partial(_held_out, kind, template, split),
        demonstrations=partial(_demonstrations, kind, template, split),
        verify=partial(score, kind),
        stop=tuple(config.stop),
        own_process=True,
    )


def score(kind: str, completion: str, answer: dict[str, int]) -> Verdict:
    """Judge a completion by the library's own verifier: solved if the score is 1, and the reward is the score.

    Some of the library's verifiers raise an exception at an answer that they cannot read, such as a word in place of a
    number. Such an answer is wrong.

    Raises:
        ImportError: The library's verifier misses a package.
        OSError: It cannot read a file of its own.
        Exception: It cannot judge the library's own answer either.
    """
    said = _library("reasoning_gym.utils").extract_answer(completion)
    if said is None:
        return Verdict(False, 0.0)
    dataset = _dataset(kind, answer["seed"])
    entry = dataset[answer["index"]]
    try:
        found = float(dataset.score_answer(said, entry))
    except (ImportError, OSError):
        raise
    except Exception:  # any other exception, because the library's verifiers parse texts of a model
        if entry["answer"] is not None:
            dataset.score_answer(entry["answer"], entry)  # raises where the answer is not at fault
        return Verdict(False, 0.0)
    return Verdict(found >= 1, found)


def _difficulty(metadata: dict[str, Any]) -> str:
    """Return the difficulty of a prompt as text: its own settings, such as its number of terms, without their ranges.

    Tasks without such settings have one difficulty.
    """
    names = metadata.get("difficulty", {})
    if not isinstance(names, dict):  # some tasks give a number
        return json.dumps(names, default=str)
    own = {name: metadata[name] for name in names if isinstance(metadata.get(name), int | float | str)}
    return json.dumps(own or names, sort_keys=True, default=str)


def _pool(kind: str, template: str, split: Split, num_prompts: int, seed: int) -> PromptPool:
    _check_number(kind, num_prompts)

    @lru_cache(2**12)
    def place(row: int) -> dict[str, int]:
        """Return seed and index of the prompt of a row: the first one with this index that is not held out."""
        for number in range(_most_tries(1 - split.share)):
            at = _SPACING * (1 + 2 * seed) + number * _NEXT_TRY
            if not _is_held_out(kind, split, at, row):
                return {"seed": at, "index": row}
        raise _too_few(kind, split, f"{num_prompts} training prompts")

    keys = [f"{kind}/{seed}/{split.share}/{split.seed}/{row}" for row in range(num_prompts)]
    return _generated(kind, template, place, keys)


def _held_out(kind: str, template: str, split: Split, num_prompts: int) -> PromptPool:
    _check_number(kind, num_prompts)
    places: list[dict[str, int]] = []
    left = ((seed, row) for seed in range(0, _TRIES * _NEXT_TRY, _NEXT_TRY) for row in range(_size(kind)))

    def place(row: int) -> dict[str, int]:
        """Return seed and index of the prompt of a row; held-out prompts have the order in which they are generated."""
        while len(places) <= row:
            tried = itertools.islice(left, _most_tries(split.share))
            found = next(((seed, at) for seed, at in tried if _is_held_out(kind, split, seed, at)), None)
            if found is None:
                raise _too_few(kind, split, f"{num_prompts} held-out prompts")
            places.append({"seed": found[0], "index": found[1]})
        return places[row]

    keys = [f"{kind}/held out/{split.share}/{split.seed}/{row}" for row in range(num_prompts)]
    return _generated(kind, template, place, keys)


def _demonstrations(kind: str, template: str, split: Split, seed: int) -> Iterator[Demonstration]:
    """Yield training prompts without end, each with the library's own answer in the form that `score` reads.

    Raises:
        ValueError: The library has no reference answers of this task, or almost all of its prompts are held out.
    """
    dataset = _dataset(kind, _SPACING * (2 + 2 * seed))
    in_a_row = 0
    for at in itertools.count():
        entry = dataset[at % _size(kind)]
        if entry["answer"] is None:
            raise ValueError(
                f"fine_tuning.steps is above 0 with the task {PREFIX}{kind}, for which the library has no reference "
                "answers to imitate; give fine_tuning.steps=0"
            )
        if not split.is_held_out(entry["question"]):
            in_a_row = 0
            yield Demonstration(str(filled(template, entry["question"])), f"<answer>{entry['answer']}</answer>")
        elif (in_a_row := in_a_row + 1) == _most_tries(1 - split.share):
            raise _too_few(kind, split, "demonstrations")


def _generated(kind: str, template: str, place: Callable[[int], dict[str, int]], keys: list[str]) -> PromptPool:
    """Return the pool of these keys, where `place` returns the seed and the index of a row's prompt."""

    def entry(row: int) -> dict[str, Any]:
        return _entry(kind, **place(row))

    return PromptPool(
        Generated(len(keys), lambda row: filled(template, entry(row)["question"])),
        Generated(len(keys), lambda row: dict(place(row))),
        keys,
        strata=Generated(len(keys), lambda row: _difficulty(entry(row)["metadata"])),
    )


def _check_number(kind: str, num_prompts: int) -> None:
    most = min(_MOST_PROMPTS, _size(kind))
    if not 1 <= num_prompts <= most:
        raise ValueError(f"num_prompts is {num_prompts} with the task {PREFIX}{kind}; give an integer from 1 to {most}")


def _most_tries(chance: float) -> int:
    """Return so many tries that they fail with a probability below exp(-50) where each succeeds with this chance."""
    return max(_TRIES, math.ceil(50 / chance))


def _too_few(kind: str, split: Split, wanted: str) -> ValueError:
    return ValueError(
        f"held_out_share is {split.share}, and {kind} has too few prompts for {wanted}; give fewer prompts or another "
        "share"
    )


def _is_held_out(kind: str, split: Split, seed: int, index: int) -> bool:
    return split.is_held_out(_entry(kind, seed, index)["question"])


def _size(kind: str) -> int:
    return _SIZES.get(kind, _SPACING)


@lru_cache(256)
def _entry(kind: str, seed: int, index: int) -> dict[str, Any]:
    """Return a prompt of the library. Some take half a second to generate, and are read several times in a row."""
    return _dataset(kind, seed)[index]


@lru_cache(64)
def _dataset(kind: str, seed: int) -> Any:
    if kind in _32_BITS:
        seed %= 2**32 - _SPACING
    return _library("reasoning_gym").create_dataset(kind, seed=seed, size=_size(kind))


def _library(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"task needs the library reasoning-gym ({error}); pip install reasoning-gym") from error
