"""Kept completions: resumed runs, failed generations, and readers beside a running writer."""

import math

import numpy as np
import pytest
import torch

from rl.finish import FAILED, LENGTH
from rl.groups import Groups
from rl.prompts import PromptPool
from rl.rollout import Completions
from rl.run_folder.completions import CompletionLog, read_completions

POOL = PromptPool(["1=", "2=", [{"role": "user", "content": "3="}]], ["1", "2", "3"], ["a", "b", "c"])


def groups(step: int) -> Groups:
    """Return two completions of each prompt. The second of the first prompt failed."""
    ones = torch.ones(6, 2, dtype=torch.int64)
    texts = [f"{step}.{i}" if i != 1 else None for i in range(6)]
    completions = Completions(ones[:3], ones[:3], ones, ones.bool(), ones.float(), texts)
    rewards = torch.tensor([[1.0, math.nan], [0, 1], [0, 0]])
    reasons = np.full((3, 2), LENGTH, np.int8)
    reasons[0, 1] = FAILED
    counts = np.array([1, 1, 0], np.int32)
    return Groups(
        np.arange(3, dtype=np.int32), completions, rewards, counts, counts, (rewards == 1).numpy(), finish=reasons
    )


def test_failed_generations_and_messages(tmp_path):
    log = CompletionLog(tmp_path / "completions", 5)
    log.add(0, groups(0), POOL)
    log.flush()
    rows = read_completions(tmp_path / "completions").to_pylist()
    assert [row["completion"] for row in rows] == ["0.0", None, "0.2", "0.3", "0.4", "0.5"]
    assert [row["reward"] for row in rows] == [1, None, 0, 1, 0, 0]
    assert [row["success"] for row in rows] == [True, None, False, True, False, False]
    assert [row["finish"] for row in rows] == ["length", "failed", *["length"] * 4]
    assert "3=" in rows[4]["prompt"]


def test_a_lone_surrogate_is_written_as_a_question_mark(tmp_path):
    log, broken = CompletionLog(tmp_path, 1), groups(0)
    broken.completions.texts[0] = "a\ud800b"
    log.add(0, broken, PromptPool(["\ud8001=", "2=", "3="], ["1", "2", "3"], ["\ud800a", "b", "c"]))
    log.flush()
    first = read_completions(tmp_path).to_pylist()[0]
    assert (first["prompt"], first["key"], first["completion"]) == ("?1=", "?a", "a?b")


@pytest.mark.parametrize("first_step", range(6))
def test_a_resumed_run_repeats_its_steps(tmp_path, first_step):
    """Steps are flushed two at a time. The rows of repeated steps are dropped, whatever file they are in."""
    log = CompletionLog(tmp_path, 1)
    for step in range(5):
        log.add(step, groups(step), POOL)
        if step % 2:
            log.flush()
    again = CompletionLog(tmp_path, 1, first_step=min(first_step, 4))
    for step in range(min(first_step, 4), 6):
        again.add(step, groups(step), POOL)
        again.flush()
    found = read_completions(tmp_path)
    assert found["step"].to_pylist() == [step for step in range(6) for _ in range(2)]
    assert len(set(found["completion"].to_pylist())) == 7  # one per step and None


def test_a_run_that_keeps_no_more_drops_repeated_steps_too(tmp_path):
    log = CompletionLog(tmp_path, 1)
    for step in range(3):
        log.add(step, groups(step), POOL)
        log.flush()
    none = CompletionLog(tmp_path, 0, first_step=2)
    none.add(2, groups(2), POOL)
    none.flush()
    assert set(read_completions(tmp_path)["step"].to_pylist()) == {0, 1}
    CompletionLog(tmp_path / "nothing", 0).flush()
    assert not (tmp_path / "nothing").exists()


def test_a_reader_sees_whole_files_only(tmp_path, monkeypatch):
    """A write that fails halfway leaves what was there."""
    log = CompletionLog(tmp_path, 1)
    log.add(0, groups(0), POOL)
    log.flush()
    before = read_completions(tmp_path)

    def torn(table, file):
        file.write(b"PAR1 half a file")
        raise OSError("disk is full")

    monkeypatch.setattr("jaxsel.integrations.parquet_parts.pq.write_table", torn)
    log.add(1, groups(1), POOL)
    with pytest.raises(OSError, match=r"part-000001.parquet"):
        log.flush()
    assert read_completions(tmp_path) == before


def test_a_damaged_file_is_named(tmp_path):
    log = CompletionLog(tmp_path, 1)
    log.add(0, groups(0), POOL)
    log.flush()
    (tmp_path / "part-000000.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"part-000000.parquet is damaged .*; put back a copy of it, or delete"):
        read_completions(tmp_path)
