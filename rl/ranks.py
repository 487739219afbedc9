"""Training in several processes: exchange of values, and modules whose gradient is the mean over all processes."""

import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, broadcast_object_list, gather_object
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from transformers.modeling_layers import GradientCheckpointingLayer

from rl import _checks
from rl.names import PARALLEL
from rl.preemption import PreemptedError

T = TypeVar("T")
_PATIENCE = timedelta(hours=2)  # rank 0 may embed a large pool or warm-start a policy while the others wait


class Ranks:
    """The processes (ranks) of one run, numbered from 0.

    Most methods wait for the other ranks. All ranks must therefore call the same methods in the same order. An
    exception that a given function raises on one rank is raised on all ranks, so that no rank waits forever.

    Args:
        accelerator: The accelerator that connects the ranks. None: this process is the only rank.
        parallel: ddp: every rank holds the whole trained module; fsdp: each rank holds a part of every weight and of
            the optimiser's state (FSDP2).

    Attributes:
        rank: The number of this process.
        count: The number of processes.
        device: The device of this rank, which is a GPU if there is one.
        sharded: Whether the trained weights are sharded over the ranks.

    Raises:
        ValueError: `parallel` is unknown.
    """

    def __init__(self, accelerator: Accelerator | None = None, *, parallel: str = "ddp"):
        _checks.one_of(PARALLEL, parallel=parallel)
        self._accelerator = accelerator
        self.rank = accelerator.process_index if accelerator else 0
        self.count = accelerator.num_processes if accelerator else 1
        device = accelerator.device if accelerator else _accelerator() or torch.device("cpu")
        self.device = torch.device("cpu") if device.type == "cpu" else device  # Accelerate calls it cpu:0
        self.sharded = self.count > 1 and parallel == "fsdp"

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which chooses prompts and writes files."""
        return self.rank == 0

    def gather(self, compute: Callable[[], T]) -> list[T]:
        """Return the results of `compute` on all ranks, in the order of the ranks. The results are sent by pickle."""
        if self.count == 1:
            return [compute()]
        own = _attempt(compute)
        return self._values(own, gather_object([own.portable()]))

    def on_main(self, compute: Callable[[], T]) -> T:
        """Return the result of `compute` on rank 0. The other ranks do not call it."""
        if self.count == 1:
            return compute()
        own = _attempt(compute) if self.is_main else _Outcome()
        return self._values(own, broadcast_object_list([own.portable()]))[0]

    def each(self, compute: Callable[[], T]) -> T:
        """Return the result of `compute` on this rank, once all ranks have finished. The result is not sent."""
        values: list[T] = []
        self.gather(lambda: values.append(compute()))
        return values[0]

    def main_first(self, compute: Callable[[], T]) -> T:
        """Return the result of `compute` on this rank. Rank 0 computes first, so that the others find its files."""
        if self.is_main:
            value = self.each(compute)
            self.each(lambda: None)
            return value
        self.each(lambda: None)
        return self.each(compute)

    def stack(self, rows: torch.Tensor) -> torch.Tensor:
        """Concatenate the rows of all ranks in the order of the ranks. Every rank gives the same number of rows."""
        return rows if self._accelerator is None else self._accelerator.gather(rows)  # type: ignore[return-value]

    def own(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows that this rank gave to `stack`."""
        return rows.chunk(self.count)[self.rank]

    def sum(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the sum of every metric over the ranks."""
        parts = self.gather(lambda: metrics)
        return {name: sum(part[name] for part in parts) for name in metrics}

    def spread(self, module: torch.nn.Module, *, some_unused: bool = False) -> torch.nn.Module:
        """Return the module to call in training, whose backward pass averages the gradients over the ranks.

        All ranks must make the same number of passes. If the weights are sharded, each decoder layer gathers its
        weights when it is called. The module then has new parameter objects.

        Args:
            module: The module.
            some_unused: Whether a pass may use only some of the weights.
        """
        if self._accelerator is None or self.count == 1:
            return module
        if not self.sharded:
            handler = DistributedDataParallelKwargs(find_unused_parameters=some_unused)
            self._accelerator.ddp_handler = handler  # type: ignore[assignment]
            return self._accelerator.prepare_model(module)
        # Accelerate's own preparation for FSDP2 ignores its settings on the CPU.
        mesh = init_device_mesh(self.device.type, (self.count,))
        for layer in [child for child in module.modules() if isinstance(child, GradientCheckpointingLayer)]:
            fully_shard(layer, mesh=mesh)
        fully_shard(module, mesh=mesh)
        return module

    @contextmanager
    def gradients_of(self, module: torch.nn.Module, *, last: bool) -> Iterator[None]:
        """Exchange gradients in the `with` block only for the last backward pass before an optimiser step."""
        if isinstance(module, FSDPModule):
            module.set_requires_gradient_sync(last)
        if isinstance(module, DistributedDataParallel) and not last:
            with module.no_sync():
                yield
        else:
            yield

    def _values(self, own: "_Outcome", outcomes: list[Any]) -> list[Any]:
        failed = {rank: outcome.error for rank, outcome in enumerate(outcomes) if outcome.error is not None}
        if own.error is not None:
            failed = {self.rank: own.error}  # unlike a received error, it has a traceback
        if failed:
            rank, error = next(iter(failed.items()))
            error.add_note(f"on rank {rank}")
            raise error
        return [outcome.value for outcome in outcomes]


def join(parallel: str = "ddp") -> Ranks:
    """Return the ranks that `torchrun` or `accelerate launch` started, or a single rank if neither did.

    Raises:
        ValueError: `parallel` is unknown.
        RuntimeError: Accelerate did not connect all processes.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Ranks(parallel=parallel)
    cpu = _accelerator() is None  # without this argument Accelerate joins no ranks on the CPU
    # Accelerate sets no precision, because the policy sets its own.
    accelerator = Accelerator(
        cpu=cpu, mixed_precision="no", kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)]
    )
    ranks = Ranks(accelerator, parallel=parallel)
    if ranks.count != count:
        cure = "start them with torchrun or accelerate launch"
        raise RuntimeError(f"WORLD_SIZE is {count}, but Accelerate joined {ranks.count} processes; {cure}")
    return ranks


