"""Word problems of grade-school arithmetic with one to three steps, in the manner of GSM8K, made by a generator.

    python -m experiments.train task=word_problems policy=smollm2 data.max_new_tokens=40

Every problem is a story about one person and one kind of thing, for example "Mia has 4 boxes of 6 pens. Mia buys 5
more. How many pens does Mia have?". A solution writes one calculation per line and then the answer:

    4*6=24
    24+5=29
    #### 29

The difficulty is the number of steps with the size of the numbers. It is the stratum of the prompt.
A completion is right if the number after its last `####` is the answer. Without `####`, its last number counts.
"""

import itertools
import random
import re
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

from rl.prompts import Demonstration, PromptPool, Task, Verdict
from rl.tasks.data_config import DataConfig, refuse_unused
from rl.tasks.held_out import Split, split_of_generator
from rl.tasks.templates import filled

NAME = "word_problems"
TEMPLATE = '{prompt}\nWrite each calculation on a line, and end with a line of "#### " and the answer.'
_USED = ("template", "max_new_tokens", "stop", "held_out_share", "held_out_seed")
_STEPS = (1, 2, 3)
_SIZES = {"small": 9, "medium": 20, "large": 60}
_NAMES = ("Tom", "Mia", "Sam", "Ana", "Ben", "Eva", "Leo", "Zoe", "Max", "Ida", "Jack", "Lily", "Paul", "Nina", "Adam")
_THINGS = ("apples", "pens", "books", "cards", "coins", "eggs", "stamps", "shells", "balls", "plums", "nuts", "cookies")
_HOLDERS = ("boxes", "bags", "jars", "baskets", "packs")
_GAINS = ("buys {} more", "finds {} more", "gets {} more from a friend")
_LOSSES = ("gives away {}", "loses {}", "sells {}")
_PLAIN = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
_NUMBER = re.compile(rf"(?<![\d)])-?{_PLAIN}|{_PLAIN}")
_MARKED = re.compile(rf"[^\d\n]*?(-?{_PLAIN})(?!\s*%)\D*")  # a line with one number
_MOST_PROMPTS = 1_000_000


class Problem(NamedTuple):
    """One problem.

    Attributes:
        text: The story and its question.
        solution: The completion that demonstrates it.
        answer: The answer.
        stratum: The difficulty, such as "2 steps, small numbers".
    """

    text: str
    solution: str
    answer: int
    stratum: str


def make(config: DataConfig | None = None) -> Task:
    """Return the task.

    Args:
        config: The settings, of which template, max_new_tokens, stop, held_out_share and held_out_seed count.

    Raises:
        ValueError: A setting is given that the task ignores, or held_out_share is too near to 0 or 1.
    """
    config = config or DataConfig()
    refuse_unused(NAME, config, _USED)
    template = config.template or TEMPLATE
    split = split_of_generator(NAME, config.held_out_share, config.held_out_seed)
    return Task(
        name=NAME,
        alphabet="",
        max_new_tokens=config.max_new_tokens,
        pool=partial(_pool, template, split),
        held_out=partial(_held_out, template, split),
        demonstrations=partial(_demonstrations, template, split),
        verify=verify,
        stop=tuple(config.stop),
    )


def verify(completion: str, answer: dict[str, Any]) -> Verdict:
    """Judge a completion by the only number on the line of its last `####`, or by its last number without a `####`."""
    _, marked, after = completion.rpartition("####")
    found = _MARKED.fullmatch(after.partition("\n")[0]) if marked else None
    numbers = [found[1]] if found else [] if marked else _NUMBER.findall(completion)
    success = bool(numbers) and Decimal(numbers[-1].replace(",", "")) == answer["answer"]
    return Verdict(success, float(success))


def problem(rng: random.Random) -> Problem:
    """Return a random problem; each number of steps and each size of numbers is equally likely."""
    steps, size = rng.choice(_STEPS), rng.choice(list(_SIZES))
    story = _Story(rng, _SIZES[size])
    while len(story.lines) < steps:
        story.go_on(steps - len(story.lines))
    text = " ".join([*story.sentences, story.question])
    solution = "\n".join([*story.lines, f"#### {story.have}"])
    return Problem(text, solution, story.have, f"{steps} step{'s' * (steps > 1)}, {size} numbers")


