"""The training loop: choose, roll out, verify, learn."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rl.curriculum import Collected, Curriculum
from rl.groups import Groups, judge
from rl.history import HistoryLog, Unwritten
from rl.learner import Learner
from rl.policy import Policy
from rl.preemption import PreemptedError, Preemption
from rl.probe import Probe
from rl.prompts import PromptPool, Task
from rl.ranks import Ranks
from rl.rollout import RolloutEngine, Sampling
from rl.run_log import Records, RunLog, load_checkpoint, read_metrics, save_checkpoint
from rl.shared import SharedEngine
from rl.trackers import Tracker
from rl.train_config import TrainConfig
from rl.verification import Verifier


def train(
    config: TrainConfig,
    *,
    task: Task,
    pool: PromptPool,
    policy: Policy,
    engine: RolloutEngine,
    curriculum: Curriculum,
    probe: Probe,
    run_dir: Path,
    resume: bool = False,
    progress: Callable[[range], Any] | None = None,
    ranks: Ranks | None = None,
    tracker: Tracker | None = None,
) -> list[dict[str, float]]:
    """Trains the policy in place.

    Writes `metrics.jsonl`, TensorBoard events and `checkpoint.pt` to `run_dir`. A run that was killed at any moment
    and is started again with `resume` gives the same numbers (times apart) as one that was not, on the CPU.

    The belief is updated and the next batch chosen while the policy is updated: `seconds/selecting` is what the loop
    waited for, not what selection computed.

    Args:
        config: see `TrainConfig`.
        task: verifies completions.
        pool: the prompts to train on; its rows are the selector's.
        policy: trained in place.
        engine: rolls out with the policy's current weights.
        curriculum: chooses prompts and filters groups.
        probe: fresh rollouts at fixed prompts, counted apart.
        run_dir: made when missing.
        resume: go on from `run_dir`'s checkpoint, if there is one.
        progress: wraps the range of steps, for a progress bar; None: a tqdm bar.
        ranks: the processes that train together; None: this one alone. All call this with the same arguments and the
            same weights; each has an engine, which has a copy of the policy where `ranks.sharded`, and the curriculum's
            selector is shared, see `SharedSelector`. Rank 0 writes, into a folder that all can read.
        tracker: gets the metrics too, from rank 0.

    Returns:
        The metrics of every step, what `metrics.jsonl` holds; seconds are those of this rank.

    Raises:
        ValueError: `run_dir` already holds a run and `resume` is false, or its checkpoint is of another configuration.
        PreemptedError: SIGTERM, SIGUSR1 or SIGUSR2 came; the step was finished and a checkpoint written.
    """
    ranks = ranks or Ranks()
    learner, engine = Learner(config, policy, ranks), SharedEngine(engine, ranks)
    identity = {
        "train": asdict(config),
        "precision": policy.precision,
        "curriculum": curriculum.spec,
        "probe": probe.spec,
        "task": task.name,
    }
    checkpoint = run_dir / "checkpoint.pt"
    start, num_rollouts = 0, 0
    if resume and checkpoint.exists():
        saved = load_checkpoint(checkpoint, identity)
        learner.load_state_dict(saved["learner"])
        curriculum.load_state_dict(saved["curriculum"])
        start, num_rollouts = saved["step"], saved["num_rollouts"]
        engine.update_weights(learner.weights())
    elif resume and read_metrics(run_dir / "metrics.jsonl") and not config.checkpoint_every:
        raise ValueError(f"resume is true, but {run_dir} has no checkpoint; give another folder, or delete this one")
    log = ranks.each(lambda: _log(run_dir, start + (start == config.steps), resume, ranks, tracker))
    finished = any(record["step"] == config.steps for record in log.records)  # and probed: nothing is done again
    history = ranks.each(lambda: _history(config, run_dir, start + finished, curriculum, pool, ranks))
    steps = range(start, config.steps)
    verifier = ranks.each(lambda: _verifier(config, task, ranks))
    with log, verifier, Preemption() as preemption:
        for step in progress(steps) if progress else tqdm(steps, unit="step", disable=not ranks.is_main):
            clock = _Clock()
            record: dict[str, float] = {"step": step, "rollouts": num_rollouts}
            if step == 0 or (config.probe_every and step % config.probe_every == 0):
                with clock("probing"):
                    record |= _probe(config, probe, engine, curriculum, step, history, verifier)
                history.flush()  # whether or not there are checkpoints
            collected = _collect(config, task, pool, engine, curriculum, step, clock, history, verifier)
            if step + 1 < config.steps:
                with clock("selecting"):
                    curriculum.prepare()  # JAX chooses while torch updates the policy
            with clock("updating"):
                record |= learner.update(collected.groups, step)
            with clock("handing_over"):
                engine.update_weights(learner.weights())
            with clock("selecting"):
                curriculum.selector.wait()  # for its own update, where that takes longer than the policy's
            with clock("reporting"):
                record |= curriculum.selector.metrics()
            num_rollouts += collected.num_rollouts
            record |= _summary(collected) | verifier.take_counts() | clock.seconds
            log.write(record | {"rollouts": num_rollouts})
            done = step + 1
            stopped = done < config.steps and any(ranks.gather(lambda: preemption.asked))
            every = config.checkpoint_every
            if stopped or (every and (done % every == 0 or done == config.steps)):
                history.flush()  # first: what a checkpoint goes on from is on disk
                content = {"learner": learner.state_dict(), "curriculum": curriculum.state_dict()}
                content |= {"step": done, "num_rollouts": num_rollouts}
                ranks.on_main(partial(save_checkpoint, checkpoint, identity, **content))
            if stopped:
                raise PreemptedError(done)
        if not finished:
            last = _probe(config, probe, engine, curriculum, config.steps, history, verifier)
            history.flush()  # first: with the last line of the log the run is finished
            log.write({"step": config.steps, "rollouts": num_rollouts} | last)
    return log.records


_ROLLOUT, _PROBE = 0, 1


def _log(run_dir: Path, first_step: int, resume: bool, ranks: Ranks, tracker: Tracker | None) -> Records:
    """What rank 0 writes, the others have in memory."""
    if ranks.is_main:
        return RunLog(run_dir, first_step=first_step, resume=resume, tracker=tracker)
    return Records(run_dir, first_step=first_step)


def _history(
    config: TrainConfig, run_dir: Path, first_step: int, curriculum: Curriculum, pool: PromptPool, ranks: Ranks
) -> HistoryLog | Unwritten:
    if not (config.history and ranks.is_main):
        return Unwritten()
    return HistoryLog(
        run_dir / "history", num_prompts=len(pool), spec=curriculum.spec, first_step=first_step, texts=pool.texts
    )


def _verifier(config: TrainConfig, task: Task, ranks: Ranks) -> Verifier:
    own_process = config.verify_process and ranks.is_main
    return Verifier(task.verify, timeout=config.verify_timeout, own_process=own_process, on_main=ranks.on_main)


def _seed(config: TrainConfig, stream: int, *counters: int) -> int:
    """A seed for every use, from the run's seed and the step: nothing of it has to be saved."""
    return int(np.random.SeedSequence([config.seed, stream, *counters]).generate_state(1)[0])


