"""The training loop: choose, roll out, verify, learn."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxsel.integrations.atomic_files import replaced_folder
from jaxsel.integrations.history import HistoryLog, Unwritten
from rl.checkpoint import NEWEST, check_finite, load_latest, save_checkpoint
from rl.curriculum import Collected, Curriculum
from rl.groups import Groups, judge
from rl.learner import Learner
from rl.lock import alone_in
from rl.policy import Policy
from rl.preemption import PreemptedError, Preemption
from rl.probe import Probe
from rl.progress import bar
from rl.prompts import PromptPool, Task
from rl.ranks import Ranks
from rl.rollout import RolloutEngine, Sampling
from rl.run_log import Records, RunLog, is_end, read_metrics
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

    Writes `metrics.jsonl`, TensorBoard events, `checkpoint.pt` and the one before it, and after the last step the
    folder `policy` to `run_dir`, which is locked meanwhile. A run that was killed at any moment and is started again
    with `resume` gives the same numbers (times apart) as one that was not, on the CPU. It may go on with other values
    of the settings in `rl.checkpoint.MAY_CHANGE`: a finished run with more steps, for example.

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
        progress: wraps the range of steps, for a progress bar; None: `rl.progress.bar`.
        ranks: the processes that train together; None: this one alone. All call this with the same arguments and the
            same weights; each has an engine, which has a copy of the policy where `ranks.sharded`, and the curriculum's
            selector is shared, see `SharedSelector`. Rank 0 writes, into a folder that all can read.
        tracker: gets the metrics too, from rank 0.

    Returns:
        The metrics of every step, what `metrics.jsonl` holds; seconds are those of this rank.

    Raises:
        ValueError: `run_dir` already holds a run and `resume` is false, its checkpoint is damaged or of another
            configuration, another run uses the folder, or a weight is no longer finite.
        OSError: the disk is full.
        PreemptedError: SIGTERM, Ctrl-C, SIGUSR1 or SIGUSR2 came; the step was finished and a checkpoint written.
    """
    ranks = ranks or Ranks()
    with alone_in(run_dir, ranks):
        return _train(config, task, pool, policy, engine, curriculum, probe, run_dir, resume, progress, ranks, tracker)


def _train(
    config: TrainConfig,
    task: Task,
    pool: PromptPool,
    policy: Policy,
    engine: RolloutEngine,
    curriculum: Curriculum,
    probe: Probe,
    run_dir: Path,
    resume: bool,
    progress: Callable[[range], Any] | None,
    ranks: Ranks,
    tracker: Tracker | None,
) -> list[dict[str, float]]:
    learner, engine = Learner(config, policy, ranks), SharedEngine(engine, ranks)
    identity = {
        "train": asdict(config),
        "precision": policy.precision,
        "curriculum": curriculum.spec,
        "probe": probe.spec,
        "task": task.name,
    }
    start, num_rollouts = 0, 0
    if saved := load_latest(run_dir, identity, ranks) if resume else None:
        _check_steps(config, saved["step"], run_dir)
        learner.load_state_dict(saved["learner"])
        curriculum.load_state_dict(saved["curriculum"])
        start, num_rollouts = saved["step"], saved["num_rollouts"]
        engine.update_weights(learner.weights())
    elif resume:
        ranks.on_main(lambda: _check_nothing_is_lost(config, run_dir))
    log = ranks.each(lambda: _log(run_dir, start + (start == config.steps), resume, ranks, tracker))
    finished = any(record["step"] == config.steps for record in log.records)  # and probed: nothing is done again
    history = ranks.each(lambda: _history(config, run_dir, start + finished, curriculum, pool, ranks))
    steps = range(start, config.steps)
    verifier = ranks.each(lambda: _verifier(config, task, ranks))
    with log, verifier, Preemption() as preemption:
        for step in progress(steps) if progress else bar(steps, unit="step", disable=not ranks.is_main):
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
                ranks.on_main(partial(save_checkpoint, run_dir / NEWEST, identity, **content))
            if stopped:
                raise PreemptedError(done)
        if config.save_policy:
            _save_policy(run_dir / "policy", policy, learner, ranks, again=not finished)
        if not finished:
            last = _probe(config, probe, engine, curriculum, config.steps, history, verifier)
            history.flush()  # first: with the last line of the log the run is finished
            log.write({"step": config.steps, "rollouts": num_rollouts} | last)
    return log.records


def _check_steps(config: TrainConfig, done: int, run_dir: Path) -> None:
    if config.steps < done:
        raise ValueError(f"steps is {config.steps}, but the run in {run_dir} has done {done}; give at least {done}")


def _check_nothing_is_lost(config: TrainConfig, run_dir: Path) -> None:
    """A run without a checkpoint starts anew, but not where steps would be done again that it should have kept."""
    records, every = read_metrics(run_dir / "metrics.jsonl"), config.checkpoint_every
    if records and (not every or len(records) > every or is_end(records[-1])):
        raise ValueError(f"resume is true, but {run_dir} has no checkpoint; give another folder, or delete this one")


def _save_policy(folder: Path, policy: Policy, learner: Learner, ranks: Ranks, *, again: bool) -> None:
    """Writes the policy as a folder for Transformers, unless it is there and `again` is false."""
    if ranks.on_main(lambda: again or not folder.exists()):
        weights = learner.weights()

        def write() -> None:
            check_finite(weights, folder)
            with replaced_folder(folder) as partial_folder:
                policy.save(partial_folder, weights)

        ranks.on_main(write)


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
