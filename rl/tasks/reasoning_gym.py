"""The tasks of the library reasoning-gym, whose prompts are generated when they are read.

    python -m experiments.train task=reasoning_gym:basic_arithmetic pool_size=1000000 policy=Qwen/Qwen2.5-0.5B-Instruct

No extra of jaxsel installs the library, because it pins a version of tabulate that our tested versions exclude. Install
it by `pip install reasoning-gym`. A pool stores keys but no texts, so a million prompts take little memory. The stratum
of a prompt is its difficulty in the library's words; to read the strata of a pool generates all of its prompts.

All 106 tasks of version 0.1.25 were tried with five prompts each. The verifiers of 99 accept the library's own answers
and reject another text. Five (boxnet, graph_color, propositional_logic, rubiks_cube, rush_hour) have no reference
answer, and their verifiers use other data. The other two are refused: composite needs a list of tasks, and
game_of_life_halting accepts any text. acre and word_ladder generate at most 10,000 and 20,000 prompts, which limits
their pools.
"""

import importlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, overload

from rl.prompts import Demonstration, PromptPool, Task, Verdict
from rl.tasks.data_config import DataConfig
from rl.tasks.held_out import Split
from rl.tasks.templates import filled

PREFIX = "reasoning_gym:"
TEMPLATE = "{prompt}\n\nThink first, then write the answer between <answer> and </answer>."
# The library seeds prompt i of a data set with seed + i. The seeds of data sets are therefore this far apart.
_SPACING = 10_000_000
# Demonstrations use the seeds from 300 * _SPACING on, above those of pools. NumPy's older generators limit it: their
# seeds must be below 2**32.
_FIRST_OF_DEMONSTRATIONS = 300
_MOST_PROMPTS = 5_000_000
_TRIES = 1000
_SIZES = {"acre": 10_000, "word_ladder": 20_000}  # the most prompts that these tasks can generate
_UNUSABLE = {
    "composite": "which needs a list of tasks with their settings",
    "game_of_life_halting": "whose verifier in the library accepts any text",
}


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

    The text of a prompt decides whether it is held out, so that no training pool holds a held-out prompt.

    Args:
        name: Such as `reasoning_gym:basic_arithmetic`.
        config: The settings, of which template, max_new_tokens, stop, held_out_share and held_out_seed count.

    Raises:
        ValueError: The library is missing or has no such task, or the task is refused (see the top of this module).
    """
    config = config or DataConfig()
    kind = name.removeprefix(PREFIX)
    known = _library("reasoning_gym.factory").DATASETS
    if kind not in known:
        raise ValueError(f"task is {name!r}; give {PREFIX} and one of {', '.join(sorted(known))}")
    if kind in _UNUSABLE:
        raise ValueError(f"task is {name!r}, {_UNUSABLE[kind]}; give another task")
    template = config.template or TEMPLATE
    split = Split(config.held_out_share, config.held_out_seed)
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
    """
    said = _library("reasoning_gym.utils").extract_answer(completion)
    if said is None:
        return Verdict(False, 0.0)
    dataset = _dataset(kind, answer["seed"])
    entry = dataset[answer["index"]]
    try:
        found = float(dataset.score_answer(said, entry))
    except Exception:  # any exception, because the library's verifiers parse texts of a model
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
    return _generated(kind, template, split, num_prompts, _SPACING * (1 + seed), held_out=False)


def _held_out(kind: str, template: str, split: Split, num_prompts: int) -> PromptPool:
    return _generated(kind, template, split, num_prompts, 0, held_out=True)


def _demonstrations(kind: str, template: str, split: Split, seed: int) -> Iterator[Demonstration]:
    """Yield training prompts without end, each with the library's own answer in the form that `score` reads."""
    dataset = _dataset(kind, _SPACING * (_FIRST_OF_DEMONSTRATIONS + seed))
    for at in itertools.count():
        entry = dataset[at % _size(kind)]
        if not split.is_held_out(entry["question"]):
            yield Demonstration(str(filled(template, entry["question"])), f"<answer>{entry['answer']}</answer>")


def _generated(kind: str, template: str, split: Split, num_prompts: int, seed: int, *, held_out: bool) -> PromptPool:
    if not 1 <= num_prompts <= _MOST_PROMPTS:
        raise ValueError(f"num_prompts is {num_prompts}; give an integer from 1 to {_MOST_PROMPTS}")
    dataset = _dataset(kind, seed)

    @lru_cache(2**12)
    def index(row: int) -> int:
        """Return the first of row, row + num_prompts, row + 2 * num_prompts, ... whose prompt is on the asked side."""
        for at in range(row, min(row + _TRIES * num_prompts, _size(kind)), num_prompts):
            if split.is_held_out(dataset[at]["question"]) == held_out:
                return at
        raise ValueError(
            f"held_out_share is {split.share}, and {kind} has too few prompts for {num_prompts} "
            f"{'held-out' if held_out else 'training'} prompts; give fewer prompts or another share"
        )

    return PromptPool(
        Generated(num_prompts, lambda row: filled(template, dataset[index(row)]["question"])),
        Generated(num_prompts, lambda row: {"seed": seed, "index": index(row)}),
        [f"{kind}/{seed}/{row}" for row in range(num_prompts)],
        strata=Generated(num_prompts, lambda row: _difficulty(dataset[index(row)]["metadata"])),
    )


def _size(kind: str) -> int:
    return _SIZES.get(kind, _SPACING)


@lru_cache(64)
def _dataset(kind: str, seed: int) -> Any:
    return _library("reasoning_gym").create_dataset(kind, seed=seed, size=_size(kind))


def _library(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"task needs the library reasoning-gym ({error}); pip install reasoning-gym") from error
