"""A vLLM server in its own process, which is started by spawn and can be killed and started again."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# vLLM is installed in an environment of its own, which pyright does not read.

import os
import signal
import threading
import weakref
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import multiprocessing

from rl.engines._vllm_server import Completion, Request, Server
from rl.preemption import SIGNALS
from rl.rollout import Sampling

_GRACE = 30.0  # seconds that a server may need beyond the time limit of a generation
_START = 600.0  # seconds that a server may need to start or to load weights
_VISIBLE = "CUDA_VISIBLE_DEVICES"


class ServerError(RuntimeError):
    """The server failed, died or did not answer in time."""


class OwnProcess:
    """Runs a `Server` in another process and has the same methods. Both processes share memory for the weights.

    On the CPU the shared memory is a copy of the state dict, and a new process loads that copy. On a GPU the weights go
    through CUDA IPC by vLLM's own weight transfer, and a new process loads the current values of the trainer's tensors.

    Args:
        server: The class to construct in the other process.
        folder: The argument `folder` of `Server`.
        options: The argument `options` of `Server`.
        device: The policy's device. The other process sees this GPU alone, because vLLM takes the first one it sees.

    Raises:
        ServerError: The process failed to start.
    """

    def __init__(self, server: type[Server], folder: str, options: dict[str, Any], device: torch.device):
        self._on_gpu = torch.cuda.is_available()
        if self._on_gpu:
            options = options | {"weight_transfer_config": {"backend": "ipc"}}
        visible = visible_gpu(device, os.environ.get(_VISIBLE, "")) if device.type == "cuda" else None
        self._arguments = (server, folder, options, visible)
        self._mailbox: dict[str, torch.Tensor] = {}
        self._transfer: Any = None
        self._weights: Mapping[str, torch.Tensor] = {}
        self._asked = 0
        self._lock = threading.Lock()  # an answer belongs to the thread that asked
        self._start()

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, eos_token_ids: Sequence[int], timeout: float | None
    ) -> list[Completion | None]:
        """Return completions, as `Server.generate` does.

        Raises:
            ServerError: The server failed, died or did not answer in time.
        """
        wait = None if timeout is None else timeout + _GRACE
        return self._ask("generate", list(requests), sampling, eos_token_ids, timeout, wait=wait)

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Load a complete state dict, as `Server.load` does.

        Raises:
            ServerError: The server failed, died or did not answer in time.
        """
        self._weights = weights
        if self._on_gpu:
            self._transfer = self._transfer or transfer_engine(self)
            self._transfer.send_weights()
            return
        if not self._mailbox:
            self._mailbox = {name: torch.empty_like(tensor).share_memory_() for name, tensor in weights.items()}
        for name, tensor in weights.items():
            self._mailbox[name].copy_(tensor)
        self._load_mailbox()

    def current_weights(self) -> Mapping[str, torch.Tensor]:
        """Return the weights that were loaded last."""
        return self._weights

    def call(self, name: str, *arguments: Any) -> None:
        """Call a method of vLLM's interface for weight updates."""
        self._ask("call", name, *arguments, wait=_START)

    def renew(self) -> None:
        """Start a new process without weights."""
        self.close()
        self._start()

    def restart(self) -> None:
        """Start a new process with the weights that were loaded last."""
        self.renew()
        if self._on_gpu:
            self.load(self._weights)
        else:
            self._load_mailbox()

    def close(self) -> None:
        """End the process."""
        self._end()

    def _load_mailbox(self) -> None:
        self._ask("load", list(self._mailbox.items()), wait=_START)

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, *self._arguments), name="vllm")
        self._process.start()
        theirs.close()
        self._end = weakref.finalize(self, _end, self._process, self._pipe)
        self._transfer = None
        self._receive(_START, 0)

    def _ask(self, name: str, *arguments: Any, wait: float | None) -> Any:
        with self._lock:
            self._asked += 1
            try:
                self._pipe.send((self._asked, name, arguments))
            except OSError as error:
                raise ServerError(f"the vLLM process has ended (exit code {self._process.exitcode})") from error
            return self._receive(wait, self._asked)

    def _receive(self, wait: float | None, number: int) -> Any:
        """Return the answer to request `number`; the answer to request 0 says that the server has started."""
        try:
            while self._pipe.poll(wait):
                answered, failed, answer = self._pipe.recv()
                if answered == number and failed:
                    raise ServerError(f"vLLM raised {answer}")
                if answered == number:
                    return answer  # earlier answers belong to interrupted calls
        except (EOFError, OSError) as error:
            self._process.join(1)
            raise ServerError(f"the vLLM process died (exit code {self._process.exitcode})") from error
        raise ServerError(f"the vLLM process has not answered for {wait:.0f} seconds")


def transfer_engine(server: OwnProcess) -> Any:
    """Return vLLM's sender of weights by CUDA IPC for one process on one GPU, as in vLLM's documentation (0.32)."""
    from vllm.distributed.weight_transfer import ParamMeta, WeightSource, WeightTransferTrainerFactory
    from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

    class StateDict(WeightSource):
        """The complete state dict. vLLM's own source omits a tied head, which would keep its old weights."""

        def metadata(self) -> list[ParamMeta]:
            return [ParamMeta(name, w.dtype, tuple(w.shape)) for name, w in server.current_weights().items()]

        def __iter__(self):
            return iter(server.current_weights().items())

    class Client:
        def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
            server.call("init_weight_transfer_engine", {"init_info": init_info})

        def start_weight_update(self) -> None:
            server.call("start_weight_update")

        def update_weights(self, update_info: Any) -> None:
            server.call("update_weights", {"update_info": update_info})

        def finish_weight_update(self, weight_version: str | None = None) -> None:
            server.call("finish_weight_update", weight_version)

    largest = max(w.numel() * w.element_size() for w in server.current_weights().values())
    info = IPCTrainerInitInfo(rank=0, packed=True, packed_buffer_size_bytes=max(2**30, largest))
    return WeightTransferTrainerFactory.trainer_init(info, client=Client(), source=StateDict())


def visible_gpu(device: torch.device, visible: str) -> str:
    """Return the value of CUDA_VISIBLE_DEVICES with which a new process sees one GPU alone.

    Args:
        device: The GPU, as this process numbers it.
        visible: The variable's value in this process; empty if it is not set.
    """
    index = device.index or 0
    return visible.split(",")[index].strip() if visible else str(index)


def _serve(pipe: Connection, make: type[Server], folder: str, options: dict[str, Any], visible: str | None) -> None:
    """Run the other process: answer requests until the pipe is closed."""
    if visible is not None:
        os.environ[_VISIBLE] = visible  # before the first call of CUDA
    for sent in (signal.SIGINT, *SIGNALS):  # SLURM sends these signals to all processes of a step
        signal.signal(sent, signal.SIG_IGN)  # the trainer alone reacts to them
    number = 0
    try:
        server = make(folder, options)
        pipe.send((number, False, None))
        while True:
            number, name, arguments = pipe.recv()
            try:
                answer = (number, False, getattr(server, name)(*arguments))
            except Exception as error:  # the trainer receives every error, and this process continues
                answer = (number, True, repr(error))
            pipe.send(answer)
    except (EOFError, BrokenPipeError):
        return
    except Exception as error:
        pipe.send((number, True, repr(error)))


def _end(process: Any, pipe: Connection) -> None:
    """Kill the process at once; it holds no state that must be saved."""
    pipe.close()
    process.kill()
    process.join()
