"""Sweeps by `hydra/launcher=submitit_slurm`: a dry run, signals before training, and clusters without sacct."""

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from experiments.running.command import quick_imports
from experiments.running.config import clear_errors, settings_from
from experiments.running.overrides import check_command

REQUEUE = """\
srun() {
  command srun "$@"
  local status=$? job=$SLURM_JOB_ID
  if [ -n "$SLURM_ARRAY_JOB_ID" ]; then job="$SLURM_ARRAY_JOB_ID"_"$SLURM_ARRAY_TASK_ID"; fi
  case $status in 138 | 140 | 143)
    if [ "$(squeue --noheader --format=%T --jobs="$job")" = RUNNING ]; then
      echo "stopped before it started, as asked to (exit code $status); it is queued again"
      scontrol requeue "$job"
    fi ;;
  esac
  return $status
}"""
"""Lines of a job's script: a signal that arrives before submitit handles signals queues the job again too.

They do not contain `${}`, which OmegaConf would interpolate.
"""
_FINAL = ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")


class Jobs(Callback):
    """What Hydra calls before the first run: checks of the settings, and `dry_run`, which starts nothing."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the settings of the command. In a dry run, check those of a single run too, and print its folder."""
        with clear_errors():
            check_command(config)
        if config.dry_run:
            with clear_errors():
                settings_from(config)
            print(f"1 run, in {config.hydra.run.dir} (dry run: nothing was started)")
            sys.exit(0)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the settings of all runs of a sweep. In a dry run, print the runs; otherwise prepare SLURM's jobs."""
        with clear_errors():
            check_command(config)
        on_slurm = str(config.hydra.launcher.get("_target_")).endswith(".SlurmLauncher")
        if on_slurm:
            with open_dict(config):
                config.hydra.launcher.setup = [REQUEUE, *(config.hydra.launcher.setup or [])]
        if config.dry_run:
            _print_runs_and_exit(config, on_slurm)
        if _is_basic(config):  # another sweeper chooses later runs by the results of earlier ones
            with clear_errors():
                list(_runs(config))
        if on_slurm:
            print(f"logs of the jobs: {config.hydra.sweep.dir}/.submitit", flush=True)
            _watch_without_sacct()


def _print_runs_and_exit(config: DictConfig, on_slurm: bool) -> None:
    try:
        with clear_errors():
            runs = list(_runs(config))
        print(f"{len(runs)} runs, in {config.hydra.sweep.dir} (dry run: nothing was started)")
        shared = [one for one in runs[0][1] if all(one in chosen for _, chosen in runs)]
        for number, (folder, chosen) in enumerate(runs):
            print(f"  #{number} {folder}: {' '.join(one for one in chosen if one not in shared)}".rstrip(": "))
        print(f"all with {' '.join(shared)}")
        if on_slurm:
            print(f"\nEvery run is a job with this script:\n\n{_script(config)}")
    except Exception:  # Hydra turns an error in a callback into a warning, and would submit the jobs
        traceback.print_exc()
        sys.exit(1)
    sys.exit(0)


def _runs(config: DictConfig) -> Iterator[tuple[str, list[str]]]:
    """Yield the folder and the settings of every run of a sweep, checked as the run itself checks them."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    if not _is_basic(config):
        raise ValueError("dry_run is true, but the sweeper chooses later runs by earlier ones; use hydra/sweeper=basic")
    arguments = [f"{name}={value}" for name, value in (config.hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*arguments, *config.hydra.overrides.task])
    (batch,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    for number, chosen in enumerate(batch):
        loaded = GlobalHydra.instance().config_loader().load_sweep_config(config, list(chosen))
        with open_dict(loaded):
            loaded.hydra.job.num, loaded.hydra.job.id = number, str(number)
        settings_from(loaded)
        yield str(loaded.hydra.sweep.subdir), [one for one in chosen if not one.startswith("dry_run=")]


def _is_basic(config: DictConfig) -> bool:
    return str(config.hydra.sweeper.get("_target_")).endswith(".BasicSweeper")


def _script(config: DictConfig) -> str:
    """Return the script that submitit would submit."""
    import submitit
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

    params: Any = OmegaConf.to_container(config.hydra.launcher, resolve=True)
    folder, common = params.pop("submitit_folder"), {field.name for field in fields(BaseQueueConf)}
    for name in ("_target_", "max_num_timeout"):
        params.pop(name)
    executor = submitit.AutoExecutor(folder=folder, cluster="slurm")
    executor.update_parameters(**{name if name in common else f"slurm_{name}": params[name] for name in params})
    slurm: Any = executor._executor
    return slurm._make_submission_file_text(slurm._submitit_command_str, "")


def _requeue_only_a_running_job() -> None:
    """Let submitit queue a job again only if SLURM has not cancelled it, or queued it again, itself.

    SLURM announces all of these with the same SIGTERM. submitit would queue a cancelled job again, and would record an
    error for a job that is already queued. SIGTERM also reaches the command that asks, which must not die of it.
    """
    from submitit.core.logger import get_logger
    from submitit.slurm.slurm import SlurmJobEnvironment

    ask = SlurmJobEnvironment._requeue

    def requeue(self: SlurmJobEnvironment, countdown: int) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the commands that this process starts inherit it
        command = ["squeue", "--noheader", "--format=%T", f"--jobs={self.job_id}"]
        state = subprocess.run(command, capture_output=True, text=True).stdout.strip()
        if state not in ("RUNNING", ""):
            get_logger().info(f"Job {self.job_id} is {state}: SLURM has already cancelled it or queued it again")
            return
        ask(self, countdown)

    SlurmJobEnvironment._requeue = requeue  # type: ignore[method-assign]


def _watch_without_sacct() -> None:
    """Let squeue say which jobs have ended, where sacct cannot. submitit would warn at every look, and wait forever."""
    try:
        asked = subprocess.run(["sacct", "--noheader", "--allocations"], capture_output=True, text=True)
    except FileNotFoundError:
        reason = "there is no such command"
    else:
        if not asked.returncode:
            return
        reason = asked.stderr.strip()
    from submitit.slurm.slurm import SlurmJob

    print(f"sacct is off on this cluster ({reason}); squeue says which jobs have ended", flush=True)
    SlurmJob.watcher = _queue_watcher()


def _queue_watcher() -> Any:
    from submitit.slurm.slurm import SlurmInfoWatcher

    class QueueWatcher(SlurmInfoWatcher):
        def _make_command(self) -> list[str] | None:
            if not self._registered - self._finished:
                return None
            return ["squeue", "--me", "--noheader", "--array", "--states=all", "--format=%i|%T|%N"]

        def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
            text = string if isinstance(string, str) else string.decode()
            found = super().read_info(f"JobID|State|NodeList\n{text}")
            for info in found.values():
                info["State"] = info["State"] if info["State"] in _FINAL else "RUNNING"
            # SLURM forgets a finished job after some minutes.
            return {job: found.get(job, {"State": "FORGOTTEN"}) for job in self._registered}

    return QueueWatcher(delay_s=30)


# A job imports this module before submitit handles signals. From then on, submitit ignores SIGTERM until a run handles
# it. A SIGTERM during the seconds of these imports must end the job.
if "SUBMITIT_EXECUTOR" in os.environ:
    with quick_imports():
        import experiments.running.runs  # noqa: F401
if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
    _requeue_only_a_running_job()