def _probe(
    config: TrainConfig,
    probe: Probe,
    engine: RolloutEngine,
    curriculum: Curriculum,
    step: int,
    history: HistoryLog | Unwritten,
    verifier: Verifier,
) -> dict[str, float]:
    record = partial(history.probed, step) if config.history else None
    return probe.measure(engine, curriculum.selector, _seed(config, _PROBE, step), record, verifier)


def _collect(
    config: TrainConfig,
    task: Task,
    pool: PromptPool,
    engine: RolloutEngine,
    curriculum: Curriculum,
    step: int,
    clock: "_Clock",
    history: HistoryLog | Unwritten,
    verifier: Verifier,
) -> Collected:
    batches = 0

    def roll_out(prompt_ids: np.ndarray) -> Groups:
        nonlocal batches
        batches += 1
        with clock("generating"):
            completions = engine.generate(
                pool.take(prompt_ids.tolist()).texts,
                config.group_size,
                Sampling(task.max_new_tokens, config.temperature, config.top_p, task.stop),
                seed=_seed(config, _ROLLOUT, step, batches),
            )
            groups = judge(task, pool, prompt_ids, completions, verifier)
        if config.history:
            with clock("recording"):
                visits = (groups.prompt_ids, groups.successes, groups.group_size)
                history.observed(step, visits, curriculum.selector.predict(groups.prompt_ids))
        return groups

    with clock("selecting"):
        collected = curriculum.collect(roll_out)
    for other in ("generating", "recording"):  # which happen within
        clock.seconds["seconds/selecting"] -= clock.seconds.get(f"seconds/{other}", 0.0)
    return collected


def _summary(collected: Collected) -> dict[str, float]:
    groups = collected.groups
    return {
        "train/mixed_share": collected.mixed_share,
        "train/batch_mixed_share": float(groups.mixed.sum() / max((groups.group_size > 0).sum(), 1)),
        "train/judged_share": float(groups.group_size.mean() / groups.completions.group_size),
        "train/reward": float(groups.rewards[groups.rewards.isfinite()].mean()),
        "train/completion_length": float(groups.completions.mask.sum(1).float().mean()),
    }


class _Clock:
    """Adds up the seconds spent under each name."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        key = f"seconds/{name}"
        self.seconds[key] = self.seconds.get(key, 0.0) + time.perf_counter() - start
