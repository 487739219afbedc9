"""The published Countdown tasks for language models: Countdown-34 and Countdown-4.

    python -m experiments.train task=countdown-34 policy=Qwen/Qwen2.5-3B
    python -m experiments.train task=countdown-4:train.parquet policy=Qwen/Qwen2.5-3B

A prompt of Countdown-34 has three or four numbers, and one of Countdown-4 has four. The plain task name generates
prompts at random; see `rl.tasks.countdown_published`. After a colon, give a file, a folder or a data set on the hub
with the columns `nums` and `target` of the published data set; see `rl.tasks.countdown_dataset`.

An instance is the numbers and the target of a prompt. An eighth of all instances is held out, chosen by numbers and
target alone: training never sees them, in any order of their numbers. The setting `data.held_out` names a file of other
instances to hold out.
"""

from collections.abc import Collection, Iterator
from functools import cached_property, partial
from itertools import islice

import numpy as np

from rl.prompts import PromptPool, Task
from rl.tasks.countdown_dataset import load_dataset_pool, prompt_of
from rl.tasks.countdown_instances import held_out_mask
from rl.tasks.countdown_published import Drawn, drawn
from rl.tasks.countdown_verifier import verify
from rl.tasks.data import no_demonstrations
from rl.tasks.data_config import DataConfig, refuse_unused
from rl.tasks.held_out import say_what_is_left_out
from rl.tasks.templates import PLACEHOLDER

COUNTS = {"countdown-34": (3, 4), "countdown-4": (4,)}
"""How many numbers the prompts of each task have."""
QUESTION = (
    "Using the numbers [{numbers}], create an equation that equals {target}. You can use basic arithmetic operations "
    "(+, -, *, /) and each number can only be used once."
)
TEMPLATE = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant "
    "first thinks about the reasoning process in the mind and then provides the user with the answer.\n"
    "User: {prompt} Show your work in <think> </think> tags. And return the final answer in <answer> </answer> tags, "
    "for example <answer> (1 + 2) / 3 </answer>.\nAssistant: Let me solve this step by step.\n<think>"
)
"""TinyZero's prompt for base models, with `QUESTION` in the place of `{prompt}`; `DataConfig.template` replaces it."""
_USED = ("template", "max_new_tokens", "stop", "held_out")
_CURE = "leave it out, or give task=PATH, a data set of prompts, with verifier=countdown"
_POOL_STREAM, _HELD_OUT_STREAM = 0x636433, 0x636434  # give other random numbers than other tasks with the same seed


def is_task(name: str) -> bool:
    """Return whether this module has a task of this name; a colon and a path may follow the name."""
    return name.partition(":")[0] in COUNTS


def make(name: str, config: DataConfig | None = None) -> Task:
    """Return the task of a name such as `countdown-34` or `countdown-4:train.parquet`.

    Args:
        name: `countdown-34` or `countdown-4`, perhaps with a colon and a path.
        config: The settings, of which template, max_new_tokens, stop and held_out count.

    Raises:
        ValueError: The name is unknown, nothing follows its colon, or a setting is given that this task ignores.
    """
    kind, colon, source = name.partition(":")
    if kind not in COUNTS or (colon and not source):
        raise ValueError(f"task is {name!r}; give {', '.join(COUNTS)}, or one of them with a colon and a path")
    config = config or DataConfig()
    refuse_unused(name, config, _USED, _CURE)
    template = (config.template or TEMPLATE).replace(PLACEHOLDER, QUESTION)
    sides = _FromFile(source, COUNTS[kind], template, config.held_out)
    made = _Made(COUNTS[kind], template, config.held_out)
    return Task(
        name=name,
        alphabet="",
        max_new_tokens=config.max_new_tokens,
        pool=sides.pool if source else made.pool,
        held_out=sides.held_out if source else made.held_out,
        demonstrations=partial(no_demonstrations, name),
        verify=verify,
        stop=tuple(config.stop),
    )


