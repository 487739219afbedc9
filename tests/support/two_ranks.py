"""The two processes of test_ranks.py. One launch runs all cases, because imports take longer than the cases."""

import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rl.preemption import PreemptedError
from rl.train_config import TrainConfig
from tests.support import warm_processes

SCRIPT = """
from tests.support.two_ranks import main
main({folder!r})
"""


def environment(rank: int, port: int) -> dict[str, str]:
    """Return the environment variables that torchrun would set for this rank on a machine without GPUs."""
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    names = {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    return os.environ | names | {name: str(value) for name, value in own.items()}


def launch(command: list[str], folder: Path, *, timeout: float = 300) -> None:
    """Run a command on two ranks. The first failure or the timeout ends both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    logs = [folder / f"{rank}.log" for rank in range(2)]
    processes = [warm_processes.start(command, log, log, environment(rank, port)) for rank, log in enumerate(logs)]
    deadline = time.monotonic() + timeout
    try:
        while any(p.exitcode is None for p in processes) and not any(p.exitcode for p in processes):
            assert time.monotonic() < deadline, "the ranks hang\n" + "\n".join(log.read_text() for log in logs)
            time.sleep(0.05)
    finally:
        for process in processes:
            process.kill()
            process.join()
    assert [p.exitcode for p in processes] == [0, 0], "\n".join(log.read_text() for log in logs)


def run_all(folder: Path) -> list[dict[str, Any]]:
    """Return the results of each rank by case."""
    launch([sys.executable, "-c", SCRIPT.format(folder=str(folder))], folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


ONE_JUDGED = [[float("nan")] * 3, [float("nan"), 1.0, float("nan")]]
SEVEN_ROWS = [[1.0, 0, 0, 1], [1, 1, float("nan"), 1], [0, 1, 0, float("nan")]]
UPDATES: dict[str, tuple[dict[str, Any], list[list[float]]]] = {
    "token_mean": ({}, SEVEN_ROWS),
    "sequence_mean": ({"aggregation": "sequence_mean", "updates_per_batch": 2}, SEVEN_ROWS),
    "clipped": ({"max_grad_norm": 0.01, "advantage": "reinforce_pp"}, SEVEN_ROWS),
    "kl": ({"kl_weight": 0.5}, SEVEN_ROWS),
    "importance": ({"importance_cap": 2.0, "updates_per_batch": 2}, SEVEN_ROWS),
    "mapp": ({"advantage": "mapp"}, SEVEN_ROWS),
    "gae": ({"advantage": "gae", "aggregation": "sequence_mean"}, SEVEN_ROWS),
    "everything": (
        {
            "advantage": "gae",
            "kl_weight": 0.5,
            "importance_cap": 2.0,
            "updates_per_batch": 2,
            "gradient_checkpointing": True,
        },
        SEVEN_ROWS,
    ),
    "gspo": ({"policy_loss": "gspo", "aggregation": "sequence_mean", "updates_per_batch": 2}, SEVEN_ROWS),
    "cispo": ({"policy_loss": "cispo", "aggregation": "constant_length", "mini_batch_size": 5}, SEVEN_ROWS),
    "reinforce_pp_tokens": (
        {"advantage": "reinforce_pp_tokens", "reward_kl_weight": 0.3, "discount": 0.9, "mini_batch_size": 4},
        SEVEN_ROWS,
    ),
    "one row": ({"advantage": "gae", "kl_weight": 0.5}, ONE_JUDGED),
    "no row": ({}, [[1.0, 1, 1], [0, 0, 0]]),
}


TRAIN = {"ddp": TrainConfig(steps=5, group_size=4, learning_rate=1e-3, probe_every=2, checkpoint_every=2)}
TRAIN["fsdp"] = replace(TRAIN["ddp"], micro_batch_size=5, advantage="gae", kl_weight=0.1)
TRAIN["ddp"] = replace(
    TRAIN["ddp"], advantage="mapp", keep_completions=2, lr_schedule="linear"
)  # every rank needs the beliefs of the selector on rank 0


def main(folder: str) -> None:
    """Run every case on one rank. Both ranks run the same cases."""
    torch.set_num_threads(1)
    from rl.ranks import Ranks, join
    from tests.rl import conftest

    ranks = join()
    sharded = Ranks(ranks._accelerator, parallel="fsdp")
    task = conftest.task.__wrapped__()  # type: ignore[attr-defined]
    found: dict[str, Any] = {"rank": ranks.rank, "count": ranks.count}
    for name, (options, rewards) in UPDATES.items():
        kinds = {"ddp": ranks, "fsdp": sharded} | ({"alone": Ranks()} if ranks.is_main else {})
        for kind, which in kinds.items():
            found[f"{name}, {kind}"] = _update(task, which, options, torch.tensor(rewards))
    for kind, which in {"ddp": ranks, "fsdp": sharded, "alone": Ranks()}.items():
        found[f"vision, {kind}"] = _texts_with_vision(task, which)
    found["agree"] = _agree(ranks)
    found["engine"] = _engine(task, ranks)
    found["selector"] = _selector(ranks)
    for kind, which in {"ddp": ranks, "fsdp": sharded}.items():
        found[f"train, {kind}"] = _train(task, which, Path(folder) / kind)
    torch.save(found, Path(folder) / f"{ranks.rank}.pt")
    torch.distributed.destroy_process_group()


def _error(call: Callable[[], Any]) -> str:
    """Return the error of the call, with the note that names the rank."""
    try:
        call()
    except (Exception, PreemptedError) as error:
        return "; ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])
    return "nothing"


def _update(task, ranks, options, rewards) -> dict[str, Any]:
    """Run one step with a policy that differs from the reference and with a trained value head."""
    from rl.learner import Learner
    from rl.policy import build_policy
    from tests.rl.test_learner import CONFIG, groups_of, shifted, value_head_of

    policy = build_policy(task.alphabet, hidden_size=32, num_layers=2, feed_forward_size=32, seed=0)
    groups = shifted(groups_of(task, policy, rewards), -0.5)
    learner = Learner(replace(CONFIG, **options), policy, ranks, max_new_tokens=6)
    moved = build_policy(task.alphabet, hidden_size=32, num_layers=2, feed_forward_size=32, seed=1)
    state = {"policy": moved.model.state_dict(), "optimizer": learner._optimizer.state_dict()}
    learner.load_state_dict(state | {"value_head": value_head_of(policy)})
    metrics = learner.update(groups, 0)
    moments = [values["exp_avg"] for values in learner.state_dict()["optimizer"]["state"].values()]
    return {"metrics": metrics, "moments": moments, "weights": learner.weights()}


def _texts_with_vision(task, ranks) -> dict[str, torch.Tensor]:
    """Return the weights of a vision-language policy after two updates on texts."""
    from rl.learner import Learner
    from tests.rl.test_learner import CONFIG, groups_of
    from tests.support.tiny_vision import tiny_vision

    policy = tiny_vision("llava")
    groups = groups_of(task, policy, torch.tensor(SEVEN_ROWS))
    learner = Learner(replace(CONFIG, micro_batch_size=3), policy, ranks, max_new_tokens=6)
    for step in range(2):
        learner.update(groups, step)
    return learner.weights()


def _agree(ranks) -> dict[str, Any]:
    class Odd(Exception):  # noqa: N818  (cannot be pickled)
        pass

    def fail(on: int, error: BaseException):
        if ranks.rank == on:
            raise error

    return {
        "gathered": ranks.gather(lambda: ranks.rank * 10),
        "from main": ranks.on_main(lambda: f"from {ranks.rank}"),
        "own": ranks.each(lambda: ranks.rank),
        "stacked": ranks.own(ranks.stack(torch.tensor([[True], [ranks.rank == 1]]))),
        "failed on 1": _error(lambda: ranks.gather(lambda: fail(1, ValueError("bad")))),
        "stopped on 1": _error(lambda: ranks.gather(lambda: fail(1, PreemptedError(0)))),
        "failed on main": _error(lambda: ranks.on_main(lambda: fail(0, KeyError("k")))),
        "failed oddly": _error(lambda: ranks.each(lambda: fail(1, Odd("odd")))),
        "failed on both": _error(lambda: ranks.each(lambda: fail(ranks.rank, ValueError(f"bad {ranks.rank}")))),
        "first": ranks.main_first(lambda: (time.sleep(0.2 * ranks.is_main), time.time())[1]),
        "after that": ranks.gather(lambda: ranks.rank),
    }


def _engine(task, ranks) -> dict[str, Any]:
    from rl.engines.hf import HFEngine
    from rl.policy import build_policy
    from rl.rollout import Sampling
    from rl.shared_by_ranks import SharedEngine

    asked = []

    class Recording(HFEngine):
        def generate(self, prompts, group_size, sampling, *, seed):
            asked.append((list(prompts), seed))
            if group_size == 5 and ranks.is_main:
                raise FloatingPointError("bad kernel")
            return super().generate(prompts, group_size, sampling, seed=seed)

    engine = SharedEngine(Recording(build_policy(task.alphabet, hidden_size=32, num_layers=1)), ranks)
    prompts = ["12=", "3=", "4567=", "8="]
    return {
        "three": tuple(engine.generate(prompts[:3], 2, Sampling(4), seed=7)),
        "again": tuple(engine.generate(prompts[:3], 2, Sampling(4), seed=7)),
        "one": tuple(engine.generate(prompts[2:3], 2, Sampling(4), seed=7)),
        "error": _error(lambda: engine.generate(prompts, 5, Sampling(4), seed=7)),
        "none": _error(lambda: engine.generate([], 1, Sampling(4), seed=7)),
        "asked": asked,
    }


def _selector(ranks) -> dict[str, Any]:
    import jaxsel
    from rl.shared_by_ranks import SharedSelector
    from tests.support.runs import MOPPS

    prepared = []

    class Preparing(jaxsel.PromptSelector):
        def prepare(self, batch_size):
            prepared.append(batch_size)

    def make(seed=0):
        return Preparing(MOPPS, num_prompts=30, candidate_ratio=2, seed=seed)

    selector = SharedSelector(make, ranks)
    selector.prepare(4)
    chosen = selector.select(4)
    selector.observe(chosen, [0, 1, 2, 4], 4)
    alone = make()
    np.testing.assert_array_equal(alone.select(4), chosen)
    alone.observe(chosen, [0, 1, 2, 4], 4)
    alone_metrics, alone_rates = alone.metrics(), alone.predict().success_rate
    state = selector.state_dict()
    again = SharedSelector(lambda: make(seed=5), ranks)
    again.load_state_dict(state or {})
    return {
        "prepared": prepared,
        "holds": selector._selector is not None,
        "saves": state is not None,
        "spec": selector.spec == alone.spec and selector.num_prompts == 30,
        "metrics": (selector.metrics(), alone_metrics),
        "rates": (selector.predict().success_rate, alone_rates),
        "next": (selector.select(4), alone.select(4), again.select(4)),
        "visits": (selector.visits, alone.visits),
        "error": _error(lambda: selector.select(31)),
        "not made": _error(lambda: SharedSelector(lambda: make(seed=-1), ranks)),
        "refused": _error(lambda: selector.load_state_dict({})),
    }


def _train(task, ranks, folder: Path) -> dict[str, Any]:
    """Run five steps without interruption, and five steps that are interrupted at the fourth."""
    import jaxsel
    from rl.curriculum import DynamicSampling, Selected
    from rl.engines.hf import HFEngine
    from rl.policy import build_policy
    from rl.probe import Probe
    from rl.ranks import whole
    from rl.shared_by_ranks import SharedSelector
    from rl.train import train
    from tests.support.runs import MOPPS, until_killed

    class Recording(SharedSelector):
        chosen: list[int]

        def select(self, batch_size, candidates=None, *, exclude=None):
            ids = super().select(batch_size, candidates, exclude=exclude)
            self.chosen = [*getattr(self, "chosen", []), *ids.tolist()]
            return ids

    config, pool = TRAIN["fsdp" if ranks.sharded else "ddp"], task.pool(30, 0)

    def start(run_dir: Path, **more: Any):
        policy = build_policy(task.alphabet, hidden_size=32, num_layers=2, feed_forward_size=32, seed=0)
        sampler = policy.frozen_copy() if ranks.sharded else policy
        selector = Recording(lambda: jaxsel.PromptSelector(MOPPS, num_prompts=30, candidate_ratio=2), ranks)
        curriculum = DynamicSampling(selector, 4, max_batches=2) if ranks.sharded else Selected(selector, 4)
        probe = Probe(task, pool, task.held_out(5), num_pool_prompts=10, group_size=2)
        everything = {"task": task, "pool": pool, "policy": policy, "probe": probe, "run_dir": run_dir, "ranks": ranks}
        records = train(config, engine=HFEngine(sampler), curriculum=curriculum, **everything, **more)
        weights = whole(policy.model.state_dict())
        return {
            "records": [{k: v for k, v in r.items() if not k.startswith("seconds/")} for r in records],
            "weights": weights,
            "sampler_weights": sampler.model.state_dict(),
            "kinds": {type(weight).__name__ for weight in policy.model.parameters()},
            "chosen": selector.chosen,
            "visits": selector.visits,
        }

    undisturbed = start(folder / "undisturbed")
    refused = _error(lambda: start(folder / "undisturbed"))
    try:
        start(folder / "cut", progress=until_killed(3))
    except KeyboardInterrupt:
        resumed = start(folder / "cut", resume=True)
    else:
        raise AssertionError("the run was not cut")
    return {"undisturbed": undisturbed, "resumed": resumed, "refused": refused}
