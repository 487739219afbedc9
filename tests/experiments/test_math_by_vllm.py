"""The task `math` with vLLM, from the command line. The policy is tiny and random, and the problems are made up."""

import importlib.util
import json
import string
import subprocess
import sys
from pathlib import Path

import pytest

from rl.policy import build_policy

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="no vLLM in this environment; see `make vllm`"),
]
ROOT = Path(__file__).parents[2]


def test_the_command_trains_on_problems_of_math(tmp_path):
    rows = [{"problem": f"What is ${i} + {i * i}$?", "solution": rf"It is \boxed{{{i + i * i}}}."} for i in range(12)]
    (tmp_path / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    policy = build_policy(string.printable, hidden_size=64, num_layers=2, feed_forward_size=64)
    policy.save(tmp_path / "model")
    settings = ["engine.name=vllm", "pool_size=8", "held_out_size=4", "probe_size=4", "data.max_new_tokens=8"]
    settings += ["method.batch_size=2", "method.candidate_ratio=2", "train.steps=2", "train.group_size=2", "threads=1"]
    settings += ["train.kl_weight=0.1"]  # no completion is right, so that rewards alone would train nothing
    places = [
        f"task=math:{tmp_path / 'train.jsonl'}",
        f"policy={tmp_path / 'model'}",
        f"hydra.run.dir={tmp_path / 'run'}",
    ]
    command = [sys.executable, "-m", "experiments.train", *places, *settings]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [0, 1, 2]
    assert records[0]["policy/log_prob_gap_max"] < 1e-3  # vLLM and the trainer agree about what was sampled
    assert records[0]["probe/judged_share"] == 1
