"""verl's replay buffers, which also let the selector observe every finished group. Imports verl."""

import copy
import inspect
import math
from importlib import metadata
from typing import Any

import transfer_queue  # pyright: ignore[reportMissingImports]
from verl.trainer.ppo.v1.replay_buffer import (  # pyright: ignore[reportMissingImports]
    ReplayBuffer,
    ReplayBufferAsync,
)
from verl.utils.dataset.rl_dataset import get_dataset_class  # pyright: ignore[reportMissingImports]

from jaxsel.integrations._verl_dataset import SelectedPrompts, buffers
from jaxsel.integrations._verl_outcomes import ROW, Outcomes, one_per_session, reward_of

_Buffer: Any = object  # stands for verl's replay buffer, the next base class
_HOOKS = {
    "_terminal_eviction_reasons": ["self", "global_steps", "partition_id"],
    "sample": ["self", "global_steps", "partition_id", "batch_size"],
}


class _Observes(_Buffer):
    """Collects each group when verl first sees that it is finished, before verl drops, filters or uses it."""

    def __init__(self, stock: Any, trainer: Any):
        self.__dict__.update(vars(stock))
        self._trainer = trainer
        self.refill_fn = self._refill
        buffers.add(self)

    @property
    def data_config(self) -> Any:
        return self._trainer.config.data

    @property
    def warmup(self) -> int:
        """The number of prompts that verl generates before the first step."""
        batches = 0 if self.trainer_mode == "sync" else self.trainer_config.num_warmup_batches
        return math.floor(batches * self.data_config.train_batch_size)

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> Any:
        batch, metrics = super().sample(global_steps, partition_id, batch_size)
        if partition_id != "train":
            return batch, metrics
        outcomes = self._outcomes
        outcomes.tell(global_steps, drained=not (self.pending_keys["train"] or self.running_keys["train"]))
        if global_steps >= self._trainer.total_training_steps:
            outcomes.edge.flush()
        return batch, metrics | outcomes.edge.metrics()

    def _terminal_eviction_reasons(self, global_steps: int, partition_id: str) -> Any:
        if partition_id == "train":
            self._collect()
        return super()._terminal_eviction_reasons(global_steps, partition_id)

    def _collect(self) -> None:
        """Collect the rewards of the groups that have finished since the last call."""
        groups = self._outcomes.unseen(self.finished_keys["train"] | self.failure_keys["train"])
        sessions = one_per_session(self.partitions["train"], groups)
        rows: dict[str, int] = {}
        rewards: dict[str, list[Any]] = {}
        stored = self._stored(list(sessions.values()), ROW, "extra_fields")
        for (group, _), row, extra in zip(sessions, *stored, strict=True):
            rows[group] = _plain(row)
            rewards.setdefault(group, []).append(reward_of(extra, self._trainer.train_dataset.success))
        if self.trainer_mode != "sync":  # then verl stores the prompt too, so that a group without completions is known
            failed = sorted(groups - rows.keys())
            rows |= dict(zip(failed, map(_plain, self._stored(failed, ROW)[0]), strict=True))
        for group, row in rows.items():
            self._outcomes.add(group, row, rewards.get(group, []))

    def _stored(self, keys: list[str], *fields: str) -> list[list[Any]]:
        """Return fields of the entries with these keys in verl's store (TransferQueue), one list per field."""
        if not keys:
            return [[] for _ in fields]
        data = transfer_queue.kv_batch_get(keys=keys, partition_id="train", select_fields=list(fields))
        return [list(data[field]) for field in fields]

    def _refill(self, num_prompts: int) -> Any:
        self._outcomes.make_room(num_prompts, self._trainer.global_steps)
        return self._trainer._add_prompts_to_generate(num_prompts)

    @property
    def _outcomes(self) -> Outcomes:
        return self._trainer.train_dataset.outcomes


class ObservingReplayBuffer(_Observes, ReplayBuffer):
    """The replay buffer for the synchronous trainer."""


class ObservingReplayBufferAsync(_Observes, ReplayBufferAsync):
    """The replay buffer for the asynchronous trainers."""


def make_buffer(*, refill_fn: Any = None, **arguments: Any) -> Any:
    """Return verl's own replay buffer for this trainer, extended so that it observes.

    Raises:
        ValueError: The data set is not `SelectedPrompts`, or rewards are computed only after verl samples.
        RuntimeError: This version of verl has other methods than the tested version.
    """
    trainer: Any = getattr(refill_fn, "__self__", None)
    _check_verl(trainer)
    config = trainer.config
    if not issubclass(get_dataset_class(config.data), SelectedPrompts):
        raise ValueError(
            "the replay buffer would observe prompts that no selector chose; set "
            "data.custom_cls.path=pkg://jaxsel.integrations.verl and data.custom_cls.name=SelectedPrompts"
        )
    model = config.reward.reward_model
    if model.enable and not model.enable_resource_pool:
        raise ValueError(
            "reward.reward_model shares the GPUs of the policy, so verl computes rewards only after it has sampled a "
            "batch; set reward.reward_model.enable_resource_pool=true, or use a reward function"
        )
    if config.skip.rollout_tq.enable:
        raise ValueError("skip.rollout_tq.enable is true, so verl trains on stored completions; set it to false")
    stock = _stock_buffer(trainer)
    kind = ObservingReplayBufferAsync if isinstance(stock, ReplayBufferAsync) else ObservingReplayBuffer
    return kind(stock, trainer)


def _stock_buffer(trainer: Any) -> Any:
    """Return the buffer that verl makes without a custom sampler, which has DAPO's filter if that is enabled."""
    plain = copy.copy(trainer)
    plain.config = copy.deepcopy(trainer.config)
    plain.config.trainer.v1.sampler.custom_sampler.path = None
    return plain._build_replay_buffer()


def _check_verl(trainer: Any) -> None:
    """Refuse a version of verl that lacks a method of `_HOOKS`, or has it with other parameters."""
    found = {
        kind.__name__: {name: list(inspect.signature(getattr(kind, name, _none)).parameters) for name in _HOOKS}
        for kind in (ReplayBuffer, ReplayBufferAsync)
    }
    known = all(methods == _HOOKS for methods in found.values())
    if not known or not all(hasattr(trainer, name) for name in ("_build_replay_buffer", "config")):
        raise RuntimeError(
            f"jaxsel was tested with verl 0.9.1, and verl {metadata.version('verl')} has other methods: {found}; "
            'pip install "verl==0.9.1"'
        )


def _none() -> None: ...


def _plain(row: Any) -> int:
    return int(getattr(row, "data", row))
