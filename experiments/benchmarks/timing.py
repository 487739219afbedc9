"""Times of implementations that take turns: each does the same step in every round, so that disturbances affect all."""

import gc
from typing import Any, NamedTuple

import numpy as np

from experiments.benchmarks.clock import milliseconds
from experiments.benchmarks.peers.common import GROUP_SIZE, Peer

Row = dict[str, Any]

OPERATIONS = ("select", "observe", "predict", "select + observe", "observe + predict")
WARM_UPS = 3
HISTORY = 4  # batches, each a quarter of the pool, that every implementation observes before the first turn
LARGEST_HISTORY = 2_500_000  # prompts in such a batch
OUTCOMES = 1_000_000  # prompts whose outcomes are drawn; a larger pool repeats these outcomes


class Data(NamedTuple):
    """The observations, the same for all implementations.

    Attributes:
        successes: Successes in one group of `GROUP_SIZE` rollouts of every prompt, shape [N].
        history: Prompt ids of the batches before the first turn.
        batches: Prompt ids of one batch per turn, repeated in a cycle.
    """

    successes: np.ndarray
    history: list[np.ndarray]
    batches: list[np.ndarray]


def make_data(num_prompts: int, observe_size: int, seed: int) -> Data:
    """Return observations of a pool; in a fifth of its groups all rollouts fail, and in a fifth all succeed."""
    rng = np.random.default_rng(seed)
    outcomes = rng.binomial(GROUP_SIZE, rng.beta(0.5, 0.5, min(num_prompts, OUTCOMES))).astype(np.int32)

    def batches(number: int, size: int) -> list[np.ndarray]:
        return [rng.choice(num_prompts, size, replace=False, shuffle=False).astype(np.int32) for _ in range(number)]

    history = batches(HISTORY, min(num_prompts // 4, LARGEST_HISTORY))
    return Data(np.resize(outcomes, num_prompts), history, batches(8, observe_size))


def replay(contender: Peer, data: Data) -> None:
    """Let a contender observe the history."""
    for ids in data.history:
        contender.observe(*contender.place(ids, data.successes[ids], GROUP_SIZE))


def take_turns(
    contenders: dict[str, Peer], data: Data, *, select_size: int, repeats: int, seconds: float
) -> dict[str, list[tuple[float, float, float]]]:
    """Return the milliseconds of select, observe and predict, one entry per turn.

    Args:
        contenders: Implementations by name.
        data: Observations before and during the turns.
        select_size: Number of prompts to choose.
        repeats: Turns per contender.
        seconds: A contender takes no further turn once its turns, without the warm-up, have taken this time in total.
    """
    times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in contenders}
    for contender in contenders.values():
        replay(contender, data)
        _warm_up(contender, data, select_size, seconds)
    gc.collect()
    gc.disable()
    try:
        for turn in range(repeats):
            for name, contender in contenders.items():
                if not times[name] or np.sum(times[name]) < 1000 * seconds:
                    times[name].append(_step(contender, data, turn, select_size))
    finally:
        gc.enable()
    return times


def rows(times: dict[str, list[tuple[float, float, float]]], fused: set[str], **labels: Any) -> list[Row]:
    """Return one row per implementation and operation, with median and quartiles in milliseconds.

    The implementations in `fused` predict when they observe; their `predict`, which does nothing, has no row.
    """
    found = []
    for name, taken in times.items():
        select, observe, predict = np.array(taken).T
        parts = (select, observe, predict, select + observe, observe + predict)
        for operation, part in zip(OPERATIONS, parts, strict=True):
            if name in fused and operation == "predict":
                continue
            low, median, high = np.percentile(part, [25, 50, 75]).tolist()
            row = {"operation": operation, "implementation": name, "ms": median, "quartiles": [low, high]}
            found.append({**labels, **row, "repeats": len(part), "fused": name in fused})
    return found


def _warm_up(contender: Peer, data: Data, select_size: int, seconds: float) -> None:
    spent = 0.0
    for turn in range(WARM_UPS):
        if spent <= 1000 * seconds:
            spent += sum(_step(contender, data, turn, select_size))
    contender.tune(lambda: _step(contender, data, 0, select_size))


def _step(contender: Peer, data: Data, turn: int, select_size: int) -> tuple[float, float, float]:
    """Time one training step; all contenders observe the same prompts, whatever they choose."""
    ids = data.batches[turn % len(data.batches)]
    batch = contender.place(ids, data.successes[ids], GROUP_SIZE)
    chosen = milliseconds(lambda: contender.select(select_size))
    contender.forget()
    return (
        chosen,
        milliseconds(lambda: contender.observe(*batch)),
        milliseconds(contender.predict),
    )
