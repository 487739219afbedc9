"""Torch on whole tensors, on one thread or on all, whichever is faster."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from experiments.benchmarks.clock import median_milliseconds
from experiments.benchmarks.peers.common import DPS_DECAY, MOPPS_DECAY, Peer


def has_gpu() -> bool:
    """Whether torch sees one."""
    return torch.cuda.is_available()


class TorchPeer(Peer):
    """Batches and state on one device."""

    def __init__(self, num_prompts: int, seed: int, device: str = "cpu"):
        super().__init__(num_prompts, seed)
        self.device = device
        torch.manual_seed(seed)

    def place(self, prompt_ids: np.ndarray, successes: np.ndarray, group_size: int) -> tuple[Any, Any, int]:
        """Copies to the device."""
        ids = torch.from_numpy(prompt_ids.astype(np.int64))
        return ids.to(self.device), torch.from_numpy(successes).to(self.device), group_size

    def tune(self, step: Callable[[], object]) -> None:
        """Sets the number of threads, of this process: small tensors and busy machines are better off with one."""
        times = {}
        for threads in (1, os.cpu_count() or 1):
            torch.set_num_threads(threads)
            times[threads] = median_milliseconds(step, repeats=5)
        torch.set_num_threads(min(times, key=times.__getitem__))

    def wait(self, result: Any = None) -> Any:
        """Returns when a GPU has done its work."""
        if self.device != "cpu":
            torch.cuda.synchronize()
        return result


class TorchMopps(TorchPeer):
    """`torch.distributions.Beta` and `topk`."""

    def __init__(self, num_prompts: int, seed: int, device: str = "cpu"):
        super().__init__(num_prompts, seed, device)
        self.alpha = torch.ones(num_prompts, device=device)
        self.beta = torch.ones(num_prompts, device=device)

    def select(self, batch_size: int) -> torch.Tensor:
        """The draws nearest to one half."""
        draw = torch.distributions.Beta(self.alpha, self.beta, validate_args=False).sample()
        return self.wait((draw - 0.5).abs().neg().topk(batch_size).indices)

    def observe(self, prompt_ids: torch.Tensor, successes: torch.Tensor, group_size: int) -> None:
        """Discounts the visited prompts and adds their counts."""
        d, ids = MOPPS_DECAY, prompt_ids
        self.alpha[ids] = d * self.alpha[ids] + (1 - d) + successes
        self.beta[ids] = d * self.beta[ids] + (1 - d) + group_size - successes
        self.wait()

    def predict(self) -> torch.Tensor:
        """Posterior means."""
        return self.wait(self.alpha / (self.alpha + self.beta))


class TorchDps(TorchPeer):
    """The recursion on whole tensors, prompts on the fastest axis, in place where it can be."""

    fused = True

    def __init__(self, num_prompts: int, seed: int, device: str = "cpu"):
        super().__init__(num_prompts, seed, device)
        self.counts = torch.ones(3, 3, num_prompts, device=device)
        self.filtered = torch.full((3, num_prompts), 1 / 3, device=device)
        self.predicted = self.filtered.clone()
        self.weight = torch.empty_like(self.filtered)
        self.identity = torch.eye(3, device=device)

    def select(self, batch_size: int) -> torch.Tensor:
        """The largest predicted P(mixed)."""
        return self.wait(self.predicted[1].topk(batch_size).indices)

    def observe(self, prompt_ids: torch.Tensor, successes: torch.Tensor, group_size: int) -> None:
        """One step of everybody's clock; the prediction of the next group comes with it."""
        state = 1 + (successes == group_size).long() - (successes == 0).long()
        rows, observed = self.counts[:, :, prompt_ids], self.identity[:, state]
        joint = self.filtered[:, None, prompt_ids] * rows / rows.sum(1, keepdim=True) * observed
        self.counts.mul_(DPS_DECAY).add_(1 - DPS_DECAY)
        self.counts[:, :, prompt_ids] += joint / joint.sum((0, 1))
        self.filtered, self.predicted = self.predicted, self.filtered
        self.filtered[:, prompt_ids] = observed
        torch.sum(self.counts, 1, out=self.weight)
        torch.div(self.filtered, self.weight, out=self.weight)
        torch.mul(self.weight[0], self.counts[0], out=self.predicted)
        self.predicted.addcmul_(self.weight[1], self.counts[1])
        self.predicted.addcmul_(self.weight[2], self.counts[2])
        self.wait()

    def predict(self) -> torch.Tensor:
        """What the last observation left; no work."""
        return self.predicted
