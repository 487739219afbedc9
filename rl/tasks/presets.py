"""The tasks `math` and `gsm8k`: data sets with a template for their prompts and the verifier `math`.

    python -m experiments.train task=math:problems.jsonl policy=Qwen/Qwen2.5-0.5B-Instruct
    python -m experiments.train task=gsm8k policy=Qwen/Qwen2.5-0.5B-Instruct

`math:PATH` takes a file, a folder or the hub name of a data set with problems and answers. `gsm8k` takes openai/gsm8k
from the hub, with its test split held out; `gsm8k:PATH` takes a copy of it, or another file with its columns.
"""

from dataclasses import replace

from rl.prompts import Task
from rl.tasks import data
from rl.tasks.data_config import DataConfig

TEMPLATES = {
    "math": "{prompt}\n\nReason step by step, and write the final answer inside \\boxed{}.",
    "gsm8k": '{prompt}\n\nReason step by step, and end with a line of "#### " and the answer as a number.',
}
"""The templates of the tasks, which `DataConfig.template` replaces."""
GSM8K = "openai/gsm8k"


def is_preset(name: str) -> bool:
    """Return whether this module has a task of this name; a colon and a path may follow the name."""
    return name.partition(":")[0] in TEMPLATES


def make(name: str, config: DataConfig | None = None, *, whole: bool = False) -> Task:
    """Return the task of a name such as `math:problems.jsonl`.

    Args:
        name: `math:PATH`, `gsm8k` or `gsm8k:PATH`.
        config: The settings. An empty template is replaced by the task's own.
        whole: Whether all prompts of PATH form an evaluation set; see `rl.tasks.data.make`.

    Raises:
        ValueError: `math` has no path, or the name is unknown.
    """
    kind, _, source = name.partition(":")
    if kind not in TEMPLATES or (kind == "math" and not source):
        raise ValueError(f"task is {name!r}; give math:PATH, gsm8k or gsm8k:PATH")
    config = config or DataConfig()
    if not config.template:
        config = replace(config, template=TEMPLATES[kind])
    if not source:
        config = _on_the_hub(config)
    return data.make(source or GSM8K, "math", config, whole=whole and bool(source))._replace(name=name)


def _on_the_hub(config: DataConfig) -> DataConfig:
    """Return the settings with the configuration and splits of openai/gsm8k, where they are not given."""
    held_out_split = config.held_out_split or ("" if config.held_out else "test")
    return replace(config, config=config.config or "main", split=config.split or "train", held_out_split=held_out_split)
