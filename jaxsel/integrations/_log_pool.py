"""Finds the prompts of a log among the rows of a pool, so that a selector can start from the log's results."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxsel import _validate
from jaxsel.evaluation.replay import History, make_history
from jaxsel.integrations._log_rows import PoolRows
from jaxsel.runtime.prompt_selector import PromptSelector


class OnPool(NamedTuple):
    """A history whose prompt ids are rows of a pool.

    Attributes:
        history: The visits of the prompts that are in the pool. Its steps are those of the log.
        num_prompts: Number of prompts in the pool.
        unmatched: Prompts of the log that are not in the pool, or whose text or key belongs to several of its rows. A
            warning counts them.
    """

    history: History
    num_prompts: int
    unmatched: list[str]


def on_pool(
    history: History, logged: Sequence[str], prompts: Sequence[Any], *, keys: Sequence[Any] | None = None
) -> OnPool:
    """Return a log's history with the rows of your pool as prompt ids.

    A prompt of the log belongs to the first of these rows that exists:

    * the row with the same key;
    * the row with the same text or messages;
    * the row with the same user message, where a conversation has one, and at most one other message;
    * the row whose text stands inside the log's prompt, for example between the words of a chat template. A row of
      several texts, such as a conversation of three messages, needs all of them in their order.

    A text inside a longer word, number or term is another prompt. If several texts of the pool stand inside the log's
    prompt, the one counts whose surrounding words are the same in most prompts. If a prompt fits these words, but has
    more between them than a text of the pool, it is a longer problem and stays unmatched.

    Args:
        history: The history of a log, such as `Imported.history`.
        logged: The prompts of the log, such as `Imported.prompts`.
        prompts: The prompts of the pool: texts or lists of messages.
        keys: The keys of the pool's rows, for logs that name prompts by key. None: no keys.

    Raises:
        ValueError: No prompt of the log is in the pool, `keys` and `prompts` differ in length, or `logged` is too short
            for the history.

    Warns:
        UserWarning: Some prompts of the log are unmatched. Their visits are left out.
    """
    if keys is not None and len(keys) != len(prompts):
        raise ValueError(f"keys has {len(keys)} entries for {len(prompts)} prompts; give one key per prompt")
    _validate.made(History, history=history)
    logged = list(logged)  # an array or a column of pandas is not true or false
    if history.prompt_ids.max(initial=-1) >= len(logged):
        raise ValueError(f"logged has {len(logged)} entries; give all prompts of the log, one per id of its history")
    rows = PoolRows(prompts, keys).find(logged)
    if all(row is None for row in rows):
        shown = f"{logged[0]:.60}" if logged else ""
        raise ValueError(
            f"no prompt of the log, such as {shown!r}, is in the pool; give the prompts or keys of its pool"
        )
    unmatched = [name for name, row in zip(logged, rows, strict=True) if row is None]
    if unmatched:
        warnings.warn(
            f"{len(unmatched)} of {len(logged)} prompts of the log, such as {unmatched[0][:60]!r}, are not in the "
            "pool, or in several of its rows. Their visits are left out; give the pool of the log, or its keys",
            stacklevel=2,
        )
    found = np.array([-1 if row is None else row for row in rows])[history.prompt_ids]
    known = found >= 0
    kept = make_history(
        history.step[known],
        found[known],
        history.successes[known],
        history.group_size[known],
        num_prompts=len(prompts),
    )
    return OnPool(kept, len(prompts), unmatched)


def warm_start(selector: PromptSelector, history: History) -> None:
    """Let a selector observe a history, one call per step. A step without visits is a call too: it ages older visits.

    Args:
        selector: The selector of the pool.
        history: The history on the same pool, such as `OnPool.history`.

    Raises:
        ValueError: A prompt id is not a row of the pool. The selector stays as it was.
    """
    _validate.made(History, history=history)
    _validate.integers("history.prompt_ids", history.prompt_ids, low=0, high=selector.num_prompts)
    for visits in history.batches():
        selector.observe(*visits)
