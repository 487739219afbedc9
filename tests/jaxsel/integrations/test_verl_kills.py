"""Runs of verl that are killed at random moments and resumed. `make verl KILLS=20` kills each of them 20 times."""

import multiprocessing
import os
import time
from collections import Counter

import numpy as np
import pytest

from tests.support.verl_lane import HAS_VERL, MARKS, NO_VERL

if not HAS_VERL:
    pytest.skip(NO_VERL, allow_module_level=True)

from jaxsel.integrations.history import read_history
from tests.support.tiny_verl import K
from tests.support.verl_killed import read_journal, rows_of, saved_step, survivors, until_killed

pytestmark = MARKS
KILLS = int(os.environ.get("KILLS", "1"))
LATE, PACE = 2, 0.2  # prompts whose completions arrive one call later; seconds


@pytest.fixture(scope="module")
def context():
    found = multiprocessing.get_context("forkserver")  # its server imports verl once for all processes
    found.set_forkserver_preload(["tests.support.verl_killed"])
    return found


def kill_often(context, folder, rng, *how):
    """Begin and kill a run KILLS times. Every kill but the first may come before the process has a new checkpoint."""
    for _ in range(KILLS):
        before, lines = saved_step(folder), len(read_journal(folder))
        process = context.Process(target=until_killed, args=(folder, how[0], 10**6, *how[1:]))
        process.start()
        early = before and rng.random() < 0.3
        while process.is_alive() and (len(read_journal(folder)) == lines if early else saved_step(folder) <= before):
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 3 if early else 1))  # a step takes about a third of a second
        assert process.is_alive()
        process.kill()
        process.join()


def finish(context, folder, steps, *how):
    process = context.Process(target=until_killed, args=(folder, how[0], steps, *how[1:]))
    process.start()
    process.join()
    assert process.exitcode == 0


@pytest.mark.parametrize(
    ("mode", "late", "pace"), [("sync", 0, 0), ("colocate_async", LATE, 0), ("separate_async", 0, PACE)]
)
def test_killed_runs_lose_and_repeat_no_observation(tmp_path, context, mode, late, pace):
    folder, rng = tmp_path / "killed", np.random.default_rng(len(mode))
    folder.mkdir()
    kill_often(context, folder, rng, mode, late, pace)
    steps = saved_step(folder) + 3
    finish(context, folder, steps, mode, late, pace)
    journal = read_journal(folder)
    assert sum(line["kind"] == "begun" for line in journal) == KILLS + 1
    prompts, groups = survivors(journal)
    found = read_history(folder / "history").rollouts
    observed = Counter(zip(*(found[name].tolist() for name in ("prompt_id", "successes", "group_size")), strict=True))
    assert observed <= groups
    prompts.subtract(rows_of(observed.elements()))
    assert +prompts == Counter(journal[-1]["in_flight"])
    assert not -prompts
    assert observed.total() >= (steps - 1) * K
    if mode == "sync":  # there, a resumed run repeats the uninterrupted one
        (tmp_path / "through").mkdir()
        finish(context, tmp_path / "through", steps, mode, late, pace)
        for name, column in read_history(tmp_path / "through" / "history").rollouts.items():
            np.testing.assert_array_equal(column, found[name], err_msg=name)
