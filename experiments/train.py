"""One training run from the command line: `python -m experiments.train --help`."""

import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

from rl.preemption import SIGNALS, PreemptedError, exit_when_asked

if __name__ == "__main__":
    exit_when_asked()  # before the other imports, which take seconds

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from experiments.running import folders
from experiments.running.command import quick_imports, quiet_pipe
from experiments.running.config import RunConfig, clear_errors, settings_from, writable_config
from experiments.running.help import describe
from experiments.running.overrides import readable

folders.register()
ConfigStore.instance().store(
    name="train",
    node={
        **writable_config(),
        "resume": False,
        "threads": 0,
        "dry_run": False,
        "hydra": {
            "callbacks": {"jobs": {"_target_": "experiments.running.slurm.Jobs"}},
            "run": {"dir": "runs/${run_folder:}"},
            "sweep": {"dir": "runs", "subdir": folders.sweep_subdir()},
            "job": {"chdir": False},
            # submitit prints its messages itself; the handler would repeat them
            "job_logging": {"root": {"level": "WARNING"}, "handlers": {"console": {"level": "WARNING"}}},
            "help": {"template": describe(RunConfig()).replace("$", "$$")},  # Hydra replaces $NAME
        },
    },
)


@hydra.main(version_base="1.3", config_path=None, config_name="train")
def main(config: DictConfig) -> None:
    """Run one configuration in Hydra's output folder."""
    # These take seconds, which the help, a dry run, and the process that starts the jobs of a sweep do not need.
    with quick_imports():
        import torch

        from experiments.running.runs import run
        from rl.ranks import join

    hydra_config = HydraConfig.get()
    # one run of a sweep raises the error, which its launcher reports
    is_alone = hydra_config.mode == RunMode.RUN
    with clear_errors() if is_alone else nullcontext():
        run_config = settings_from(config)
    ranks = join(run_config.parallel)
    if config.threads:
        torch.set_num_threads(config.threads)  # after Accelerate, which sets them too
    run_dir = Path(hydra_config.runtime.output_dir)
    try:
        with clear_errors(ours_alone=True) if is_alone else nullcontext():
            records = run(run_config, run_dir, resume=config.resume, ranks=ranks)
    except PreemptedError as preempted:
        if ranks.is_main:
            print(f"{preempted} (resume=true); see {run_dir}", flush=True)
        if "SUBMITIT_EXECUTOR" in os.environ:  # submitit's handler queues the job again with the same arguments
            signal.raise_signal(signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"])
        sys.exit(os.EX_TEMPFAIL)  # the exit code at which a script queues the run again
    if "SUBMITIT_EXECUTOR" in os.environ:
        _ignore_signals()
    if ranks.is_main:
        print(f"{_outcome(records[-1])} after {records[-1]['rollouts']} rollouts; see {run_dir}")


def _outcome(last: dict[str, float]) -> str:
    """Return what the final probe found, as text."""
    if "probe/held_out_accuracy" in last:
        return f"held-out accuracy {last['probe/held_out_accuracy']:.3f}"
    return f"no held-out accuracy, because the last probe judged {last['probe/judged_share']:.0%} of its completions,"


def _ignore_signals() -> None:
    """Let no signal end this process any more: the run is finished, and must not be queued again."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    options = {"--resume": "resume=true", "--dry-run": "dry_run=true"}
    with clear_errors():
        sys.argv[1:] = readable(options.get(argument, argument) for argument in sys.argv[1:])
    with quiet_pipe():
        main()
    _ignore_signals()
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
