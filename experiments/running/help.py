"""The text of `--help`: a configuration, described by the docstrings of its dataclasses."""

import inspect
import re
from dataclasses import fields, is_dataclass
from typing import Any

_HEAD = """Train a policy on prompts that a method chooses.

  python -m experiments.train method.name=dps train.steps=500 seed=3
  python -m experiments.train method.name=dps train.checkpoint_every=50 --resume
  python -m experiments.train -m method.name=uniform,mopps,dps seed=0,1,2     # every combination, one after the other
  python -m experiments.train -m hydra/launcher=submitit_local resume=true ...    # all at once, on this machine
  python -m experiments.train -m hydra/launcher=submitit_slurm resume=true ...    # on SLURM: experiments/cluster
  torchrun --nproc_per_node 2 -m experiments.train seed=3       # two processes train one policy

After a signal to stop (SIGTERM, Ctrl-C, SIGUSR1, SIGUSR2) a run finishes its step, writes a checkpoint and
exits with 75; submitit then queues it again. A second signal ends it at once. With resume=true a run is resumed; if the
folder holds no run, a new run starts. A resumed run may change train.steps (so may a finished run), train.probe_every,
train.checkpoint_every, train.micro_batch_size, train.gradient_checkpointing, train.share_prompts, train.save_policy,
train.verify_timeout, train.verify_process, train.keep_completions, eval and eval_*, engine.*, parallel and tracker. If
the learning rate decays (train.lr_schedule), train.steps may not change. Before the first checkpoint,
train.checkpoint_every may not change.

The run's folder holds the metrics (metrics.jsonl and TensorBoard events), the last two checkpoints and, after the last
step, the policy as a Hugging Face folder. With train.keep_completions it also holds completions. If a tracker is given,
it receives the metrics too. The folder is runs/TASK-METHOD-SEED,SETTINGS, where SETTINGS are the settings that are not
the default. A run of a sweep has the folder runs/SETTINGS, with the swept settings and a hash of the other changed
settings. hydra.run.dir=FOLDER (for a sweep hydra.sweep.dir=FOLDER) chooses another folder. Only one run at a time may
use a folder.
python -m experiments.collect FOLDER shows many runs side by side, and python -m experiments.watch FOLDER while they
train. Set any of these as NAME=VALUE:

  --resume                     resume from the folder's checkpoint (the same as resume=true)
  --dry-run                    print the runs, their folders and the script of SLURM's jobs; start nothing
  threads = 0                  threads for torch; 0: torch's own choice
"""


def describe(config: Any) -> str:
    """Return the help text, with every setting of a configuration, its default and its meaning."""
    return "\n".join([_HEAD, *settings_of(config)])


def settings_of(config: Any, prefix: str = "") -> list[str]:
    """Return one line per setting of a configuration, with its default and its meaning."""
    meanings = _attributes(type(config))
    lines: list[str] = []
    for parameter in fields(config):
        default = getattr(config, parameter.name)
        name = f"{prefix}{parameter.name}"
        if is_dataclass(default):
            lines += ["", f"  {name}: {meanings[parameter.name]}", *settings_of(default, f"{name}.")]
        else:
            shown = "''" if default == "" else default
            lines.append(f"  {f'{name} = {shown}':<36} {meanings[parameter.name]}")
    return lines


def _attributes(config: type) -> dict[str, str]:
    """Return the entries of the `Attributes:` section of a Google docstring, each on one line."""
    section = inspect.getdoc(config).split("Attributes:\n")[1]  # type: ignore[union-attr]
    entries = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", section, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text) for name, text in entries}
