"""Tasks from their settings: the built-in tasks by name, and any data set with a verifier."""

import os
from collections.abc import Callable, Sequence

from experiments.running.config import RunConfig
from rl.prompts import Task
from rl.prompts.files import format_of
from rl.tasks import countdown, countdown_chat, data, presets, reasoning_gym, string_ops, word_problems
from rl.tasks.data_config import DataConfig, refuse_unused
from rl.verifiers import VERIFIERS

TASKS: dict[str, Callable[[], Task]] = {"string_ops": string_ops.make, "countdown": countdown.make}
"""The built-in tasks, which need neither data nor a policy."""

_PUBLISHED = ("aime", "amc", "math500", "minerva", "olympiad", "deepscaler", "hmmt")  # data sets that papers report on


def task_of(config: RunConfig) -> Task:
    """Return the task of a run.

    Raises:
        ValueError: The task or its verifier is unknown, the built-in policy cannot read the task, or it is to be
            fine-tuned.
    """
    task = make_task(config.task, config.verifier, config.data)
    if not task.alphabet and not config.policy:
        raise ValueError(
            f"policy is '' with the task {task.name}, whose texts the built-in policy cannot read: it knows only the "
            "characters of string_ops and countdown; give policy=PATH, the folder or hub name of a Hugging Face model"
        )
    if config.fine_tuning.steps and not config.policy:
        raise ValueError(
            f"fine_tuning.steps is {config.fine_tuning.steps} with the built-in policy, which warm_start trains; give "
            "policy=PATH, or warm_start.steps"
        )
    if config.fine_tuning.steps:
        next(task.demonstrations(config.fine_tuning.seed))  # a task without demonstrations refuses here
    return task


def make_task(task: str | Sequence[str], verifier: str = "", config: DataConfig | None = None) -> Task:
    """Return the task of that name, or of that data set.

    Args:
        task: The name of a built-in task; or a file, several files, a folder, or the hub name of a data set.
        verifier: The verifier of a data set; see `rl.verifiers`.
        config: How a data set becomes a task. None: the defaults.

    Raises:
        ValueError: The task is unknown, a data set has no verifier, a task with its own verifier is given another, or a
            task is given a setting of data sets that it ignores.
    """
    config = config or DataConfig()
    if isinstance(task, str) and task in TASKS:
        if verifier:
            raise ValueError(f"verifier is {verifier!r} with the built-in task {task}, which has its own; leave it out")
        refuse_unused(task, config, ())
        return TASKS[task]()
    named = named_task(task) if isinstance(task, str) else None
    if named is not None:
        if verifier:
            raise ValueError(f"verifier is {verifier!r} with the task {task}, which has its own; leave it out")
        return named(task, config)
    if verifier:
        return data.make(task if isinstance(task, str) else list(task), verifier, config)
    if isinstance(task, str) and not _is_data(task) and task.lower().replace("-", "").startswith(_PUBLISHED):
        raise ValueError(
            f"task is {task!r}, whose problems are not part of this package; give their file as math:PATH, or as PATH "
            "with verifier=math (eval_verifier=math in eval=[PATH])"
        )
    if isinstance(task, str) and not _is_data(task):
        raise ValueError(
            f"task is {task!r}; give one of {', '.join(TASKS)}, {', '.join(countdown_chat.COUNTS)}, word_problems, "
            "math:PATH, gsm8k, geometry3k, reasoning_gym:NAME, or a file, a folder or the hub name of a data set with "
            "verifier=NAME"
        )
    raise ValueError(
        f"verifier is '' with the data set {task}; give one of {', '.join(VERIFIERS)}, or module:function for a "
        "function verify(completion, answer)"
    )


def named_task(task: str) -> Callable[..., Task] | None:
    """Return the function that makes a task for Hugging Face models by its name; None for another name."""
    if task == word_problems.NAME:
        return lambda _, config: word_problems.make(config)
    if task.startswith(reasoning_gym.PREFIX):
        return reasoning_gym.make
    if countdown_chat.is_task(task):
        return countdown_chat.make
    return presets.make if presets.is_preset(task) else None


def _is_data(name: str) -> bool:
    return "/" in name or os.path.exists(name) or format_of(name) is not None
