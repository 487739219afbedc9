"""Evaluation sets by name: any prompt file with a verifier, or the held-out prompts of a task."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from experiments.running.config import EvalDataConfig, RunConfig
from experiments.running.tasks import TASKS, make_task, named_task
from rl.evaluation import Evaluation, EvaluationSet
from rl.prompts import Task
from rl.prompts.files import COMPRESSIONS, FORMATS
from rl.prompts.sources import is_path
from rl.tasks import data, presets
from rl.tasks.data_config import DataConfig

_SETTING = re.compile(rf"\bdata\.(?=({'|'.join(one.name for one in fields(EvalDataConfig))})=)")
"""The beginning of a setting in the messages about a data set, which a run reads by its settings `eval_data`."""


def evaluation_of(config: RunConfig) -> Evaluation:
    """Return the evaluation sets of a run.

    Data sets get the template `data.template`. A named task keeps its own template, unless the run trains on
    this task, whose split it then shares.

    Raises:
        ValueError: A set is unknown, has no verifier or no prompts, or two sets have the same name.
    """
    trained = _kind(config.task) if isinstance(config.task, str) else ""
    settings = config.eval_data.settings(config.data.template, config.data.max_new_tokens, config.data.stop)
    check_data_sets("eval_data", config.eval_data, config.eval)
    if config.eval_verifier and not any(map(_needs_verifier, config.eval)):
        raise ValueError(
            f"eval_verifier is {config.eval_verifier!r}, and each evaluation set of {list(config.eval)} has a verifier "
            "of its own; leave it out"
        )
    sets = []
    for name in config.eval:
        used = settings
        if named_task(name) is not None and _kind(name) != trained:
            used = replace(settings, template="")
        elif not _is_data_set(name):  # with the run's own split, no prompt of the pool is held out
            split = {"held_out_share": config.data.held_out_share, "held_out_seed": config.data.held_out_seed}
            used = replace(settings, **split)
        try:
            found = evaluation_set(name, config.eval_verifier or config.verifier, used, config.held_out_size)
        except ValueError as error:
            raise ValueError(_SETTING.sub("eval_data.", str(error))) from error
        sets.append(found)
    sampling = {"temperature": config.eval_temperature, "top_p": config.eval_top_p}
    return Evaluation(distinct(sets, config.eval), k=config.eval_k, every=config.eval_every, **sampling)


def check_data_sets(setting: str, given: EvalDataConfig, names: Sequence[str]) -> None:
    """Refuse settings of data sets where no evaluation set is one, and a configuration where none is on the hub.

    Raises:
        ValueError: Settings are given, and none of the evaluation sets uses them.
    """
    data_sets = list(filter(_is_data_set, names))
    if given != EvalDataConfig() and not data_sets:
        raise ValueError(f"{setting} is given, and no evaluation set of {list(names)} is a data set; leave it out")
    if given.config and all(map(_is_local, data_sets)):
        raise ValueError(
            f"{setting}.config is {given.config!r}, and no evaluation set of {list(names)} is on the hub; give the "
            "folder of that configuration as the set, or leave it out"
        )


def distinct(sets: Sequence[EvaluationSet], names: Sequence[str]) -> list[EvaluationSet]:
    """Return the sets, with the folder in equal names: those of `a/test.json` and `b/test.json` are a-test and b-test.

    Args:
        sets: The evaluation sets.
        names: The names from which `evaluation_set` made them.
    """
    longer = [f"{Path(name.rpartition(':')[2]).parent.name}-{one.name}" for one, name in zip(sets, names, strict=True)]
    count = Counter([*(one.name for one in sets), *longer])
    return [
        one._replace(name=name) if count[one.name] > 1 and count[name] == 1 else one
        for one, name in zip(sets, longer, strict=True)
    ]


def evaluation_set(name: str, verifier: str, config: DataConfig, size: int = 0) -> EvaluationSet:
    """Return one evaluation set.

    Args:
        name: A file, a folder or the hub name of a data set, of which all prompts count; `math:PATH` for such a data
            set with the template and the verifier of this task; or another task, of which the held-out prompts count.
        verifier: The verifier of data sets; tasks have their own.
        config: Template, longest completion and stop texts; and for a data set how it is read. Its configuration holds
            for a data set on the hub alone.
        size: Number of held-out prompts of a task.

    Raises:
        ValueError: There is no such task or file, it holds no prompts, or a data set has no verifier.
    """
    task, source = _task_of(name, verifier, replace(config, config="") if _is_local(name) else config)
    problems = task.held_out(0 if source else size)
    if not len(problems):
        raise ValueError(f"{name} holds no prompts; give another evaluation set")
    return EvaluationSet(_short(source or name), task, problems)


def _task_of(name: str, verifier: str, config: DataConfig) -> tuple[Task, str]:
    """Return the task, and the path or hub name if all prompts of a data set count; otherwise the second is empty."""
    _, _, path = name.partition(":")
    if name in TASKS:
        return TASKS[name](), ""
    if not _is_data_set(name):
        split = {"held_out_share": config.held_out_share, "held_out_seed": config.held_out_seed}
        config = DataConfig(config.template, config.max_new_tokens, config.stop, **split)
    if presets.is_preset(name) and path:
        return presets.make(name, config, whole=True), path
    if named_task(name) is not None:
        return make_task(name, "", config), ""
    if not verifier:
        make_task(name)  # refuses an unknown task by its name
    return data.make(name, verifier, config, whole=True), name


def _is_data_set(name: str) -> bool:
    return presets.is_preset(name) or _needs_verifier(name)


def _is_local(name: str) -> bool:
    """Return whether an evaluation set is a file or a folder, also after the name of a task as in `math:PATH`."""
    _, _, path = name.partition(":")
    if presets.is_preset(name):
        return bool(path) and is_path(path)
    return _needs_verifier(name) and is_path(name)


def _needs_verifier(name: str) -> bool:
    return name not in TASKS and named_task(name) is None


def _kind(name: str) -> str:
    return name.partition(":")[0]


def _short(name: str) -> str:
    """Return the last part of a path, without the endings of a file format."""
    last = Path(name).name
    for ends in (COMPRESSIONS, FORMATS):
        found = next((end for end in ends if last.lower().endswith(end)), "")
        last = last[: len(last) - len(found)]
    return last or name
