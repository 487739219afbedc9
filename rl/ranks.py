"""Training in several processes: what they agree on, and a module whose gradient is that of all."""

import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list, gather_object
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from transformers.modeling_layers import GradientCheckpointingLayer

T = TypeVar("T")
PARALLEL = ("ddp", "fsdp")
_PATIENCE = timedelta(hours=2)  # of ranks that wait while rank 0 embeds a large pool, or warm-starts a policy


class Ranks:
    """The processes of one run, numbered from 0; without an accelerator there is one.

    Most methods wait for the other ranks, so all ranks call the same ones in the same order. An exception that one of
    them meets in a function given here is raised on all, so that nobody waits for a rank that is gone.

    Args:
        accelerator: tells the ranks and how they talk; None: alone.
        parallel: ddp: every rank holds the whole module that is trained; fsdp: each holds a part of every weight and of
            the optimiser's state (FSDP2).

    Attributes:
        rank: the number of this process.
        count: of processes.
        device: where this rank computes: on a GPU where there is one.
        sharded: whether the weights of what is trained are spread over the ranks.

    Raises:
        ValueError: an unknown `parallel`.
    """

    def __init__(self, accelerator: Accelerator | None = None, *, parallel: str = "ddp"):
        if parallel not in PARALLEL:
            raise ValueError(f"parallel is {parallel!r}; give one of {', '.join(PARALLEL)}")
        self._accelerator = accelerator
        self.rank = accelerator.process_index if accelerator else 0
        self.count = accelerator.num_processes if accelerator else 1
        device = accelerator.device if accelerator else torch.accelerator.current_accelerator() or torch.device("cpu")
        self.device = torch.device("cpu") if device.type == "cpu" else device  # Accelerate numbers CPUs, others do not
        self.sharded = self.count > 1 and parallel == "fsdp"

    @property
    def is_main(self) -> bool:
        """Rank 0, which chooses prompts and writes files."""
        return self.rank == 0

    def gather(self, compute: Callable[[], T]) -> list[T]:
        """What `compute` returns on each rank, in order; it travels by pickle."""
        if self.count == 1:
            return [compute()]
        own = _attempt(compute)
        return self._values(own, gather_object([own.portable()]))

    def on_main(self, compute: Callable[[], T]) -> T:
        """What `compute` returns on rank 0; the others do not call it."""
        if self.count == 1:
            return compute()
        own = _attempt(compute) if self.is_main else _Outcome()
        return self._values(own, broadcast_object_list([own.portable()]))[0]

    def each(self, compute: Callable[[], T]) -> T:
        """What `compute` returns on this rank, which stays here; returns when all ranks are done."""
        values: list[T] = []
        self.gather(lambda: values.append(compute()))
        return values[0]

    def main_first(self, compute: Callable[[], T]) -> T:
        """What `compute` returns on this rank; rank 0 goes first, and the others find the files that it wrote."""
        if self.is_main:
            value = self.each(compute)
            self.each(lambda: None)
            return value
        self.each(lambda: None)
        return self.each(compute)

    def stack(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows of all ranks, those of rank 0 first; every rank gives as many."""
        return rows if self._accelerator is None else self._accelerator.gather(rows)  # type: ignore[return-value]

    def own(self, rows: torch.Tensor) -> torch.Tensor:
        """What this rank gave to `stack`."""
        return rows.chunk(self.count)[self.rank]

    def sum(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The sum over ranks of every metric."""
        parts = self.gather(lambda: metrics)
        return {name: sum(part[name] for part in parts) for name in metrics}

    def spread(self, module: torch.nn.Module) -> torch.nn.Module:
        """The module to call in training: a backward pass leaves the mean of the ranks' gradients in the parameters.

        All ranks make as many passes. Where the weights are sharded, the decoder layers gather theirs one by one, and
        the module's parameters are other objects afterwards.
        """
        if self._accelerator is None or self.count == 1:
            return module
        if not self.sharded:
            return self._accelerator.prepare_model(module)
        # Accelerate's own preparation for FSDP2 ignores what it is asked for on the CPU.
        mesh = init_device_mesh(self.device.type, (self.count,))
        for layer in [child for child in module.modules() if isinstance(child, GradientCheckpointingLayer)]:
            fully_shard(layer, mesh=mesh)
        fully_shard(module, mesh=mesh)
        return module

    @contextmanager
    def gradients_of(self, module: torch.nn.Module, *, last: bool) -> Iterator[None]:
        """Within it, a pass of a spread module exchanges gradients only if it is the last one before a step."""
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
            failed = {self.rank: own.error}  # which has a traceback
        if failed:
            rank, error = next(iter(failed.items()))
            error.add_note(f"on rank {rank}")
            raise error
        return [outcome.value for outcome in outcomes]


def join(parallel: str = "ddp") -> Ranks:
    """The ranks that `torchrun` or `accelerate launch` started, or the only one where neither did.

    Raises:
        ValueError: an unknown `parallel`.
        RuntimeError: Accelerate did not find all of them.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Ranks(parallel=parallel)
    cpu = not torch.accelerator.is_available()  # unless told so, Accelerate joins no ranks on the CPU
    # The policy has a precision of its own.
    accelerator = Accelerator(
        cpu=cpu, mixed_precision="no", kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)]
    )
    ranks = Ranks(accelerator, parallel=parallel)
    if ranks.count != count:
        raise RuntimeError(f"WORLD_SIZE is {count}, but Accelerate joined {ranks.count} processes")
    return ranks


def whole(state: Any, *, keep: bool = True) -> Any:
    """A state dict with whole tensors in place of sharded ones; all ranks call it.

    Args:
        state: nested dicts and lists.
        keep: false: this rank only takes part, and has None in place of the sharded tensors.
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
    """The tensor, which every rank has, sharded as `like` is; unchanged where that is whole or of another shape."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    tensor = tensor.to(like.device)
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


class _Outcome(NamedTuple):
    value: Any = None
    error: Exception | None = None

    def portable(self) -> "_Outcome":
        """With an error that survives the journey, as not every class of exceptions does."""
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
    except Exception as error:  # whatever it is, the other ranks have to hear of it
        return _Outcome(error=error)
