"""One selector for all workers of a Ray cluster: `serve` starts it, and `connect` finds it by name.

This module needs `pip install "jaxsel[ray]"`. It does not import Ray before one of its functions is called.

    selector = serve("selector", make_selector, folder="/shared/run-1/selector")
    prompt_ids = selector.next_batch(256)  # from any worker
    selector.observe(prompt_ids, rewards)

The server is a detached, named actor. It outlives the job that started it, until `stop`. If its process is killed, Ray
starts it again, and it goes on where it was: every call is on disk before it is answered.
"""

import copy
import functools
import importlib
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike

from jaxsel import _validate
from jaxsel.integrations._extras import extra
from jaxsel.integrations._served import encoded, meaning
from jaxsel.integrations._server import Server
from jaxsel.runtime.checkpoint.disk import local_path
from jaxsel.runtime.locking import ProcessBoundLock, locked
from jaxsel.runtime.prompt_selector import PromptSelector

NAMESPACE = "jaxsel"
"""Ray's namespace of the servers, unless another one is given."""
_PAUSE = 0.1  # seconds between two tries to reach a server


class SelectorHandle:
    """A connection to a server, see `serve` and `connect`. It can be sent to any task or actor of the cluster.

    The methods do what the methods of `jaxsel.integrations.edge.TrainerEdge` with the same names do, and raise the same
    errors. The server carries out one call at a time, so two callers never get the same prompt. While the server
    restarts, calls wait and are tried again.

    Threads may share a handle, which makes one call at a time. A handle that is copied or sent elsewhere is another
    client. The server keeps the last answer to each of the last 4096 clients. A call that is tried several times
    therefore counts once, unless 4096 other clients have called between two tries.

    Args:
        name: Name of the server.
        namespace: Ray's namespace.
        patience: Seconds to wait for a server that restarts.

    Raises:
        ValueError: There is no server of this name.
        ImportError: Ray is not installed.
    """

    def __init__(self, name: str, *, namespace: str = NAMESPACE, patience: float = 300.0):
        _validate.positive(patience=patience)
        self.name, self.namespace, self.patience = name, namespace, float(patience)
        self._lock = ProcessBoundLock()
        self._client, self._number, self._order = uuid.uuid4().hex, 0, 0
        self._actor: Any = self._found()

    def __reduce__(self) -> tuple[Any, ...]:
        connected = functools.partial(SelectorHandle, namespace=self.namespace, patience=self.patience)
        return connected, (self.name,)

    def next_batch(self, batch_size: int) -> Int[np.ndarray, " b"]:
        """Hand out distinct prompts that are not in flight: handed out earlier, and not yet observed or released.

        Raises:
            ValueError: There are fewer such prompts than `batch_size`. Nothing is handed out then.
        """
        return np.array(self._call("next_batch", batch_size=batch_size), np.int32)

    def next_prompt(self) -> int:
        """Hand out one prompt that is not in flight. Give `draw_size=` to `serve` if you use this."""
        return int(self.next_batch(1)[0])

    def observe(
        self, prompt_ids: ArrayLike, rewards: ArrayLike | Sequence[Any] | Mapping[str, Any], *, step: int | None = None
    ) -> None:
        """Let the selector learn from rewards. When this returns, the observation is on disk.

        Args:
            prompt_ids: Rows of the pool.
            rewards: One sequence of rewards per id, an array `[b, n]`, or one reward per id, where ids may repeat. Or a
                mapping from the names of several rewards to such a value. Tensors have to be on the CPU.
            step: The trainer's number of the step. All calls with the same number form one step of the selector, also
                calls of different workers; without a number, each call is a step.

        Raises:
            ValueError: An argument is wrong. The state stays as it was.
            OSError: The server cannot write to its folder. The state stays as it was.
        """
        self._call("observe", prompt_ids=prompt_ids, rewards=rewards, step=step)

    def end_step(self) -> None:
        """End the step that `observe(..., step=...)` began."""
        self._call("end_step")

    def release(self, prompt_ids: ArrayLike | None = None) -> None:
        """Give prompts back without an observation; None: all prompts in flight, also those of other workers.

        Prompts of a worker that died stay in flight until a call releases or observes them, or until the selector's
        `in_flight_steps` is over.

        Raises:
            ValueError: An id is not a row of the pool.
        """
        self._call("release", prompt_ids=prompt_ids)

    def metrics(self) -> dict[str, float]:
        """Return the metrics of the selector, and `selector/replayed_calls`.

        This is the number of calls after the last save that the server repeated from its journal at its last start.
        """
        return self._ask("metrics")

    def rows(self, keys: Sequence[Any] | np.ndarray) -> Int[np.ndarray, " b"]:
        """Return the rows of the prompts with these keys. Give `keys=` to `serve` if you use this.

        Raises:
            ValueError: A key is not in the pool, or the server was made without keys.
        """
        return np.array(self._ask("rows", keys.tolist() if isinstance(keys, np.ndarray) else list(keys)), np.int32)

    def save(self, path: str | Path | None = None) -> None:
        """Save the state in the server's folder, and a copy in the file `path`, for a checkpoint of the trainer.

        Raises:
            OSError: The disk is full, or fails otherwise.
        """
        self._ask("save", None if path is None else _absolute(path, "path"))

    def load(self, path: str | Path) -> None:
        """Go back to the state in a file that `save` wrote, when the trainer resumes from that checkpoint.

        Prompts that were in flight are so again: `release` them, unless the trainer generates them again.

        Raises:
            ValueError: The file is missing or damaged, or it is of another method or pool. Nothing changes then.
        """
        self._ask("load", _absolute(path, "path"))

    def stop(self) -> None:
        """Save the state and end the server. `serve` with the same folder continues from there."""
        self.save()
        _end(self._actor, self)

    @locked
    def _call(self, method: str, **arguments: Any) -> Any:
        """Make a call that changes the state, once."""
        texts = {name: encoded(name, value) for name, value in arguments.items()}
        self._number += 1  # a failed call keeps its number too, because the server may have carried it out
        answer = self._ask("call", self._client, self._number, method, texts)
        self._order = answer.order
        return answer.value

    def _ask(self, method: str, *arguments: Any) -> Any:
        return self._reach("ask", method, *arguments)

    def _reach(self, method: str, *arguments: Any) -> Any:
        """Call a method of the actor, and try again while it restarts."""
        ray, deadline = _ray(), time.monotonic() + self.patience
        while True:
            try:
                return ray.get(getattr(self._actor, method).remote(*arguments), timeout=self.patience)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from (None if isinstance(error.cause, ValueError) else error)
            except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"the server {self.name!r} has not answered for {self.patience} seconds; see `ray status` and "
                        "the logs of Ray"
                    ) from error
            time.sleep(_PAUSE)
            self._actor = self._found()  # the server may have been stopped and started again

    def _found(self) -> Any:
        try:
            return _ray().get_actor(self.name, namespace=self.namespace)
        except ValueError as error:
            raise ValueError(
                f"no server is named {self.name!r} in the namespace {self.namespace!r} of this cluster; start it with "
                "jaxsel.integrations.ray.serve"
            ) from error


