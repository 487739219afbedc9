"""Selection finds mixed groups in TRL: TRL's own shuffling (stock) against three methods in the same GRPOTrainer.

    make trl
    .venv-trl/bin/python -m experiments.selection_in_trl [--seeds 0 1 2] [--steps 40] [--pool 200]

Claim, on the mean over seeds: in the second half of training, mopps and dps with their default settings and adaptive at
a temperature of 1/3 have at least twice the share of mixed groups that stock has. A group, the completions of one
prompt in one step, is mixed if some but not all of them are correct.

TRL's own GRPOTrainer trains the built-in policy of 0.3 million weights, which was warm-started on string operations. A
step has 16 prompts and 128 completions. Seeds vary the warm start, the pool and the sampling. Stock is the trainer
without `jaxsel.integrations.trl.SelectsPrompts`, which adds the selection. Times are medians over steps without the
first ones, in which functions are compiled. CPU time is the sum over all threads, and depends less on the other load of
the machine than wall-clock time.
"""

import functools
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import jaxsel
from experiments.reporting.provenance import RESULTS, provenance, write_result
from experiments.reporting.spread import standard_error
from experiments.reporting.tables import text_table
from experiments.running.command import Distinct, module_parser, quiet_pipe
from jaxsel.integrations.trl import SelectsPrompts
from rl.prompts import Task
from rl.tasks import string_ops
from rl.warm_start import WarmStartConfig, warm_start

GROUP, PROMPTS = 8, 16  # completions per prompt, prompts per step
METHODS = {"mopps": jaxsel.mopps, "dps": jaxsel.dps, "adaptive": functools.partial(jaxsel.adaptive, temperature=1 / 3)}
WARM_UP = 5  # the first steps, in which functions are compiled; the medians of times leave them out


def main(arguments: list[str]) -> None:
    """Run every method at every seed, print a table and write the result."""
    parser = module_parser("experiments.selection_in_trl", __doc__)
    parser.add_argument("--seeds", type=int, nargs="+", action=Distinct, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--pool", type=int, default=200, help="prompts")
    parser.add_argument("--methods", nargs="+", choices=["stock", *METHODS], default=["stock", *METHODS])
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the result")
    config = vars(parser.parse_args(arguments))
    output = config.pop("output")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    runs = [
        run(method, seed, config["steps"], config["pool"]) for seed in config["seeds"] for method in config["methods"]
    ]
    write_result(output / "selection_in_trl.json", provenance(config, config["seeds"]) | {"runs": runs})
    lines = [line(method, [one for one in runs if one["method"] == method]) for method in config["methods"]]
    columns = [
        "prompts",
        "mixed, second half",
        "per seed",
        "held-out accuracy",
        "ms per step",
        "CPU ms",
        "selection ms",
    ]
    print(text_table("mixed groups in TRL", columns, lines))


def line(method: str, runs: list[dict[str, Any]]) -> list[str]:
    """Return the method's line of the table."""
    late = [one["mixed_second_half"] for one in runs]
    error = float(standard_error(np.array(late)))
    times = [np.mean([one[name] for one in runs]) for name in ("step_ms", "step_cpu_ms", "selection_ms")]
    solved = np.mean([one["held_out_accuracy"] for one in runs])
    seeds = " ".join(f"{share:.2f}" for share in late)
    return [method, f"{np.mean(late):.3f} ({error:.3f})", seeds, f"{solved:.3f}", *(f"{ms:.1f}" for ms in times)]


def run(method: str, seed: int, steps: int, pool_size: int) -> dict[str, Any]:
    """Train once and return the shares of mixed groups and the times."""
    from datasets import Dataset
    from trl import GRPOTrainer  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    task = string_ops.make()
    policy = warm_start(task, WarmStartConfig(steps=2500, seed=seed))
    pool = task.pool(pool_size, seed)
    data = Dataset.from_dict({"prompt": list(pool.texts), "answer": list(pool.answers), "key": list(pool.keys)})
    groups: list[np.ndarray] = []
    cpu: list[float] = []

    def correct(completions: list[str], answer: list[str], **_: Any) -> list[float]:
        cpu.append(time.process_time())
        pairs = zip(completions, answer, strict=True)
        rewards = [float(string_ops.verify(text, right).success) for text, right in pairs]
        groups.append(np.reshape(rewards, (-1, GROUP)).mean(1))
        return rewards

    with tempfile.TemporaryDirectory() as folder:
        options = {
            "model": policy.model,
            "args": _settings(folder, task, steps, seed),
            "train_dataset": data,
            "reward_funcs": correct,
        }
        options |= {"processing_class": policy.tokenizer}
        seconds: list[float] = []
        if method == "stock":
            trainer: Any = GRPOTrainer(**options)
        else:
            kind = type("Trainer", (SelectsPrompts, GRPOTrainer), {})
            trainer = kind(selector=METHODS[method](), key_column="key", **options)
            seconds = timed(trainer.edge)
        trainer.train()
        steps_ms = [1000 * log["step_time"] for log in trainer.state.log_history if "step_time" in log]
    mixed = [float(((rates > 0) & (rates < 1)).mean()) for rates in groups]
    return {
        "method": method,
        "seed": seed,
        "mixed_first_half": float(np.mean(mixed[: steps // 2])),
        "mixed_second_half": float(np.mean(mixed[steps // 2 :])),
        "mixed": mixed,
        "held_out_accuracy": accuracy(policy, task),
        "step_ms": float(np.median(steps_ms[WARM_UP:])),
        "step_cpu_ms": float(1000 * np.median(np.diff(cpu)[WARM_UP:])),
        "selection_ms": float(1000 * np.median(seconds[WARM_UP:])) if seconds else 0.0,
    }


def _settings(folder: str, task: Task, steps: int, seed: int) -> Any:
    from trl import GRPOConfig  # pyright: ignore[reportMissingImports]

    return GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=PROMPTS * GROUP,
        num_generations=GROUP,
        max_completion_length=task.max_new_tokens,
        max_steps=steps,
        learning_rate=4e-5,
        lr_scheduler_type="constant",
        temperature=1.0,
        beta=0.0,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=seed,
    )


def timed(edge: Any) -> list[float]:
    """Wrap the methods of the trainer's edge, the object that asks the selector and informs it, in timers.

    Return a list to which every step adds the seconds of these methods.
    """
    seconds: list[float] = []

    def clocked(name: str) -> Any:
        plain = getattr(edge, name)

        def call(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            result = plain(*arguments, **named)
            taken = time.perf_counter() - start
            if name == "next_batch":
                seconds.append(0.0)
            if seconds:
                seconds[-1] += taken
            return result

        return call

    for name in ("next_batch", "observe", "end_step", "metrics"):
        setattr(edge, name, clocked(name))
    return seconds


def accuracy(policy: Any, task: Any) -> float:
    """Return the mean success rate on 200 held-out prompts after training, from 4 completions per prompt."""
    from rl.engines.hf import HFEngine
    from rl.rollout import Sampling

    pool = task.held_out(200)
    policy.model.eval()
    found = HFEngine(policy).generate(list(pool.texts), 4, Sampling(max_new_tokens=task.max_new_tokens), seed=0)
    answers = np.repeat(list(pool.answers), 4)
    return float(
        np.mean([task.verify(text, answer).success for text, answer in zip(found.texts, answers, strict=True)])
    )


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
