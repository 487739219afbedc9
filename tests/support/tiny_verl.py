"""verl's own V1 training loop on a CPU, without a model: for test_verl.py and experiments/selection_in_verl.py.

Real here: the Hydra configuration, the data set and data loader, TransferQueue on Ray, the replay buffer, `fit`, the
checkpoint `data.pt` and the log. Not real: the workers with the policy. `Coin` writes completions to TransferQueue by
verl's own `_agent_loop_postprocess`. Their rewards are coin flips, with one success rate per prompt.
"""

import asyncio
import inspect
import json
import os
import types
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
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput  # pyright: ignore[reportMissingImports]
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ  # pyright: ignore[reportMissingImports]
from verl.trainer.ppo.v1.trainer_colocate_async import (  # pyright: ignore[reportMissingImports]
    PPOTrainerColocateAsync,
)
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync  # pyright: ignore[reportMissingImports]

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
Reward = Callable[[int, int, int], Any]


def coin(rates: Sequence[float]) -> Reward:
    """Return rewards, 0 or 1, that depend only on the row, the number of the completion and the step."""
    return lambda row, number, step: float(np.random.default_rng([row, number, step]).random() < rates[row])


def start() -> None:
    """Start Ray and TransferQueue. TransferQueue hangs if Ray has fewer than 8 logical CPUs."""
    torch.set_num_threads(1)
    ray.init("local", num_cpus=16, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    tq.init(_configuration([]).transfer_queue)


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
) -> Run:
    """Train on `folder/train.parquet`, which is made with N rows if it is missing, and return what happened.

    Args:
        folder: Folder of the data, the checkpoints and the log.
        *overrides: Entries of verl's configuration.
        reward: Function of row, number of the completion and step. An exception makes the completion fail.
        mode: "sync" or "colocate_async".
        steps: Number of the last step.
        prompts: Prompts per step.
        completions: Completions per prompt.
        late: Number of prompts of each call whose completions arrive only at the next call.
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
    ]
    log = folder / "log.jsonl"
    os.environ["VERL_FILE_LOGGER_PATH"] = str(log)
    run = Run({"sync": _Sync, "colocate_async": _Async}[mode](config=_configuration([*own, *overrides])))
    try:
        run.trainer.init()
        run.trainer.fit(Coin(run, reward, completions, late))
    finally:
        if left := list((tq.kv_list("train") or {}).get("train", ())):
            tq.kv_clear(keys=left, partition_id="train")
    run.logs = [json.loads(line)["data"] for line in log.read_text().splitlines()]
    return run


class Coin:
    """Stands for verl's manager of agent loops: generates at once, and flips coins for the rewards."""

    def __init__(self, run: Run, reward: Reward, completions: int, late: int):
        self._run, self._reward, self._completions, self._late = run, reward, completions, late
        self._waiting: list[tuple[dict[str, Any], int]] = []

    def generate_sequences(self, batch: Any) -> None:
        asyncio.run(self._generate(batch))

    async def _generate(self, batch: Any) -> None:
        step = int(getattr(batch["global_steps"], "data", batch["global_steps"]))
        prompts = [_entry(batch, at) for at in range(len(batch))]
        self._run.asked.append([_row(prompt) for prompt in prompts])
        now = len(prompts) - self._late
        waiting, self._waiting = self._waiting, [(prompt, step) for prompt in prompts[now:]]
        ready = [*waiting, *((prompt, step) for prompt in prompts[:now])]
        await asyncio.gather(*(self._group(prompt, begun) for prompt, begun in ready))

    async def _group(self, prompt: dict[str, Any], step: int) -> None:
        row, rewards, writes = _row(prompt), [], []
        for number in range(self._completions):
            try:
                rewards.append(self._reward(row, number, step))
            except Exception:
                continue
            done = _completion(rewards[-1])
            writes.append(_POSTPROCESS(_WORKER, done, False, session_id=number, global_steps=step, **prompt))
        failed = len(rewards) < self._completions
        self._run.groups.append((step, row, rewards))
        await asyncio.gather(*writes)
        await tq.async_kv_put(
            key=prompt["uid"], partition_id="train", tag={"status": "failure" if failed else "finished"}
        )


def _completion(reward: Any) -> Any:
    info = reward if isinstance(reward, dict) else {"acc": reward}
    return AgentLoopOutput(
        prompt_ids=[1, 2],
        response_ids=[3, 4],
        response_mask=[1, 1],
        response_logprobs=[0.0, 0.0],
        reward_score=0.9,  # the total, which is above the threshold for wrong answers too
        metrics={},
        extra_fields={"reward_extra_info": info},
        num_turns=2,
    )


def _entry(batch: Any, at: int) -> dict[str, Any]:
    """Return the fields of a prompt, as AgentLoopWorkerTQ.generate_sequences does."""
    entries = {name: values[at] for name, values in batch.items() if name != "global_steps"}
    return {
        name: value if isinstance(value, torch.Tensor) else getattr(value, "data", value)
        for name, value in entries.items()
    }


def _row(prompt: dict[str, Any]) -> int:
    return int(prompt["reward_model"]["ground_truth"])


async def _nothing(*_: Any, **__: Any) -> None: ...


class _Anything:
    """Stands for the workers of the policy: every method accepts all arguments and does nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


_POSTPROCESS = inspect.unwrap(AgentLoopWorkerTQ.__ray_metadata__.modified_class._agent_loop_postprocess)
_WORKER = types.SimpleNamespace(
    _compute_score=_nothing,
    _compute_teacher_logprobs=_nothing,
    _compute_multi_modal_inputs=lambda output, ids: {},
    _compute_position_ids=lambda ids, mask, inputs: torch.arange(ids.shape[1])[None],
)


class _OnCPU:
    """A mixin that leaves out all that needs a policy."""

    def _setup(self: Any) -> None:
        self._init_tokenizer()
        self._init_dataloader()
        self._init_dump_executor()
        self.actor_rollout_wg = self.checkpoint_manager = self.llm_server_manager = _Anything()
        self.teacher_model_manager = self.distillation_config = None
        self.resource_pool_manager = types.SimpleNamespace(get_n_gpus=lambda: 1)
        self.reward_loop_manager = types.SimpleNamespace(reward_loop_worker_handles=[1])
        self.replay_buffer.poll_interval = 0.02
        self._load_checkpoint()

    def _same(self, batch: Any, *_: Any, **__: Any) -> Any:
        return batch

    _balance_batch = _compute_old_log_prob = _compute_ref_log_prob = _compute_advantage = _update_actor = _same

    def _compute_metrics(self, *_: Any, **__: Any) -> None: ...


class _Sync(_OnCPU, PPOTrainerSync): ...


class _Async(_OnCPU, PPOTrainerColocateAsync): ...


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
