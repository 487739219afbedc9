"""The methods mopps and dps in torch on whole tensors, with one thread or all threads, whichever is faster."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from experiments.benchmarks.clock import median_milliseconds
from experiments.benchmarks.peers.common import DPS_DECAY, MOPPS_DECAY, Peer


def has_gpu() -> bool:
    """Return whether torch sees a GPU."""
    return torch.cuda.is_available()


class TorchPeer(Peer):
    """A peer whose batches and state are on one device."""

    def __init__(self, num_prompts: int, seed: int, device: str = "cpu"):
        super().__init__(num_prompts, seed)
        self.device = device
        torch.manual_seed(seed)

    def place(self, prompt_ids: np.ndarray, successes: np.ndarray, group_size: int) -> tuple[Any, Any, int]:
        """Copy a batch to the device."""
        ids = torch.from_numpy(prompt_ids.astype(np.int64))
        return ids.to(self.device), torch.from_numpy(successes).to(self.device), group_size

    def tune(self, step: Callable[[], object]) -> None:
        """Use one thread or all, whichever is faster; one is faster for small tensors and on busy machines."""
        times = {}
        for threads in (1, os.cpu_count() or 1):
            torch.set_num_threads(threads)
            times[threads] = median_milliseconds(step, repeats=5)
        torch.set_num_threads(min(times, key=times.__getitem__))

    def wait(self, result: Any = None) -> Any:
        """Wait for the GPU, and return the result."""
        if self.device != "cpu":
            torch.cuda.synchronize()
        return result


class TorchMopps(TorchPeer):
    """MoPPS by `torch.distributions.Beta` and `topk`."""

    def __init__(self, num_prompts: int, seed: int, device: str = "cpu"):
        super().__init__(num_prompts, seed, device)
        self.alpha = torch.ones(num_prompts, device=device)
        self.beta = torch.ones(num_prompts, device=device)

    def select(self, batch_size: int) -> torch.Tensor:
        """Choose the prompts whose draws are nearest to one half."""
        draw = torch.distributions.Beta(self.alpha, self.beta, validate_args=False).sample()
        return self.wait((draw - 0.5).abs().neg().topk(batch_size).indices)

    def observe(self, prompt_ids: torch.Tensor, successes: torch.Tensor, group_size: int) -> None:
        """Discount the counts of the batch's prompts, and add the new successes and failures."""
        d, ids = MOPPS_DECAY, prompt_ids
        self.alpha[ids] = d * self.alpha[ids] + (1 - d) + successes
        self.beta[ids] = d * self.beta[ids] + (1 - d) + group_size - successes
        self.wait()

    def predict(self) -> torch.Tensor:
        """Return posterior means."""
        return self.wait(self.alpha / (self.alpha + self.beta))


class TorchDps(TorchPeer):
    """DPS on whole tensors with prompts on the last axis, updated in place where possible."""

    fused = True

    def __init__(self, num_prompts: int, seed: int, device: str = "cpu"):
        super().__init__(num_prompts, seed, device)
        self.counts = torch.ones(3, 3, num_prompts, device=device)
        self.filtered = torch.full((3, num_prompts), 1 / 3, device=device)
        self.predicted = self.filtered.clone()
        self.weight = torch.empty_like(self.filtered)
        self.identity = torch.eye(3, device=device)

    def select(self, batch_size: int) -> torch.Tensor:
        """Choose the prompts with the largest predicted P(mixed)."""
        return self.wait(self.predicted[1].topk(batch_size).indices)

    def observe(self, prompt_ids: torch.Tensor, successes: torch.Tensor, group_size: int) -> None:
        """Advance every prompt by one step, and predict the solve state of its next group."""
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
        """Return the prediction that `observe` has already computed."""
        return self.predicted