class _Story:
    """A story that grows by one sentence at a time.

    Attributes:
        sentences: The sentences so far.
        lines: The calculations so far, one per step.
        have: The number of things so far, at least 1.
        question: The question after the last sentence.
    """

    def __init__(self, rng: random.Random, largest: int):
        self._rng, self._largest = rng, largest
        self._name, self._things, self._holders = rng.choice(_NAMES), rng.choice(_THINGS), rng.choice(_HOLDERS)
        self.lines: list[str] = []
        self.question = f"How many {self._things} does {self._name} have?"
        if rng.random() < 0.5:
            said, self.have = self._in_holders()
        else:
            self.have = self._number() + 1
            said = f"{self.have} {self._things}"
        self.sentences = [f"{self._name} has {said}."]

    def go_on(self, steps_left: int) -> None:
        """Add a sentence of one step, or of two where that many are left."""
        shares = [share for share in range(2, 10) if self.have % share == 0]
        if steps_left == 1 and self.lines and shares and self._rng.random() < 0.3:
            self._divide(self._rng.choice(shares))
        elif steps_left >= 2 and self._rng.random() < 0.4:
            said, more = self._in_holders()
            self._change("+", more, f"buys {said}")
        elif self.have > 3 and self._rng.random() < 0.5:
            fewer = self._number(self.have - 1)
            self._change("-", fewer, self._rng.choice(_LOSSES).format(fewer))
        else:
            more = self._number()
            self._change("+", more, self._rng.choice(_GAINS).format(more))

    def _divide(self, share: int) -> None:
        self._change("/", share, f"puts all into {share} equal groups")
        self.question = f"How many {self._things} are in each group?"

    def _change(self, sign: str, number: int, said: str) -> None:
        self.have = self._calculated(self.have, sign, number)
        self.sentences.append(f"{self._name} {said}.")

    def _in_holders(self) -> tuple[str, int]:
        """Return a phrase such as "4 boxes of 6 pens" and the number of things; add the calculation."""
        count, each = self._number(9), self._number()
        return f"{count} {self._holders} of {each} {self._things}", self._calculated(count, "*", each)

    def _calculated(self, left: int, sign: str, right: int) -> int:
        result = {"+": left + right, "-": left - right, "*": left * right, "/": left // right}[sign]
        self.lines.append(f"{left}{sign}{right}={result}")
        return result

    def _number(self, limit: int = 10**9) -> int:
        return self._rng.randint(2, min(limit, self._largest))


def _problems(stream: str, split: Split, *, held_out: bool) -> Iterator[Problem]:
    """Yield random training or held-out problems without end."""
    rng = random.Random(f"{NAME} {stream}")
    return (found for found in (problem(rng) for _ in itertools.count()) if split.is_held_out(found.text) == held_out)


def _pool(template: str, split: Split, num_prompts: int, seed: int) -> PromptPool:
    return _distinct(template, _problems(f"pool {seed}", split, held_out=False), num_prompts)


def _held_out(template: str, split: Split, num_prompts: int) -> PromptPool:
    return _distinct(template, _problems("held out", split, held_out=True), num_prompts)


def _demonstrations(template: str, split: Split, seed: int) -> Iterator[Demonstration]:
    for found in _problems(f"demonstrations {seed}", split, held_out=False):
        yield Demonstration(str(filled(template, found.text)), found.solution)


def _distinct(template: str, problems: Iterator[Problem], num_prompts: int) -> PromptPool:
    if not 1 <= num_prompts <= _MOST_PROMPTS:
        raise ValueError(f"num_prompts is {num_prompts}; give an integer from 1 to {_MOST_PROMPTS}")
    chosen: dict[str, Problem] = {}
    while len(chosen) < num_prompts:
        found = next(problems)
        chosen.setdefault(found.text, found)
    texts = [filled(template, text) for text in chosen]
    answers = [{"answer": found.answer} for found in chosen.values()]
    return PromptPool(texts, answers, list(chosen), strata=[found.stratum for found in chosen.values()])
