"""A policy of a few thousand weights in TRL's trainers, for test_trl.py and for the processes that it starts."""

import json
import os
import time
import zlib
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportMissingImports]

import jaxsel
from jaxsel.integrations.trl import SelectsPrompts
from rl.policy import build_policy

N, K, G = 24, 4, 4  # prompts of the pool, prompts per generation, completions per prompt
DATA = Dataset.from_dict(
    {"prompt": [f"{i % 10}{i // 10}=" for i in range(N)], "row": list(range(N)), "key": [f"p{i}" for i in range(N)]}
)


def reward(completions, row, **_):
    """Return a reward of 0 or 1 per completion, from a hash of it and its row. Later rows succeed more often."""
    return [float(zlib.crc32(f"{c} {r}".encode()) % 100 < 30 + 3 * r) for c, r in zip(completions, row, strict=True)]


class Spy:
    """A mixin that records each generation: training or evaluation, the rows, and the rewards of all processes."""

    def _calculate_rewards(self, inputs, *args, **kwargs):
        rewards = super()._calculate_rewards(inputs, *args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        seen = self.__dict__.setdefault("seen", [])
        seen.append((self.model.training, [row["row"] for row in inputs], rewards.tolist()))  # pyright: ignore[reportAttributeAccessIssue]
        return rewards


def trainer(folder: Path | str, base: Any = GRPOTrainer, config: Any = GRPOConfig, **options: Any) -> Any:
    """Return a trainer; the options go to `SelectsPrompts`, to TRL's trainer or else to its configuration."""
    ours = {"selector", "success", "threshold", "key_column", "history", "reward_funcs", "train_dataset"}
    ours |= {"eval_dataset", "callbacks"}
    given = {name: options.pop(name) for name in ours & options.keys()}
    policy = build_policy("0123456789=", hidden_size=32, num_layers=1, feed_forward_size=32)
    settings = {
        "per_device_train_batch_size": K * G,
        "num_generations": G,
        "max_completion_length": 3,
        "max_steps": 3,
        "learning_rate": 1e-2,
        "beta": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    defaults = {"selector": jaxsel.mopps(), "reward_funcs": reward, "train_dataset": DATA}
    kind = type("Trainer", (SelectsPrompts, Spy, base), {})
    args = config(output_dir=str(folder), **settings | options)
    return kind(model=policy.model, args=args, processing_class=policy.tokenizer, **defaults | given)


def in_two_processes(folder: str) -> None:
    """Train with two processes, resume, and fail in the first process; write what each process has seen."""
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    options = {"per_device_train_batch_size": 6, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    run, again = trainer(folder, **options), trainer(folder, **options)
    run.train()
    again.train(resume_from_checkpoint=str(Path(folder) / "checkpoint-2"))
    found = {"seen": run.seen, "resumed": again.seen, "has_edge": run.edge is not None}
    found["logs"] = [sorted(log) for log in run.state.log_history]
    wrong = jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=N + 1, track_in_flight=True) if rank == 0 else None
    try:
        trainer(folder, selector=wrong, **options)
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {error}"
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()  # a rank that ends with the group still open aborts now and then


def until_killed(folder: Path, steps: int, pace: float = 0.0) -> None:
    """Train with a checkpoint after every step, from the last checkpoint if there is one.

    Args:
        folder: Folder of the run and of its history.
        steps: Number of steps.
        pace: Seconds to wait before each generation, which leave time to kill the process.
    """
    torch.set_num_threads(1)
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "key_column": "key", "max_steps": steps}
    run = trainer(folder / "run", history=folder / "history", **options)
    plain = run._generate_and_score_completions

    def paced(inputs: Any) -> Any:
        time.sleep(pace)
        return plain(inputs)

    run._generate_and_score_completions = paced
    run.train(resume_from_checkpoint=any((folder / "run").glob("checkpoint-*/trainer_state.json")))
