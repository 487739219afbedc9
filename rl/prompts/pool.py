"""The pool of prompts as columns, and the task that generates and verifies prompts."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rl.prompts.messages import plain_text


@dataclass(frozen=True)
class PromptPool:
    """Prompts that share row numbers: row `i` is `texts[i]`, `answers[i]`, `keys[i]`, `rates[i]` and `strata[i]`.

    Attributes:
        texts: What the policy reads. Each is a text or a list of chat messages, see `rl.prompts.Prompt`.
        answers: Reference answers that the verifier needs to judge a completion, as values that JSON can hold.
        keys: Unique names that survive shuffling and filtering of the data set.
        rates: Solve rates that the data set reports, from 0 to 1, for a prior of the selector; None where a row has
            none. None instead of the column: the data set reports no rates.
        strata: Kind of every prompt, such as its difficulty or its source, for a quota per kind in every batch (see
            `jaxsel.stratified`). None: the task has no kinds.

    Raises:
        ValueError: The columns have different lengths, or a key repeats.
    """

    texts: Sequence[Any]
    answers: Sequence[Any]
    keys: Sequence[str]
    rates: Sequence[float | None] | None = None
    strata: Sequence[str] | None = None

    def __post_init__(self):
        names = ("texts", "answers", "keys", "rates", "strata")
        columns = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        for name, column in columns.items():
            if not isinstance(column, Sequence):  # a column of pandas is read by label, not by row
                object.__setattr__(self, name, list(column))
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"PromptPool columns have different lengths {lengths}; give one entry per prompt")
        if len(set(self.keys)) != len(self.keys):
            again = next(key for key, count in Counter(self.keys).items() if count > 1)
            raise ValueError(f"PromptPool keys repeat {again!r}; give every prompt a unique key")

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, prompt_ids: Sequence[int]) -> "PromptPool":
        """Return the pool of the rows `prompt_ids`, in that order."""
        return PromptPool(
            [self.texts[i] for i in prompt_ids],
            [self.answers[i] for i in prompt_ids],
            [self.keys[i] for i in prompt_ids],
            None if self.rates is None else [self.rates[i] for i in prompt_ids],
            None if self.strata is None else [self.strata[i] for i in prompt_ids],
        )

    @property
    def plain_texts(self) -> list[str]:
        """Every prompt as one text, for embeddings and logs; messages have their roles in front."""
        return [plain_text(prompt) for prompt in self.texts]

    @property
    def fingerprint(self) -> str:
        """A digest of all texts and answers. It differs where an answer was corrected and the keys stayed.

        Of an answer that JSON cannot hold, its type counts alone.
        """
        digest = hashlib.sha256()
        for text, answer in zip(self.plain_texts, self.answers, strict=True):
            digest.update(_as_json([text, answer]) or _as_json([text, type(answer).__name__]))
        return f"sha256:{digest.hexdigest()[:16]}"


def _as_json(row: list[Any]) -> bytes:
    try:
        return json.dumps(row).encode() + b"\n"
    except (TypeError, ValueError):
        return b""


class Verdict(NamedTuple):
    """The judgement of one completion.

    Attributes:
        success: Whether the completion solves the prompt; the selector observes this.
        reward: Reward for the policy update. It may include a credit for the format, which success does not.
    """

    success: bool
    reward: float


class Demonstration(NamedTuple):
    """A prompt, and a completion for the policy to imitate in the warm start."""

    prompt: str
    completion: str


class Task(NamedTuple):
    """A source of verifiable prompts.

    Attributes:
        name: Name of the task in `task=...` on the command line, in file names and in logs.
        alphabet: All characters of prompts and completions, for the character tokeniser. Empty: the built-in policy
            cannot read this task.
        max_new_tokens: Longest completion in tokens, end of sequence included.
        pool: Function `(num_prompts, seed) -> PromptPool` that makes training prompts.
        held_out: Function `(num_prompts,) -> PromptPool` that makes evaluation prompts. They are the same in every
            run, and disjoint from all training pools and demonstrations.
        demonstrations: Function `(seed) -> Iterator[Demonstration]` whose iterator never ends.
        verify: Function `(completion, answer) -> Verdict | None`. None means that no judgement was possible.
        stop: Texts that end a completion, besides the end of sequence.
        own_process: Whether the verifier always runs in a process of its own, which is killed at the time limit; see
            `TrainConfig.verify_process`. A verifier needs this if it may spend long in compiled code, which the time
            limit cannot interrupt otherwise.
    """

    name: str
    alphabet: str
    max_new_tokens: int
    pool: Callable[[int, int], PromptPool]
    held_out: Callable[[int], PromptPool]
    demonstrations: Callable[[int], Iterator[Demonstration]]
    verify: Callable[[str, Any], Verdict | None]
    stop: tuple[str, ...] = ()
    own_process: bool = False
