"""One pool, sharded over two nodes by jax.distributed, gives the numbers of one process."""

import json
import signal

import numpy as np
import pytest

from experiments.large_pool.runs import Config, run
from jaxsel import PromptSelector
from tests.support import sharded_pool
from tests.support.local_cluster import SEVERAL_NODES, submit

pytestmark = pytest.mark.slurm


def test_two_nodes_choose_and_save_what_one_process_does(tmp_path):
    job = submit(SEVERAL_NODES, "tests.support.sharded_pool", tmp_path, log=tmp_path / "job.log")
    assert job.end()["JobState"] == "COMPLETED", job.log
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["processes"] == 2
    alone = sharded_pool.make()
    assert found["chosen"] == sharded_pool.play(alone, 6)
    assert found["metrics"] == pytest.approx(alone.metrics(), rel=1e-5)
    restored = PromptSelector.load(tmp_path / "checkpoint", sharded_pool.METHOD, num_prompts=sharded_pool.NUM_PROMPTS)
    np.testing.assert_array_equal(restored.visits, alone.visits)
    np.testing.assert_allclose(restored.predict().success_rate, alone.predict().success_rate, rtol=1e-5)
    assert sharded_pool.play(restored, 3) == sharded_pool.play(alone, 3)


def test_a_large_pool_is_queued_again_after_a_signal_and_keeps_the_finished_runs(tmp_path):
    arguments = ["--sizes", "2000", "--steps", "5", "--batch-size", "16", "--methods", "dps", "mopps", "uniform"]
    arguments += ["--among", "pool", "--seeds", "0", "--runs", tmp_path / "runs", "--out", tmp_path]
    job = submit(SEVERAL_NODES, "experiments.large_pool", *arguments, log=tmp_path / "job.log")
    job.wait_until(lambda: (tmp_path / "runs").exists() and len(list((tmp_path / "runs").glob("*.json"))) >= 2)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*.json")}
    job.signal(signal.SIGUSR1)
    ended = job.end()
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), job.log
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    (summary,) = json.loads((tmp_path / "large_pool.json").read_text())["summary"].values()
    for method in ("dps", "mopps"):
        alone = run(Config(steps=5, batch_size=16), method, 2000, 0, "pool")
        for metric in alone.keys() - {"seconds_a_step", "mixed_shares"}:
            assert summary[method][metric]["mean"] == pytest.approx(alone[metric], rel=1e-5), metric
