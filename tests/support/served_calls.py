"""Calls of a trainer that selects prompts, made to a `TrainerEdge` itself or to a server that holds one."""

from collections.abc import Callable
from typing import Any

import numpy as np

import jaxsel
from jaxsel.integrations._served import Served, encoded
from jaxsel.integrations.edge import TrainerEdge

N = 30
METHOD = jaxsel.mopps()


def make(num_prompts: int = N, **options: Any) -> jaxsel.PromptSelector:
    defaults = {"seed": 0, "track_in_flight": True}
    return jaxsel.PromptSelector(METHOD, keys=list(range(num_prompts)), **defaults | options)


def rewards_of(ids: Any, round_: int = 0, size: int = 4) -> list[list[float | None]]:
    """Return rewards that depend only on the prompt and the round. Some are None."""
    groups = [np.random.default_rng([int(i), round_]).random(size).tolist() for i in ids]
    return [[None if reward < 0.1 else reward for reward in group] for group in groups]


def play(call: Callable[..., Any], rounds: int, *, steps: bool, seed: int = 0) -> list[Any]:
    """Make calls of all kinds, also refused ones, and return what they returned or how they failed."""
    rng, said, late = np.random.default_rng(seed), [], []

    def noted(method: str, **arguments: Any) -> Any:
        try:
            answer = call(method, **arguments)
        except ValueError as error:
            answer = str(error)
        said.append((method, np.asarray(answer).tolist()))
        return answer

    for round_ in range(rounds):
        ids = noted("next_batch", batch_size=int(rng.integers(2, 5)))
        step = round_ // 2 if steps else None
        noted("observe", prompt_ids=ids[:-1], rewards=rewards_of(ids[:-1], round_), step=step)
        late.append(int(ids[-1]))
        kind = rng.integers(6)
        if kind == 0:
            noted("release", prompt_ids=None)
        elif kind == 1:
            noted("release", prompt_ids=late[-1:])
        elif kind == 2:
            noted("end_step")
        elif kind == 3:
            noted("next_batch", batch_size=N + 1)  # more than there are
        elif kind == 4:
            noted("observe", prompt_ids=[N], rewards=[[1.0]])
        if rng.random() < 0.5:  # these ids repeat, and belong to a step that may be over
            noted("observe", prompt_ids=np.array(late), rewards=np.array(rewards_of(late, 1), float), step=step)
    return said


def direct(edge: TrainerEdge) -> Callable[..., Any]:
    return lambda method, **arguments: getattr(edge, method)(**arguments)


class Killed(BaseException):
    """An error in place of the death of the process."""


class Client:
    """Numbers its calls as a worker does. If the server is killed, it starts a new one and tries the call again.

    Args:
        start: Function that starts a server.
    """

    def __init__(self, start: Callable[[], Served], name: str = "worker"):
        self._start, self._name, self._number = start, name, 0
        self.server = start()
        self.restarts = 0

    def __call__(self, method: str, **arguments: Any) -> Any:
        self._number += 1
        texts = {name: encoded(name, value) for name, value in arguments.items()}
        while True:
            try:
                return self.server.call(self._name, self._number, method, texts).value
            except Killed:
                self.restart()

    def restart(self) -> None:
        self.server = self._start()
        self.restarts += 1
