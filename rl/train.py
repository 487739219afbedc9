"""The training loop: choose prompts, roll them out, verify the completions, update the policy.

    python -m experiments.train method.name=mopps train.steps=300

A selector predicts how often the policy solves each prompt and chooses the batch. An engine samples a group of
completions per prompt, and a verifier judges them. The selector observes the counts of successes, and the learner
updates the policy with a clipped policy-gradient loss.

The loop differs from the trainers in the papers on prompt selection in three ways:

* The built-in policy has 0.3 million weights, few enough for a CPU. The papers train language models with 1.5 to 8
  billion weights on GPU clusters.
* The next batch is chosen while the policy is updated. The choice is the same as one made after the update, because it
  depends on observed counts alone.
* Probes measure accuracy and predictions on the same fixed prompts for every method. Their rollouts are counted apart
  from the rollouts of training.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jaxsel.runtime.checkpoint.disk import local_path
from rl._pool_lengths import check_all_lengths
from rl.curriculum import Curriculum
from rl.evaluation import Evaluation
from rl.finish import check_overlong
from rl.learner import Learner
from rl.policy import Policy
from rl.preemption import PreemptedError, Preemption
from rl.probe import Probe
from rl.progress import bar
from rl.prompts import PromptPool, Task
from rl.prompts.messages import check_prompts
from rl.ranks import Ranks
from rl.rollout import RolloutEngine
from rl.rollout_worker import RolloutWorker
from rl.run import Run
from rl.run_folder.lock import alone_in
from rl.run_folder.trackers import Tracker
from rl.shared_by_ranks import SharedEngine
from rl.step_metrics import Clock, summarise
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
    evaluation: Evaluation | None = None,
    accepted: Callable[[], None] | None = None,
) -> list[dict[str, float]]:
    """Train the policy in place, and return the metrics of every step.

    The run locks `run_dir`. It writes `metrics.jsonl`, TensorBoard events, `checkpoint.pt` and the checkpoint before
    it, `checkpoint-previous.pt`. After the last step it writes the folder `policy`, if `config.save_policy` is true.
    `config.history` and `config.keep_completions` add folders.

    A run that was killed at any moment goes on with `resume`. On the CPU it then gives the same numbers, except
    times, as an undisturbed run. A resumed run may change the settings in `rl.train_config.MAY_CHANGE`. A
    finished run can continue with more steps, for example, unless the learning rate decays. If it is resumed with the
    same number of steps, it measures the evaluation sets that its last line lacks.

    `seconds/selecting` is the time that the loop waited for the selector, not the time that the selector computed.

    Args:
        config: The settings of the loop.
        task: The task, whose verifier judges completions.
        pool: The training prompts; row i of the pool is prompt i of the selector.
        policy: The policy, which is trained in place.
        engine: The rollout engine. It samples with the policy's current weights.
        curriculum: The curriculum. It chooses prompts with its selector, and the groups of rollouts to train on.
        probe: The probe: fresh rollouts at fixed prompts, which the metric `rollouts` does not count.
        run_dir: The folder of the run, created if it is missing.
        resume: Whether to continue from a checkpoint in `run_dir`, if there is one.
        progress: A function that wraps the range of steps, for a progress bar. None: `rl.progress.bar`.
        ranks: The processes that train together. None: this process alone. All ranks call `train` with the same
            arguments and the same weights. Each rank has its own engine, which holds a copy of the policy if
            `ranks.sharded` is true. The curriculum's selector is a `SharedSelector`. Rank 0 writes to a folder that all
            ranks can read.
        tracker: A tracker that receives the metrics too, from rank 0.
        evaluation: Evaluation sets, which are measured beside the probe. None: no sets.
        accepted: A function that rank 0 calls before the first step, once `run_dir` is accepted.

    Returns:
        The lines of `metrics.jsonl`, one per step and one for the final probe. Seconds are measured on this rank.

    Raises:
        ValueError: `run_dir` already holds a run and `resume` is false, its checkpoint is damaged or has another
            configuration, another run uses the folder, or a weight is no longer finite. Or: `run_dir` holds no run, but
            files that this run would replace. Or: `config.overlong_buffer` exceeds the task's longest completion, or a
            prompt of the pool or of the held-out data is too long.
        OSError: The disk is full.
        PreemptedError: SIGTERM, Ctrl-C, SIGUSR1 or SIGUSR2 arrived. The current step was finished and its checkpoint
            written, also if its verifier was slow. A probe or an evaluation was ended at once, also while its
            completions were verified, unless there are several ranks.
    """
    ranks = ranks or Ranks()
    check_overlong(config.overlong_buffer, task.max_new_tokens)
    _check_all_prompts(task, pool, policy, engine, probe)
    run_dir = local_path(run_dir, "run_dir")
    with alone_in(run_dir, ranks):
        # Restore what an earlier process saved.
        learner = Learner(config, policy, ranks, max_new_tokens=task.max_new_tokens)
        engine = SharedEngine(engine, ranks)
        identity = _identity(config, task, pool, policy, curriculum, probe)
        run = Run(run_dir, identity, config, learner, curriculum, ranks)
        if resume:
            run.restore()
        if run.done:
            engine.update_weights(learner.weights())

        logs = run.open_logs(pool, resume=resume, tracker=tracker)
        with Preemption() as preemption, logs, _verifier(config, task, ranks) as verifier:
            if accepted:
                ranks.on_main(accepted)
            worker = RolloutWorker(
                config,
                task,
                pool,
                engine=engine,
                curriculum=curriculum,
                probe=probe,
                evaluation=evaluation or Evaluation(),
                verifier=verifier,
                log=run.visits,
                ranks=ranks,
                eos_token_ids=policy.eos_token_ids,
                # several ranks must stop together, which they do after a step
                interrupting=preemption.interrupting if ranks.count == 1 else nullcontext,
            )
            steps = range(run.done, config.steps)
            shown = progress(steps) if progress else bar(steps, unit="step", disable=not ranks.is_main)
            _take_steps(run, worker, shown, preemption)

            # Save the policy, and measure it a last time.
            if config.save_policy:
                run.save_policy(policy)
            _measure_the_end(run, worker)
    return run.log.records


def _take_steps(run: Run, worker: RolloutWorker, steps: Iterable[int], preemption: Preemption) -> None:
    config, learner, curriculum = run.config, run.learner, run.curriculum
    for step in steps:
        clock = Clock()
        record: dict[str, float] = {"step": step, "rollouts": run.num_rollouts}

        # Measure accuracy and predictions at fixed prompts, before the first step and every `probe_every` steps.
        with _kept_when_stopped(run):
            if step == 0 or (config.probe_every and step % config.probe_every == 0):
                with clock("probing"):
                    record |= worker.measure(step)
                run.flush()  # also in a run without checkpoints
            if worker.evaluation.is_due(step):
                with clock("evaluating"):
                    record |= worker.evaluate(step)

        # Choose prompts, roll them out, verify the completions, and let the selector observe the counts.
        collected = worker.collect(step, clock)
        run.num_rollouts += collected.num_rollouts
        if run.completions is not None:
            run.completions.add(step, collected.groups, worker.pool)

        # Update the policy with torch, while JAX updates the selector and chooses the next batch.
        if step + 1 < config.steps:
            with clock("selecting"):
                curriculum.prepare()
        with clock("updating"):
            record |= learner.update(collected.groups, step)
        with clock("handing_over"):
            worker.engine.update_weights(learner.weights())
        with clock("selecting"):
            curriculum.selector.wait()  # the selector's update may take longer than the policy's

        # Write the metrics of the step.
        with clock("reporting"):
            record |= curriculum.selector.metrics()
        record |= (
            summarise(collected) | worker.penalty_of(collected.groups) | worker.verifier.take_counts() | clock.seconds
        )
        run.log.write(record | {"rollouts": run.num_rollouts})
        run.done = step + 1

        # Save a checkpoint if one is due, and stop if a signal asked for it.
        stopped = any(run.ranks.gather(lambda: preemption.asked))
        if stopped or run.checkpoint_is_due:
            run.save()
        if stopped:
            raise PreemptedError(run.done)


def _measure_the_end(run: Run, worker: RolloutWorker) -> None:
    """Write the final probe and the last measurement of the evaluation sets, unless the run has them."""
    steps = run.config.steps
    last: dict[str, float] = {}
    with _kept_when_stopped(run):
        if not run.finished:
            last |= worker.measure(steps)
        if not (run.finished and worker.evaluation.is_measured_in(run.log.records[-1])):
            last |= worker.evaluate(steps)
    if last:
        run.finish(last)


@contextmanager
def _kept_when_stopped(run: Run) -> Iterator[None]:
    """Save a checkpoint when a signal ends the `with` block, in which the run is measured.

    A signal ends the block at once, because it may take many minutes. A resumed run measures again.
    """
    try:
        yield
    except PreemptedError:
        if not (run.done and run.checkpoint_is_due):  # otherwise the last step has saved it
            run.save()
        raise PreemptedError(run.done) from None


def _check_all_prompts(task: Task, pool: PromptPool, policy: Policy, engine: RolloutEngine, probe: Probe) -> None:
    """Refuse prompts that the policy cannot complete, before it trains on the others for hours."""
    limit = getattr(engine, "max_length", policy.max_length)  # vLLM's may be smaller
    for what, prompts in {"the pool": pool, "the held-out data": probe.held_out}.items():
        check_prompts(prompts.texts, what)
        check_all_lengths(policy, prompts, what, task.max_new_tokens, limit)


def _identity(
    config: TrainConfig, task: Task, pool: PromptPool, policy: Policy, curriculum: Curriculum, probe: Probe
) -> dict[str, Any]:
    """Return the settings that the numbers of a run depend on: a resumed run needs the same ones."""
    return {
        "train": asdict(config),
        "precision": policy.precision,
        "curriculum": curriculum.spec,
        "probe": probe.spec,
        "task": task.name,
        "texts and answers": pool.fingerprint,
    }


def _verifier(config: TrainConfig, task: Task, ranks: Ranks) -> Verifier:
    """Return the verifier of the task. If it needs a process of its own, rank 0 alone starts one."""

    def make() -> Verifier:
        own_process = (config.verify_process or task.own_process) and ranks.is_main
        return Verifier(task.verify, timeout=config.verify_timeout, own_process=own_process, on_main=ranks.on_main)

    return ranks.each(make)
