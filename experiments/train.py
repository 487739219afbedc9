"""One training run from the command line: `python -m experiments.train --help`."""

import os
import signal
import sys
from pathlib import Path

import hydra
import torch
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from experiments.config import RunConfig, writable_config
from experiments.help import describe
from experiments.runs import run
from rl.preemption import PreemptedError
from rl.ranks import join

ConfigStore.instance().store(
    name="train",
    node={
        **writable_config(),
        "resume": False,
        "threads": 0,
        "hydra": {
            "run": {"dir": "runs/${task}-${method.name}-${seed}"},
            "sweep": {"dir": "runs", "subdir": "${hydra:job.override_dirname}"},
            "job": {"chdir": False, "config": {"override_dirname": {"exclude_keys": ["resume", "threads"]}}},
            "job_logging": {"root": {"level": "WARNING"}},
            "help": {"template": describe(RunConfig())},
        },
    },
)


@hydra.main(version_base="1.3", config_path=None, config_name="train")
def main(config: DictConfig) -> None:
    """Runs one configuration in Hydra's output folder."""
    choices = OmegaConf.to_container(config)
    assert isinstance(choices, dict)
    resume, threads = choices.pop("resume"), choices.pop("threads")
    run_config = OmegaConf.to_object(OmegaConf.merge(writable_config(), choices))
    assert isinstance(run_config, RunConfig)
    ranks = join(run_config.parallel)
    if threads:
        torch.set_num_threads(threads)  # after Accelerate, which sets them too
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    try:
        records = run(run_config, run_dir, resume=resume, ranks=ranks)
    except PreemptedError as preempted:
        if ranks.is_main:
            print(f"{preempted} (resume=true); see {run_dir}", flush=True)
        if "SUBMITIT_EXECUTOR" in os.environ:  # its handler queues the job again, with the same arguments, and exits
            signal.raise_signal(signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"])
        sys.exit(os.EX_TEMPFAIL)  # for a script that queues the run again
    last = records[-1]
    if ranks.is_main:
        print(
            f"held-out accuracy {last['probe/held_out_accuracy']:.3f} after {last['rollouts']} rollouts; see {run_dir}"
        )


if __name__ == "__main__":
    sys.argv = ["resume=true" if argument == "--resume" else argument for argument in sys.argv]
    main()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
