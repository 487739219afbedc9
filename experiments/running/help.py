"""A configuration, described for `--help` by the docstrings of its dataclasses."""

import inspect
import re
from dataclasses import fields, is_dataclass
from typing import Any

_HEAD = """Trains a policy on prompts that a method chooses.

  python -m experiments.train method.name=dps train.steps=500 seed=3
  python -m experiments.train method.name=dps train.checkpoint_every=50 --resume
  python -m experiments.train -m method.name=uniform,mopps,dps seed=0,1,2     # every combination, one after the other
  python -m experiments.train -m hydra/launcher=submitit_local resume=true ...    # all at once, on this machine
  python -m experiments.train -m hydra/launcher=submitit_slurm resume=true ...    # on SLURM: experiments/cluster
  torchrun --nproc_per_node 2 -m experiments.train seed=3       # two processes train one policy

Asked to stop (SIGTERM, Ctrl-C, SIGUSR1, SIGUSR2) a run finishes its step, writes a checkpoint and exits with 75;
submitit queues it again. Asked twice, it ends at once. With resume=true it goes on; in a folder without a run it starts
one. A run may go on with other values of train.steps (a finished run too), train.probe_every, train.checkpoint_every,
train.micro_batch_size, train.gradient_checkpointing, train.save_policy, engine.*, parallel and tracker.

Metrics go to metrics.jsonl and TensorBoard events in the run's folder, and to a tracker where one is given; the last
two checkpoints and, after the last step, the policy as a Hugging Face folder lie there too. The folder is
runs/TASK-METHOD-SEED,SETTINGS with the settings that are not the default; of a sweep runs/SETTINGS with those that are
swept, and a hash of the others. hydra.run.dir=FOLDER (hydra.sweep.dir=FOLDER) says otherwise. One run at a time may use
a folder. python -m experiments.collect FOLDER shows many runs side by side. Set any of these as NAME=VALUE:

  --resume                     go on from the folder's checkpoint (the same as resume=true)
  threads = 0                  threads for torch; 0: its own choice
"""


def describe(config: Any) -> str:
    """The help text: every parameter of a configuration with its value and what it means."""
    return "\n".join([_HEAD, *_lines(config, "")])


def _lines(config: Any, prefix: str) -> list[str]:
    meanings = _attributes(type(config))
    lines: list[str] = []
    for parameter in fields(config):
        default = getattr(config, parameter.name)
        name = f"{prefix}{parameter.name}"
        if is_dataclass(default):
            lines += ["", f"  {name}: {meanings[parameter.name]}", *_lines(default, f"{name}.")]
        else:
            shown = "''" if default == "" else default
            lines.append(f"  {f'{name} = {shown}':<36} {meanings[parameter.name]}")
    return lines


def _attributes(config: type) -> dict[str, str]:
    """The `Attributes:` section of a Google docstring, one line an attribute."""
    section = inspect.getdoc(config).split("Attributes:\n")[1]  # type: ignore[union-attr]
    entries = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", section, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text) for name, text in entries}
