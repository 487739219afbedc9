"""A translation between whole batches and google-tunix's steps and checkpoints, for `jaxsel.integrations.tunix`."""

import json
import os
import warnings
from pathlib import Path
from typing import Any

from jaxsel.integrations._state_file import is_state
from jaxsel.integrations.atomic_files import replaced_when_complete


class Plan:
    """Translates between Tunix's counters and whole batches.

    A batch has `parts` micro-batches, and Tunix trains on each of them `num_iterations` times. Tunix counts all these
    passes. On resume it skips as many micro-batches as it counted passes.

    Args:
        learner: Tunix's learner.
        batch_size: Number of prompts per batch.

    Raises:
        ValueError: The micro-batches or mini-batches do not divide a batch. Or: Tunix packs sequences and writes
            checkpoints.
    """

    def __init__(self, learner: Any, batch_size: int):
        cluster = learner.rl_cluster
        config, self._trainer = cluster.cluster_config.training_config, cluster.actor_trainer
        self.root: str | None = config.checkpoint_root_directory
        packed = getattr(config, "max_seq_token_per_tpu", None)
        if self.root is not None and packed is not None:
            raise ValueError(
                f"max_seq_token_per_tpu is {packed}, with which Tunix packs sequences, so its counters do not tell "
                "batches apart and a checkpoint cannot be resumed; set it to None, or checkpoint_root_directory to None"
            )
        mini = config.mini_batch_size or batch_size
        micro = config.train_micro_batch_size or mini
        for name, size in (("micro", micro), ("mini", mini)):
            if batch_size % size:
                raise ValueError(
                    f"batch_size is {batch_size}, which Tunix's {name}-batches of {size} do not divide; give a "
                    f"multiple of {size}, or Tunix a size that divides {batch_size}"
                )
        self._parts = batch_size // micro
        self._passes = self._parts * int(getattr(learner.algo_config, "num_iterations", 1))
        self._accumulated = config.gradient_accumulation_steps or 1
        self._per_batch = self._passes // self._accumulated  # Tunix's steps per batch
        every = getattr(config.checkpointing_options, "save_interval_steps", 1)
        if self.root is not None and every % self._per_batch:
            warnings.warn(
                f"a batch has {self._per_batch} of Tunix's steps, and a checkpoint between two of them cannot be "
                f"resumed; give checkpointing_options a save_interval_steps that is a multiple of {self._per_batch}",
                stacklevel=3,
            )

    def steps(self) -> int:
        """Return the number of Tunix's steps in the checkpoint; 0 without a checkpoint."""
        return int(self._trainer.train_steps)

    def resumed(self) -> int:
        """Return the number of batches in the checkpoint that Tunix resumed from.

        Raises:
            ValueError: The checkpoint lies inside a batch.
        """
        if self._trainer.iter_steps % self._passes:
            raise ValueError(
                f"Tunix resumed from step {self.steps()}, inside a batch of {self._per_batch} steps; delete this "
                f"checkpoint, and save at multiples of {self._per_batch} steps"
            )
        return int(self._trainer.iter_steps) // self._passes

    def replayed(self) -> int:
        """Return the number of batches that Tunix skips at the start of a resumed run."""
        return int(self._trainer.iter_steps) // self._parts

    def checkpoints(self) -> set[int]:
        """Return the number of batches before each checkpoint that lies between two batches."""
        from etils import epath  # it reads remote folders too; orbax-checkpoint installs it

        folder = epath.Path(str(self._trainer.config.checkpoint_root_directory))
        steps = [int(path.name) for path in folder.iterdir() if path.name.isdigit()] if folder.exists() else []
        return {step // self._per_batch for step in steps if step % self._per_batch == 0}


def state_folder_of(given: Path | None, root: str) -> Path:
    """Return the folder for the files with the selector's state.

    Raises:
        ValueError: Tunix's checkpoints are remote, and no local folder is given.
    """
    if given is None and "://" in root:
        raise ValueError(
            f"checkpoint_root_directory is {root}; give state_folder, a local folder that survives a crash"
        )
    return Path(root) / "selector" if given is None else given


def claim(folder: Path, root: str, *, resumed: bool) -> None:
    """Note in the folder of the states which run they belong to: a new run deletes states of its own folder.

    Raises:
        ValueError: A new run is given a folder with the states of another run.
    """
    note = folder / "run.json"
    own = root if "://" in root else os.path.abspath(root)
    if not resumed:
        try:
            other = json.loads(note.read_text())["checkpoint_root_directory"] if note.exists() else None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{note} is damaged ({error}); give another state_folder") from error
        if other is None and any(map(is_state, folder.glob("batch-*.npz"))):
            other = "unknown"
        if other not in (None, own):
            raise ValueError(
                f"state_folder is {folder}, which holds the states of another run, with the checkpoint_root_directory "
                f"{other}; give another folder"
            )
    folder.mkdir(parents=True, exist_ok=True)
    with replaced_when_complete(note) as file:
        file.write(json.dumps({"checkpoint_root_directory": own}).encode())


def state_file(folder: Path, batch: int) -> Path:
    """Return the path of the selector's state after this number of batches."""
    return folder / f"batch-{batch:08d}.npz"
