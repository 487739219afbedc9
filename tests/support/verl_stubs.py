"""Stand-ins for what verl's V1 trainers need a policy for, and verl's three trainers on top of them.

`Coin` stands for the agent loops. It writes completions to TransferQueue by verl's own `_agent_loop_postprocess`. The
servers of the policy are `_Replica`, which do nothing. The managers around them are verl's own: the one that starts the
servers, the one that synchronises their weights (without the transfer itself), and the load balancer.
"""

import asyncio
import inspect
import random
import threading
import types
from collections.abc import Callable
from typing import Any
from unittest import mock

import ray  # pyright: ignore[reportMissingImports]
import torch
import transfer_queue as tq  # pyright: ignore[reportMissingImports]
from verl.checkpoint_engine import CheckpointEngineManager  # pyright: ignore[reportMissingImports]
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput  # pyright: ignore[reportMissingImports]
from verl.trainer.ppo.v1 import trainer_separate_async  # pyright: ignore[reportMissingImports]
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ  # pyright: ignore[reportMissingImports]
from verl.trainer.ppo.v1.trainer_base import PPOTrainer  # pyright: ignore[reportMissingImports]
from verl.trainer.ppo.v1.trainer_colocate_async import (  # pyright: ignore[reportMissingImports]
    PPOTrainerColocateAsync,
)
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync  # pyright: ignore[reportMissingImports]
from verl.workers.rollout.llm_server import LLMServerManager  # pyright: ignore[reportMissingImports]
from verl.workers.rollout.router import GlobalRequestLoadBalancer  # pyright: ignore[reportMissingImports]

Reward = Callable[[int, int, int], Any]


class Coin:
    """Stands for verl's manager of agent loops: generates, and flips coins for the rewards.

    Args:
        run: The lists `asked` and `groups` note the prompts and the groups.
        reward: Function of row, number of the completion and step. An exception makes the completion fail.
        completions: Completions per prompt.
        late: Number of prompts of each call whose completions arrive only at the next call.
        pace: If positive, completions arrive in the background, each group after at most that many seconds.
        note: Called with each event and its details.
    """

    def __init__(
        self,
        run: Any,
        reward: Reward,
        completions: int,
        *,
        late: int,
        pace: float,
        note: Callable[[str, Any], None],
    ):
        self._run, self._reward, self._completions, self._note = run, reward, completions, note
        self._late, self._pace = late, pace
        self._waiting: list[tuple[dict[str, Any], int]] = []
        self._loop = asyncio.new_event_loop()
        self._background = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._running: list[Any] = []
        if pace:
            self._background.start()

    def generate_sequences(self, batch: Any) -> None:
        step = int(getattr(batch["global_steps"], "data", batch["global_steps"]))
        prompts = [_entry(batch, at) for at in range(len(batch))]
        rows = [_row(prompt) for prompt in prompts]
        self._run.asked.append(rows)
        self._note("asked", {"uids": [prompt["uid"] for prompt in prompts], "rows": rows, "step": step})
        now = len(prompts) - self._late
        waiting, self._waiting = self._waiting, [(prompt, step) for prompt in prompts[now:]]
        ready = [*waiting, *((prompt, step) for prompt in prompts[:now])]
        if self._pace:
            self._running.append(asyncio.run_coroutine_threadsafe(self._generate(ready), self._loop))
        else:
            asyncio.run(self._generate(ready))

    def close(self) -> None:
        """Wait for all groups that are generated in the background."""
        if self._pace:
            for running in self._running:
                running.result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._background.join()
        self._loop.close()

    async def _generate(self, ready: list[tuple[dict[str, Any], int]]) -> None:
        await asyncio.gather(*(self._group(prompt, step) for prompt, step in ready))

    async def _group(self, prompt: dict[str, Any], step: int) -> None:
        if self._pace:
            await tq.async_kv_put(key=prompt["uid"], partition_id="train", tag={"status": "running"})
            await asyncio.sleep(random.uniform(0.5, 1) * self._pace)
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
        self._note("done", {"uid": prompt["uid"], "row": row, "rewards": rewards, "step": step})
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


class _Workers:
    """Stands for the workers of the policy: every method accepts all arguments and does nothing."""

    world_size = 1

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


_POSTPROCESS = inspect.unwrap(AgentLoopWorkerTQ.__ray_metadata__.modified_class._agent_loop_postprocess)
_WORKER = types.SimpleNamespace(
    _compute_score=_nothing,
    _compute_teacher_logprobs=_nothing,
    _compute_multi_modal_inputs=lambda output, ids: {},
    _compute_position_ids=lambda ids, mask, inputs: torch.arange(ids.shape[1])[None],
)


class _Replica:
    """Stands for a server of the policy: every method accepts all arguments and does nothing."""

    def __init__(self, replica_rank: int, **_: Any):
        self._server_address = self._server_handle = f"server {replica_rank}"

    def __getattr__(self, name: str) -> Any:
        return _nothing


class _Servers(LLMServerManager):
    """verl's manager of servers. Its load balancer, verl's own class, runs here and not as an actor of Ray."""

    rollout_replica_class = _Replica

    async def _init_global_load_balancer(self) -> None:
        balancer = GlobalRequestLoadBalancer(dict(zip(self.server_addresses, self.server_handles, strict=True)))
        self.global_load_balancer = _Here(balancer)


class _Here:
    """Calls an object of this process as if it were an actor of Ray."""

    def __init__(self, target: Any):
        self._target = target

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)
        return types.SimpleNamespace(remote=lambda *args, **kwargs: ray.put(method(*args, **kwargs)))


class _Weights(CheckpointEngineManager):
    """verl's manager of the servers' weights, without the transfer of weights."""

    def __init__(self, config: Any, actor_wg: Any, replicas: list[Any]):
        self.config, self.actor_wg, self.replicas = config, actor_wg, replicas

    def update_weights(self, global_steps: int | None = None) -> dict[str, float]:
        self.abort_replicas()
        self.resume_generation_replicas()
        return {}


class _OnCPU(PPOTrainer):
    """verl's trainer without all that needs a policy."""

    def _setup(self: Any) -> None:
        self._init_tokenizer()
        self._init_dataloader()
        self._init_dump_executor()
        self.actor_rollout_wg = _Workers()
        self.llm_server_manager = _Servers.create(config=self.config, worker_group=self.actor_rollout_wg)
        self.checkpoint_manager = _Weights(None, self.actor_rollout_wg, self.llm_server_manager.get_replicas())
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


class _Colocated(_OnCPU, PPOTrainerColocateAsync): ...


class _Separate(trainer_separate_async.PPOTrainerSeparateAsync, _OnCPU):
    """verl's trainer with separate servers. All methods that it adds to verl's common trainer are its own."""

    def _setup(self) -> None:
        managers = {"LLMServerManager": _Servers, "CheckpointEngineManager": _Weights}
        with mock.patch.multiple(trainer_separate_async, **managers):
            super()._setup()


TRAINERS: dict[str, Any] = {"sync": _Sync, "colocate_async": _Colocated, "separate_async": _Separate}