class _FromFile:
    """The training and held-out prompts of a data set, read at the first call of `pool` or `held_out`."""

    def __init__(self, source: str, counts: Collection[int], template: str, held_out: str):
        self._load = partial(load_dataset_pool, number_counts=counts, template=template)
        self._source, self._held_out_source = source, held_out

    def pool(self, num_prompts: int, seed: int) -> PromptPool:
        """Return training prompts, chosen by the seed, in the order of the data; 0 asks for all."""
        say_what_is_left_out(num_prompts, len(self._training))
        rows = np.random.default_rng(seed).permutation(len(self._training))[: num_prompts or None]
        return self._training.take(np.sort(rows).tolist())

    def held_out(self, num_prompts: int) -> PromptPool:
        """Return the first held-out prompts of the data, the same in every run; 0 asks for all."""
        return self._held_out.take(range(min(num_prompts or len(self._held_out), len(self._held_out))))

    @cached_property
    def _training(self) -> PromptPool:
        if not self._held_out_source:
            return self._load(self._source, held_out=False)
        apart = _instances_of(self._held_out)
        whole = self._load(self._source)
        rows = [row for row, found in enumerate(map(_unordered, whole.answers)) if found not in apart]
        if not rows:
            raise ValueError(f"data.held_out is {self._held_out_source!r}, which holds every prompt; give another file")
        return whole.take(rows)

    @cached_property
    def _held_out(self) -> PromptPool:
        return self._load(self._held_out_source) if self._held_out_source else self._load(self._source, held_out=True)


class _Made:
    """Training and held-out prompts that are generated at random."""

    def __init__(self, counts: Collection[int], template: str, held_out: str):
        self._counts, self._template, self._held_out_source = counts, template, held_out

    def pool(self, num_prompts: int, seed: int) -> PromptPool:
        """Return distinct training prompts; a smaller pool of the same seed is the beginning of a larger one."""
        rng = np.random.default_rng((_POOL_STREAM, seed))
        apart = _instances_of(self._file) if self._held_out_source else set()
        return self._taken(num_prompts, (one for one in self._side(rng, held_out=False) if _key(one) not in apart))

    def held_out(self, num_prompts: int) -> PromptPool:
        """Return evaluation prompts, the same in every run."""
        if self._held_out_source:
            return self._file.take(range(min(num_prompts or len(self._file), len(self._file))))
        return self._taken(num_prompts, self._side(np.random.default_rng(_HELD_OUT_STREAM), held_out=True))

    @cached_property
    def _file(self) -> PromptPool:
        return load_dataset_pool(self._held_out_source, number_counts=self._counts, template=self._template)

    def _side(self, rng: np.random.Generator, *, held_out: bool) -> Iterator[Drawn]:
        for one in drawn(rng, self._counts):
            if held_out_mask(np.array([one.numbers]), np.array([one.target]))[0] == held_out:
                yield one

    def _taken(self, num_prompts: int, found: Iterator[Drawn]) -> PromptPool:
        if num_prompts < 1:
            raise ValueError(
                f"num_prompts is {num_prompts}, and this task makes as many prompts as are asked for; give pool_size "
                "and held_out_size of at least 1"
            )
        rows = list(islice(_distinct(found), num_prompts))
        return PromptPool(
            [prompt_of(self._template, *row) for row in rows],
            [{"target": target, "numbers": numbers} for numbers, target in rows],
            [f"{' '.join(map(str, numbers))}={target}" for numbers, target in rows],
        )


def _distinct(found: Iterator[Drawn]) -> Iterator[Drawn]:
    """Yield the instances, without those that repeat an earlier one in any order of its numbers."""
    seen = set()
    for one in found:
        if _key(one) not in seen:
            seen.add(_key(one))
            yield one


def _key(one: Drawn) -> tuple[tuple[int, ...], int]:
    return tuple(sorted(one.numbers)), one.target


def _unordered(answer: dict[str, object]) -> tuple[tuple[int, ...], int]:
    return _key(Drawn(answer["numbers"], answer["target"]))  # type: ignore[arg-type]


def _instances_of(pool: PromptPool) -> set[tuple[tuple[int, ...], int]]:
    return set(map(_unordered, pool.answers))
