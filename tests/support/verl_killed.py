"""A run of verl that can be killed at any moment, and what its journal says about it afterwards."""

import json
import math
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jaxsel.integrations._verl_buffer  # noqa: F401  (imported once, for all processes that are forked from this one)
from tests.support.tiny_verl import SELECTED, N, coin, start, stop, train

RATES = [(row + 0.5) / N for row in range(N)]
TRACKER = Path("checkpoints", "latest_checkpointed_iteration.txt")


def saved_step(folder: Path) -> int:
    """Return the step of the last checkpoint; 0 if there is none.

    verl empties the file with this number before it writes the next number. All of the newest checkpoint is on disk
    then.
    """
    if not (folder / TRACKER).exists():
        return 0
    newest = max(int(path.name.split("_")[-1]) for path in (folder / TRACKER).parent.glob("global_step_*"))
    return int((folder / TRACKER).read_text() or newest)


def until_killed(folder: Path, mode: str, steps: int, late: int, pace: float) -> None:
    """Train with a checkpoint after every step, from the last checkpoint if there is one.

    The file journal.jsonl gets a line when the process begins, when verl asks for completions, when a group is done,
    and when the process has finished all steps.
    """
    start()
    options = [*SELECTED, f"+data.jaxsel.history={folder}/history"]
    options += ["trainer.save_freq=1", "trainer.resume_mode=auto"]
    journal = os.open(folder / "journal.jsonl", os.O_APPEND | os.O_CREAT | os.O_WRONLY)

    def note(kind: str, detail: Any) -> None:
        os.write(journal, json.dumps({"kind": kind} | detail).encode() + b"\n")  # a kill cannot cut one write short

    if saved := saved_step(folder):
        (folder / TRACKER).write_text(str(saved))  # verl cannot resume if a kill left this file empty
    note("begun", {"saved": saved})
    run = train(folder, *options, reward=coin(RATES), mode=mode, steps=steps, late=late, pace=pace, note=note)
    note("finished", {"in_flight": run.edge.handed_out.tolist()})
    stop()


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of the journal, oldest first."""
    path = folder / "journal.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def survivors(journal: list[dict[str, Any]]) -> tuple[Counter[int], Counter[tuple[int, int, int]]]:
    """Return the prompts and the groups that belong to the run, from all that its processes did.

    What a process did after the checkpoint from which the next process begins is undone. A group that was not finished
    at that checkpoint is generated again, so that its last rewards are the rewards that count.

    Returns:
        Prompts: the number of groups per row.
        Groups: (row, successes, completions) of every group that was finished.
    """
    begun = [at for at, line in enumerate(journal) if line["kind"] == "begun"]
    cuts = [*(journal[at]["saved"] for at in begun[1:]), math.inf]
    row_of: dict[str, int] = {}
    for first, after, cut in zip(begun, [*begun[1:], len(journal)], cuts, strict=True):
        for line in journal[first:after]:
            if line["kind"] == "asked" and line["step"] <= cut:
                row_of |= dict(zip(line["uids"], line["rows"], strict=True))
    last = {line["uid"]: line["rewards"] for line in journal if line["kind"] == "done" and line["uid"] in row_of}
    groups = [(row_of[uid], int(sum(rewards)), len(rewards)) for uid, rewards in last.items()]
    return Counter(row_of.values()), Counter(groups)


def rows_of(groups: Iterable[tuple[int, int, int]]) -> Counter[int]:
    """Return the number of groups per row."""
    return Counter(row for row, _, _ in groups)
