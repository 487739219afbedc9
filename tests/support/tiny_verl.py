"""verl's own V1 training loop on a CPU, without a model: for the tests of verl and experiments/selection_in_verl.py.

Real here: the Hydra configuration, the data set and data loader, TransferQueue on Ray, the replay buffer, `fit`, the
checkpoint and the log. Not real: the workers with the policy, for which verl_stubs.py has stand-ins. Their rewards are
coin flips, with one success rate per prompt.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFER_QUEUE_ENABLE": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray  # pyright: ignore[reportMissingImports]
import torch
import transfer_queue as tq  # pyright: ignore[reportMissingImports]
import verl  # pyright: ignore[reportMissingImports]
from hydra import compose, initialize_config_dir
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.support.verl_stubs import TRAINERS, Coin, Reward

N, K, G = 24, 4, 4  # prompts of the pool, prompts per step, completions per prompt
SELECTED = (
    "data.custom_cls.path=pkg://jaxsel.integrations.verl",
    "data.custom_cls.name=SelectedPrompts",
    "trainer.v1.sampler.custom_sampler.path=pkg://jaxsel.integrations.verl",
    "trainer.v1.sampler.custom_sampler.name=replay_buffer",
    "data.dataloader_num_workers=0",
    "+data.jaxsel.method=mopps",
    "+data.jaxsel.arguments.group_size=${actor_rollout_ref.rollout.n}",
)
DAPO = ("algorithm.filter_groups.enable=True", "algorithm.filter_groups.metric=acc")
SEPARATE = (  # what verl demands in the mode "separate_async"; each step has two updates of the policy
    "trainer.v1.separate_async.parameter_sync_step=2",
    f"actor_rollout_ref.actor.ppo_mini_batch_size={K // 2}",
    "actor_rollout_ref.rollout.nnodes=1",
    "actor_rollout_ref.rollout.n_gpus_per_node=1",
    "actor_rollout_ref.rollout.checkpoint_engine.backend=nccl",
)


def coin(rates: Sequence[float]) -> Reward:
    """Return rewards, 0 or 1, that depend only on the row, the number of the completion and the step."""
    return lambda row, number, step: float(np.random.default_rng([row, number, step]).random() < rates[row])


def start() -> None:
    """Start Ray and TransferQueue, with two of its storage units instead of eight, which would take half a minute."""
    torch.set_num_threads(1)
    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    units = "transfer_queue.backend.SimpleStorage.num_data_storage_units=2"
    tq.init(_configuration([units]).transfer_queue)


def stop() -> None:
    """Stop TransferQueue and Ray."""
    tq.close()
    ray.shutdown()


def write_rows(path: Path, extra_info: Sequence[Any], **columns: Sequence[Any]) -> None:
    """Write a file of prompts in verl's format."""
    n = len(extra_info)
    table = {
        "data_source": ["toy"] * n,
        "prompt": [[{"role": "user", "content": f"q{row}"}] for row in range(n)],
        "reward_model": [{"style": "rule", "ground_truth": str(row)} for row in range(n)],
        "extra_info": list(extra_info),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table | columns), path)


def numbered(n: int) -> list[dict[str, Any]]:
    """Return the column `extra_info` as verl's own scripts write it."""
    return [{"index": row, "split": "train"} for row in range(n)]


@dataclass
class Run:
    """What happened in a run.

    Attributes:
        trainer: verl's trainer.
        asked: Rows of each call for completions.
        groups: Step, row and rewards of each group that was generated; a failed completion has no reward.
        logs: verl's own log, one entry per step.
    """

    trainer: Any
    asked: list[list[int]] = field(default_factory=list)
    groups: list[tuple[int, int, list[Any]]] = field(default_factory=list)
    logs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def edge(self) -> Any:
        return self.trainer.train_dataset.outcomes.edge


def train(
    folder: Path,
    *overrides: str,
    reward: Reward,
    mode: str = "sync",
    steps: int = 4,
    prompts: int = K,
    completions: int = G,
    late: int = 0,
    pace: float = 0.0,
    note: Callable[[str, Any], None] = lambda *_: None,
) -> Run:
    """Train on `folder/train.parquet`, which is made with N rows if it is missing, and return what happened.

    Args:
        folder: Folder of the data, the checkpoints and the log.
        *overrides: Entries of verl's configuration.
        reward: Function of row, number of the completion and step. An exception makes the completion fail.
        mode: "sync", "colocate_async" or "separate_async".
        steps: Number of the last step.
        prompts: Prompts per step.
        completions: Completions per prompt.
        late: Number of prompts of each call whose completions arrive only at the next call.
        pace: If positive, completions arrive in the background, each group after at most that many seconds.
        note: Called with what happens: "asked" with uids, rows and step; "done" with uid, row, rewards and step.
    """
    if not (folder / "train.parquet").exists():
        write_rows(folder / "train.parquet", numbered(N))
    write_rows(folder / "val.parquet", numbered(2))
    _write_tokenizer(folder / "policy")
    own = [
        f"data.train_files={folder}/train.parquet",
        f"data.val_files={folder}/val.parquet",
        f"data.train_batch_size={prompts}",
        "data.shuffle=False",
        "data.filter_overlong_prompts=False",
        f"actor_rollout_ref.rollout.n={completions}",
        f"actor_rollout_ref.model.path={folder}/policy",
        "actor_rollout_ref.rollout.name=vllm",
        "algorithm.adv_estimator=grpo",
        "trainer.logger=[file]",
        f"trainer.total_training_steps={steps}",
        "trainer.total_epochs=1000",
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
        "trainer.save_freq=-1",
        f"trainer.default_local_dir={folder}/checkpoints",
        f"trainer.v1.trainer_mode={mode}",
        "trainer.n_gpus_per_node=1",
        "trainer.resume_mode=disable",
        *(SEPARATE if mode == "separate_async" else ()),
    ]
    log = folder / "log.jsonl"
    os.environ["VERL_FILE_LOGGER_PATH"] = str(log)
    run = Run(TRAINERS[mode](config=_configuration([*own, *overrides])))
    agent_loops = Coin(run, reward, completions, late=late, pace=pace, note=note)
    try:
        run.trainer.init()
        run.trainer.fit(agent_loops)
    finally:
        agent_loops.close()
        if left := list((tq.kv_list("train") or {}).get("train", ())):
            tq.kv_clear(keys=left, partition_id="train")
    run.logs = [json.loads(line)["data"] for line in log.read_text().splitlines()]
    return run


def _configuration(overrides: list[str]) -> Any:
    folder = str(Path(verl.__path__[0], "trainer/config"))
    with initialize_config_dir(config_dir=folder, version_base=None):
        config = compose("ppo_trainer", overrides=overrides)
    config.transfer_queue.enable = True
    return config


def _write_tokenizer(folder: Path) -> None:
    if folder.exists():
        return
    words = Tokenizer(models.WordLevel({"<unk>": 0, **{f"q{row}": row + 1 for row in range(N)}}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<unk>", eos_token="<unk>")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))


def mixed_share(groups: Sequence[Sequence[float]]) -> float:
    """Return the share of groups with both correct and wrong completions."""
    return float(np.mean([0 < sum(rewards) < len(rewards) for rewards in groups]))