def _accelerator() -> torch.device | None:
    """Return the accelerator to train on, if there is one."""
    found = torch.accelerator.current_accelerator()
    return None if found is None or found.type == "mps" else found  # Apple's has no float64, which advantages need


def whole(state: Any, *, keep: bool = True) -> Any:
    """Return a state dict with whole tensors in place of sharded tensors. All ranks must call it.

    Args:
        state: A state dict of nested dicts and lists.
        keep: Whether this rank keeps the whole tensors. False: it only takes part in the exchange, and gets None in
            place of each sharded tensor.
    """
    if isinstance(state, DTensor):
        gathered = state.full_tensor()
        return gathered if keep else None
    if isinstance(state, Mapping):
        return {name: whole(value, keep=keep) for name, value in state.items()}
    if isinstance(state, list):
        return [whole(value, keep=keep) for value in state]
    return state


def sharded_like(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Shard a tensor, which every rank holds, as `like` is; unchanged if `like` is whole or has another shape."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    tensor = tensor.to(like.device)
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


class _Outcome(NamedTuple):
    value: Any = None
    error: BaseException | None = None

    def portable(self) -> "_Outcome":
        """Return the outcome, with a RuntimeError in place of an error that cannot be pickled."""
        if self.error is None:
            return self
        try:
            pickle.loads(pickle.dumps(self.error))
        except Exception:
            return _Outcome(error=RuntimeError(f"{type(self.error).__name__}: {self.error}"))
        return self


def _attempt(compute: Callable[[], Any]) -> _Outcome:
    try:
        return _Outcome(compute())
    except (Exception, PreemptedError) as error:  # the other ranks must raise every error too
        return _Outcome(error=error)