def serve(
    name: str,
    selector: PromptSelector | Callable[[], PromptSelector],
    *,
    folder: str | Path,
    save_every: int = 10,
    namespace: str = NAMESPACE,
    actor_options: Mapping[str, Any] | None = None,
    patience: float = 300.0,
    **options: Any,
) -> SelectorHandle:
    """Start a server, or connect to the running server of the same name.

    Args:
        name: Name of the server.
        selector: Selector made with `track_in_flight=True`, or a function that makes it. The function runs on the
            server, and again after each restart. It has to return the same selector each time.
        folder: Folder of the server's state, which no other server uses. If it holds a state, the server continues from
            it. Every machine on which Ray may start the server needs to reach it.
        save_every: Number of observations between two saves. Calls after the last save are in a journal. They are not
            lost, but a restart repeats them, so a small number makes restarts quicker. A save waits for the end of a
            step that `observe(..., step=...)` began.
        namespace: Ray's namespace.
        actor_options: Options of Ray's actor, for example `{"num_cpus": 0}`. They replace the defaults of `serve`: the
            server asks for one CPU, and its JAX uses no GPU.
        patience: Seconds to wait for the server to start or restart.
        **options: Arguments of `jaxsel.integrations.edge.TrainerEdge`: `success`, `threshold`, `draw_size`, `keys`,
            `history` and `texts`.

    Raises:
        ValueError: An argument is wrong, the folder is damaged, in use, or of another method or pool, or the running
            server has another method, pool, folder, `success`, `threshold` or `draw_size`.
        TimeoutError: The server has not started in time, for example because no CPU is free. Ray starts it later: call
            `serve` again, or kill the actor.
        ImportError: Ray is not installed.
    """
    _validate.positive_integer(save_every=save_every)
    if not isinstance(name, str) or not name:
        raise ValueError(f"name is {name!r}; give a text that is not empty")
    make = functools.partial(copy.copy, selector) if isinstance(selector, PromptSelector) else selector
    if not callable(make):
        raise ValueError(f"selector is {selector!r:.200}; give a PromptSelector or a function that makes one")
    ray, token, path = _ray(), uuid.uuid4().hex, _absolute(folder, "folder")
    about = {"name": name, "namespace": namespace, "lifetime": "detached", "get_if_exists": True, "num_cpus": 1}
    about |= {"max_restarts": -1, "max_task_retries": 0, "runtime_env": {"env_vars": {"JAX_PLATFORMS": "cpu"}}}
    actor = ray.remote(Server).options(**about | dict(actor_options or {}))
    started = actor.remote(token, make, path, int(save_every), options)
    handle = SelectorHandle(name, namespace=namespace, patience=patience)
    try:
        handle._reach("accept", token, make, path, meaning(options))
    except Exception:
        if ray.get(started.has_failed.remote(), timeout=patience):
            _end(started, handle)
        raise
    return handle


def connect(name: str, *, namespace: str = NAMESPACE, patience: float = 300.0) -> SelectorHandle:
    """Return a handle for the running server of this name, from any worker of the cluster.

    Args:
        name: Name of the server.
        namespace: Ray's namespace.
        patience: Seconds to wait for a server that restarts.

    Raises:
        ValueError: There is no server of this name.
        ImportError: Ray is not installed.
    """
    return SelectorHandle(name, namespace=namespace, patience=patience)


def _end(actor: Any, handle: SelectorHandle) -> None:
    """Kill the actor, and wait until its name is free."""
    _ray().kill(actor)
    while True:
        try:
            handle._found()
        except ValueError:
            return
        time.sleep(_PAUSE)


def _ray() -> Any:
    with extra("ray"):
        return importlib.import_module("ray")


def _absolute(path: str | Path, name: str) -> str:
    return str(local_path(path, name).absolute())
