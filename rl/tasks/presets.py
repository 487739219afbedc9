"""The tasks `math`, `gsm8k` and `geometry3k`: data sets with a template for their prompts and the verifier `math`.

    python -m experiments.train task=math:problems.jsonl policy=Qwen/Qwen2.5-0.5B-Instruct
    python -m experiments.train task=gsm8k policy=Qwen/Qwen2.5-0.5B-Instruct
    python -m experiments.train task=geometry3k policy=Qwen/Qwen2.5-VL-3B-Instruct

`math:PATH` takes a file, a folder or the hub name of a data set with problems and answers. `gsm8k` takes openai/gsm8k
from the hub, with its test split held out; `gsm8k:PATH` takes a copy of it, or another file with its columns.
`geometry3k` takes hiyouga/geometry3k from the hub, whose problems have figures, in the same way. It needs a policy that
reads images.
"""

from dataclasses import replace

from rl.prompts import Task
from rl.tasks import data
from rl.tasks.data_config import DataConfig

TEMPLATES = {
    "math": "{prompt}\n\nReason step by step, and write the final answer inside \\boxed{}.",
    "gsm8k": '{prompt}\n\nReason step by step, and end with a line of "#### " and the answer as a number.',
    "geometry3k": "{prompt}\n\nReason step by step, and write the final answer inside \\boxed{}.",
}
"""The templates of the tasks, which `DataConfig.template` replaces."""
ON_THE_HUB = {"gsm8k": ("openai/gsm8k", "main"), "geometry3k": ("hiyouga/geometry3k", "")}
"""The names on the hub, and the configurations, of data sets with the splits train and test."""


def is_preset(name: str) -> bool:
    """Return whether this module has a task of this name; a colon and a path may follow the name."""
    return name.partition(":")[0] in TEMPLATES


def make(name: str, config: DataConfig | None = None, *, whole: bool = False) -> Task:
    """Return the task of a name such as `math:problems.jsonl`.

    Args:
        name: `math:PATH`, `gsm8k`, `geometry3k`, `gsm8k:PATH` or `geometry3k:PATH`.
        config: The settings. An empty template is replaced by the task's own.
        whole: Whether all prompts of PATH form an evaluation set; see `rl.tasks.data.make`.

    Raises:
        ValueError: `math` has no path, or the name is unknown.
    """
    kind, _, source = name.partition(":")
    if kind not in TEMPLATES or (kind not in ON_THE_HUB and not source):
        raise ValueError(f"task is {name!r}; give math:PATH, gsm8k or gsm8k:PATH, geometry3k or geometry3k:PATH")
    config = config or DataConfig()
    if not config.template:
        config = replace(config, template=TEMPLATES[kind])
    if source:
        return data.make(source, "math", config, whole=whole)._replace(name=name)
    hub, own = ON_THE_HUB[kind]
    return data.make(hub, "math", _on_the_hub(config, own))._replace(name=name)


def _on_the_hub(config: DataConfig, own: str) -> DataConfig:
    """Return the settings with the configuration and splits of a data set on the hub, where they are not given.

    Raises:
        ValueError: A share is to be held out, but the split `test` is.
    """
    if config.held_out_share != DataConfig().held_out_share:
        raise ValueError(
            f"data.held_out_share is {config.held_out_share}, but the split test is held out; leave it out"
        )
    held_out_split = config.held_out_split or ("" if config.held_out else "test")
    return replace(config, config=config.config or own, split=config.split or "train", held_out_split=held_out_split)
