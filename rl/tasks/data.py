"""A task from any data set of prompts: files, a folder, or a data set on the Hugging Face hub, with a verifier.

    python -m experiments.train task=train.parquet verifier=exact policy=Qwen/Qwen2.5-0.5B-Instruct

The policy must be a Hugging Face model, because the built-in policy reads only the characters of its own tasks.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from rl.prompts import Demonstration, Prompt, PromptPool, Report, Task, read_report
from rl.prompts.identity import described, digest, loose_digest
from rl.prompts.schemas import cell
from rl.prompts.sources import Sources, is_path
from rl.tasks.data_config import NONE, DataConfig
from rl.tasks.held_out import held_out_rows, order_of, say_what_is_left_out
from rl.tasks.templates import filled
from rl.verifiers import OWN_PROCESS, RowAnswer, Wanted, check_of, find_verifier, wanted_columns, with_columns

_log = logging.getLogger(__name__)
_SETTINGS = {
    "rate=''": f"data.rate={NONE}",
    "answer=''": f"data.answer={NONE}",
    "merge=True": "data.merge=true",
    "skip_odd=True": "data.skip_odd=true",
    **{f"by {name}=": f"by data.{name}=" for name in ("prompt", "answer", "key")},
}  # the arguments of `read_report` in its messages, as settings


def make(
    source: Sources, verifier: str | Callable[..., Any], config: DataConfig | None = None, *, whole: bool = False
) -> Task:
    """Return the task of a data set. The data are read when its first pool is asked for.

    A pool has at most as many prompts as are asked for: the data set may have fewer. 0 asks for all prompts.
    A reference answer that a verifier of `VERIFIERS` cannot use is refused when the data are read.

    Args:
        source: A file, several files, a folder, or the name of a data set on the hub; see `rl.prompts.read_prompts`.
        verifier: The name of a verifier, `module:function`, or a function; see `rl.verifiers`.
        config: The settings. None: the defaults.
        whole: Whether `held_out` of the task returns all prompts, in the order of the data, as for an evaluation set.

    Raises:
        ValueError: The verifier is missing or unknown, or cannot be imported.
    """
    config = config or DataConfig()
    name = str(source) if isinstance(source, str | Path) else " ".join(map(str, source))
    verify = find_verifier(verifier) if isinstance(verifier, str) else verifier
    wanted = wanted_columns(verify)
    data = _Data(source, config, wanted, check_of(verifier) if isinstance(verifier, str) else None)
    return Task(
        name=name,
        alphabet="",
        max_new_tokens=config.max_new_tokens,
        pool=data.pool,
        held_out=data.all if whole else data.held_out,
        demonstrations=partial(no_demonstrations, name),
        verify=verify if wanted.names == () else with_columns(verify),
        stop=tuple(config.stop),
        own_process=verifier in OWN_PROCESS if isinstance(verifier, str) else False,
    )


def no_demonstrations(name: str, seed: int) -> Iterator[Demonstration]:
    """Refuse to give demonstrations, which a data set does not have.

    Raises:
        ValueError: Always.
    """
    del seed
    raise ValueError(
        f"fine_tuning.steps is above 0 with the task {name}, which has no demonstrations; give fine_tuning.steps=0, or "
        "fine-tune the policy elsewhere and give its folder as policy=PATH"
    )


class _Data:
    """The training and the held-out prompts of a data set, which share no prompt. The data are read once."""

    def __init__(self, source: Sources, config: DataConfig, wanted: Wanted, check: Callable[[Any], Any] | None = None):
        self._source, self._config, self._wanted, self._check = source, config, wanted, check

    def pool(self, num_prompts: int, seed: int) -> PromptPool:
        """Return training prompts, chosen by the seed, in the order of the data."""
        training, _ = self._sides
        say_what_is_left_out(num_prompts, len(training))
        rows = np.random.default_rng(seed).permutation(len(training))[: num_prompts or None]
        return self._templated(training.take(np.sort(rows).tolist()))

    def held_out(self, num_prompts: int) -> PromptPool:
        """Return held-out prompts, the same in every run; a smaller number gives the first ones of a larger number."""
        _, held_out = self._sides
        order = order_of(list(map(digest, held_out.texts)), self._config.held_out_seed)
        return self._templated(held_out.take(order[: num_prompts or None]))

    def all(self, num_prompts: int) -> PromptPool:
        """Return the first prompts, in the order of the data; 0 asks for all."""
        found = self._read(self._source, self._config.split, self._config)
        return self._templated(found.take(range(len(found))[: num_prompts or None]))

    @cached_property
    def _sides(self) -> tuple[PromptPool, PromptPool]:
        config = self._config
        whole = self._read(self._source, config.split, config)
        if not len(whole):
            raise ValueError(f"{self._source} holds no prompts; give data with at least two rows")
        digests = list(map(digest, whole.texts))
        if config.held_out or config.held_out_split:
            held_out = self._held_out()
            if not len(held_out):
                by = "held_out" if config.held_out else "held_out_split"
                raise ValueError(
                    f"data.{by} is {getattr(config, by)!r}, which holds no prompts that can be read; give another file "
                    "or split, or leave it out and give data.held_out_share"
                )
            inside = np.zeros(len(digests), bool)
        else:
            inside = held_out_rows(digests, config.held_out_share, config.held_out_seed)
            held_out = whole.take(np.flatnonzero(inside).tolist())
        apart = set(map(loose_digest, held_out.texts))
        too = ~inside & np.array([loose_digest(text) in apart for text in whole.texts], bool)
        if too.any():
            _log.warning("%d training prompts are left out, because they are held out too", too.sum())
            inside |= too
        if inside.all():
            raise ValueError(
                f"every prompt of {self._source} is held out; give other prompts or a smaller data.held_out_share"
            )
        return whole.take(np.flatnonzero(~inside).tolist()), held_out

    def _held_out(self) -> PromptPool:
        """Read the held-out prompts, whose solve rates, strata and keys nothing uses."""
        source, split = self._config.held_out or self._source, self._config.held_out_split
        config = replace(self._config, rate=NONE, stratum="")
        if config.held_out and is_path(config.held_out):
            config = replace(config, config="")  # it belongs to the training prompts, which are on the hub
        try:
            return self._read(source, split, config)  # with a named key, also prompts that repeat are told apart
        except ValueError:
            if not config.key:
                raise
            return self._read(source, split, replace(config, key=""))

    def _report(self, source: Sources, split: str, config: DataConfig) -> Report:
        try:
            report = read_report(
                source,
                prompt=config.prompt or None,
                answer=_column(config.answer),
                key=config.key or None,
                rate=_column(config.rate),
                split=split or None,
                config=config.config or None,
                merge=config.merge,
                skip_odd=config.skip_odd,
                others=None if self._wanted.names is None else [*self._wanted.names, *filter(None, [config.stratum])],
                images=True,
            )
        except ValueError as error:
            raise ValueError(_with_settings(str(error))) from error
        return report._replace(skipped=list(map(_with_settings, report.skipped)))

    def _read(self, source: Sources, split: str, config: DataConfig) -> PromptPool:
        report = self._report(source, split, config)
        if report.repeats and not config.merge:
            _log.warning("%s; data.merge=true merges those with equal answers", described(report.repeats))
        odd = self._odd_answers(report.pool, source)
        skipped = [*report.skipped, *odd.values()]
        if skipped:
            _log.warning("%d rows that cannot be read are left out: %s", len(skipped), "; ".join(skipped[:3]))
        pool = replace(report.pool, strata=self._strata(report.others, config.stratum))
        if self._wanted.names != ():
            pool = replace(pool, answers=[self._row(*row) for row in zip(pool.answers, report.others, strict=True)])
        return pool.take([row for row in range(len(pool)) if row not in odd]) if odd else pool

    def _odd_answers(self, pool: PromptPool, source: Sources) -> dict[int, str]:
        """Return the rows whose answers the verifier cannot use, each with a message; refuse them without skip_odd."""
        odd: dict[int, str] = {}
        for row, answer in enumerate(pool.answers if self._check else ()):
            try:
                self._check(answer)  # type: ignore[misc]
            except ValueError as error:
                odd[row] = f"prompt {row} of {source}, with the key {pool.keys[row]}: {error}"
                if not self._config.skip_odd:
                    raise ValueError(f"{odd[row]}, or leave out such rows by data.skip_odd=true") from None
        return odd

    def _strata(self, others: Sequence[Mapping[str, Any]], name: str) -> list[str] | None:
        if not name:
            return None
        found = [cell(columns, name) for columns in others]
        row = next((row for row, value in enumerate(found) if value is None), None)
        if row is not None:
            raise ValueError(
                f"data.stratum is {name!r}, which prompt {row} of {self._source} lacks (it has "
                f"{', '.join(sorted(others[row])) or 'no other columns'}); give a column that every row fills"
            )
        return [json.dumps(v, sort_keys=True, default=str) if isinstance(v, dict | list) else str(v) for v in found]

    def _row(self, answer: Any, others: Mapping[str, Any]) -> RowAnswer:
        missing = [name for name in self._wanted.needed if name not in others]
        if missing:
            raise ValueError(
                f"the verifier needs the columns {missing}, which {self._source} lacks; rename a column, or give the "
                "arguments of the verifier default values"
            )
        return RowAnswer(answer, self._wanted.passed(others))

    def _templated(self, pool: PromptPool) -> PromptPool:
        texts: list[Prompt] = [filled(self._config.template, prompt) for prompt in pool.texts]
        return replace(pool, texts=texts)


def _with_settings(message: str) -> str:
    """Return a message of the reader with settings of the command line in place of its arguments."""
    for argument, setting in _SETTINGS.items():
        message = message.replace(argument, setting)
    return message


def _column(name: str) -> str | None:
    return "" if name == NONE else name or None
