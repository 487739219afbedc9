"""Reads the logs of other trainers, for `jaxsel.replay` and to start a selector from their results.

A log has one row per completion, with the training step, the prompt and the reward; a row whose reward is a list holds
a whole group. A log is a file of CSV, JSON lines or Parquet, or a folder of such files. CSV and JSON lines may be
compressed (.gz). Parquet needs `pip install "jaxsel[history]"`; the other kinds need nothing more.

Rows of the same step and prompt become one visit, and all visits are a history. The same weights are assumed to have
generated all rollouts of a step. Where a trainer takes several batches between two updates, give a column that numbers
the updates as `step`.

A log holds only what the trainer kept. Some trainers filter groups before they log them (dynamic sampling), or log
only every tenth step. The history then lacks the other groups. Most groups that a filter drops are all
right or all wrong.

Rows are read one at a time, so that memory holds the prompts and the counts of the visits, and no completion;
`read_trl` alone holds the texts of up to two files. A log names prompts in its own way; `on_pool` finds them in your
pool, and `warm_start` lets a selector observe them.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxsel.integrations._log_counts import Columns, Imported, imported, name_of
from jaxsel.integrations._log_files import BY_ENDING, find_files, names_of, samples_by
from jaxsel.integrations._log_pool import OnPool, on_pool, warm_start

_ROLLOUTS = re.compile(r"_rollouts_\d+\.jsonl(\.gz)?\Z")

__all__ = [
    "Imported",
    "OnPool",
    "on_pool",
    "read_logs",
    "read_nemo_rl",
    "read_open_instruct",
    "read_prime_rl",
    "read_slime",
    "read_trl",
    "read_verl",
    "warm_start",
]


def read_logs(
    path: str | Path,
    *,
    step: str = "step",
    prompt: str = "prompt",
    reward: str = "reward",
    threshold: float = 0.5,
    files: str | None = None,
) -> Imported:
    """Read a log whose columns may have any names. A dot names a field of a record, as in `info.prompt_id`.

    Args:
        path: A file, or a folder of files of one kind: .csv, .jsonl or .parquet. Subfolders are read if the folder
            itself holds no log, as where a trainer writes one folder per step.
        step: Name of the column with the training step, a whole number. A row without it has the step that the
            name of its file or folder says, such as `train_data_step12.jsonl`, `step_12/` or `12.jsonl`.
        prompt: Name of the column with the prompt: its text, its name or number, or a list of messages.
        reward: Name of the column with the reward, or with a list of rewards. An empty cell, null, NaN or infinity
            means "not judged", and never counts as a failure.
        threshold: A completion is correct when its reward is larger than this.
        files: Glob pattern of the files in the folder, such as `**/train_*.jsonl`, where other files lie beside them.
            An absolute pattern, such as `/logs/*.jsonl`, names files anywhere.

    Raises:
        ValueError: The path does not exist, a file is of another kind, or a column is missing. Or: a step or a reward
            is not a number, a prompt is missing, there are no rows, or no row has a reward. Or: a file lies beside its
            compressed copy, or the threshold is not a finite number. The message names file and row.
        ImportError: pyarrow is needed and not installed.
    """
    columns = Columns(step, prompt, reward)
    folder = Path(path).expanduser()
    return imported(folder, find_files(folder, files), columns, threshold)


def read_verl(path: str | Path, *, reward: str = "score", threshold: float = 0.5) -> Imported:
    """Read the folder that verl writes with `trainer.rollout_data_dir`: one file of JSON lines per step.

    The fields are `input`, `output`, `gts`, `score`, `step`, and the fields that the reward function adds (read in verl
    0.9.1: `_write_generations` of trainer/ppo/ray_trainer.py and trainer/ppo/v1/trainer_base.py). `input` is the prompt
    with its chat template, without special tokens. verl draws a new `uid` at every visit, so `uid` does not
    identify a prompt.

    Args:
        path: The folder.
        reward: Name of the reward field. "score" is the whole reward, format credits included. A field of the reward
            function, such as "acc", may be closer to correctness.
        threshold: A completion is correct when its reward is larger than this.

    Raises:
        ValueError: As for `read_logs`.
    """
    return read_logs(path, step="step", prompt="input", reward=reward, threshold=threshold)


def read_trl(path: str | Path, *, reward: str | None = None, threshold: float = 0.5) -> Imported:
    """Read the files that TRL's GRPOTrainer writes with `log_completions=True`.

    The files are completions/completions_00001.parquet and so on. Their columns are `step`, `prompt`, `completion`, one
    column per reward function, columns that the reward functions log, and `advantage` (read in TRL 1.16.0: `log` of
    trainer/grpo_trainer.py).

    TRL writes a file whenever the trainer logs, so set `logging_steps=1`. A file holds the newest completions. Where a
    batch is used for several steps, the next file repeats them, and this function leaves the repetition out. An
    evaluation overwrites the file of its step: use runs without evaluation.

    Args:
        path: The trainer's `output_dir`, or the folder `completions` in it.
        reward: Name of the reward function that tells whether a completion is correct. None: the only reward function.
        threshold: A completion is correct when its reward is larger than this.

    Raises:
        ValueError: As for `read_logs`, or `reward` is None and several columns may be rewards.
        ImportError: pyarrow is not installed.
    """
    folder = Path(path).expanduser()
    if (folder / "completions").is_dir():
        folder = folder / "completions"
    files = find_files(folder, None)
    if reward is None:
        names = names_of(files[0])
        rewards = [name for name in names if name not in ("step", "prompt", "completion", "advantage")]
        if len(rewards) != 1:
            raise ValueError(
                f"{path} has the columns {_listed(names)}; give the name of one reward function as `reward`"
            )
        reward = rewards[0]
    return imported(folder, files, Columns("step", "prompt", reward), threshold, repeated_by="completion")


def read_nemo_rl(path: str | Path, *, threshold: float = 0.5) -> Imported:
    """Read the folder of NeMo-RL's logs: `train_data_step12.jsonl` and so on, whose name says the step.

    Every row holds lists of one entry: `content`, the messages, of which the last is the completion, and `rewards`. A
    message is its text with the chat template, or a record with `role` and `content`. With dynamic sampling, `rewards`
    are those before shaping (read in `grpo_train` of nemo_rl/algorithms/grpo.py and `log_batched_dict_as_jsonl` of
    nemo_rl/utils/logger.py). Of a conversation of several turns, all messages but the last are taken as the prompt.

    Args:
        path: The folder, in which validation files may lie too.
        threshold: A completion is correct when its reward is larger than this.

    Raises:
        ValueError: As for `read_logs`.
    """
    folder = Path(path).expanduser()
    files = find_files(folder, "**/train_data_step*.jsonl*")
    columns = Columns("step", "content", "rewards", _without_completion)
    return imported(folder, files, columns, threshold)


def read_prime_rl(path: str | Path, *, prompt: str = "prompt", threshold: float = 0.5) -> Imported:
    """Read the folder of prime-rl's rollouts: `step_12/train_rollouts.jsonl` and so on, whose folder says the step.

    Every row has `prompt`, `completion`, `reward` and `example_id` among its fields (read in the orchestrator's
    `save_rollouts`). `example_id` numbers the rows of one environment alone. Newer versions write traces with other
    fields: read these by `read_logs` with the names of their fields.

    Args:
        path: The folder `rollouts`, or one above it. Evaluations beside the training rollouts are not read.
        prompt: Name of the field that names the prompt, such as example_id.
        threshold: A completion is correct when its reward is larger than this.

    Raises:
        ValueError: As for `read_logs`.
    """
    return read_logs(path, prompt=prompt, threshold=threshold, files="**/train_rollouts.jsonl*")


def read_slime(
    path: str | Path, *, reward: str = "reward", threshold: float = 0.5, load: Callable[[Path], Any] | None = None
) -> Imported:
    """Read samples of slime: its own files of torch, or JSON lines, one file per rollout, such as `rollout_12.jsonl`.

    Every sample is `Sample.to_dict()`, with `prompt` and `reward`. A reward may be a record: give its entry, as in
    `reward="reward.acc"`. The step is the `rollout_id` of the sample or its file, or without it the number in the
    file's name. Files of evaluations, whose names begin with `eval_`, are not read.

    Args:
        path: The folder, or one file.
        reward: Name of the reward, with a dot for an entry of a record.
        threshold: A completion is correct when its reward is larger than this.
        load: A function that opens the files `*.pt` of slime's `--save-debug-rollout-data`: `torch.load`, which runs no
            code of their author unless you give it `weights_only=False`. None: JSON lines are read.

    Raises:
        ValueError: As for `read_logs`.
    """
    folder = Path(path).expanduser()
    if load is None:
        files, reader = find_files(folder, None), BY_ENDING
    else:
        files, reader = sorted(folder.glob("*.pt")) if folder.is_dir() else [folder], samples_by(load)
    if folder.is_dir():
        files = [file for file in files if not file.name.startswith("eval_")]
    if not files:
        raise ValueError(f"{path} holds no file *.pt of training rollouts; give a folder of --save-debug-rollout-data")
    return imported(folder, files, Columns("rollout_id", "prompt", reward), threshold, reader=reader)


def read_open_instruct(path: str | Path, *, threshold: float = 0.5) -> Imported:
    """Read the folder that open-instruct writes with `--save_traces`: `RUN_rollouts_000000.jsonl` and so on.

    Every row has `step`, `prompt_tokens` and `reward` (read in `RolloutRecord` of open_instruct/rl_utils.py). Prompts
    are named by the JSON of their tokens, because `prompt_idx` counts anew in every batch: give `on_pool` such names as
    keys. The file `RUN_metadata.jsonl` beside them is not read.

    Args:
        path: The folder.
        threshold: A completion is correct when its reward is larger than this. open-instruct's reward is 10 for a right
            answer by default, and may hold format credits.

    Raises:
        ValueError: As for `read_logs`.
    """
    folder = Path(path).expanduser()
    files = find_files(folder, "*_rollouts_*.jsonl*")
    if folder.is_dir():  # the name of a run may hold _rollouts_ too, and then the metadata's name does
        files = [file for file in files if _ROLLOUTS.search(file.name)]
    return imported(folder, files, Columns("step", "prompt_tokens", "reward"), threshold)


def _without_completion(content: Any) -> str | None:
    """Return the name of NeMo-RL's prompt: all messages but the last, in a list of one conversation."""
    messages = content[0] if isinstance(content, list) and len(content) == 1 else content
    if not isinstance(messages, list) or len(messages) < 2:
        return None
    prompt = messages[:-1]
    if all(isinstance(message, str) for message in prompt):
        return "".join(prompt)
    if all(isinstance(message, dict) and "content" in message for message in prompt):
        return name_of([{name: message.get(name) for name in ("role", "content")} for message in prompt])
    return None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
