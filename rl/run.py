"""The state of a training run: how much of it is done, and how its folder restores and saves it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from jaxsel.integrations.atomic_files import replaced_folder
from jaxsel.integrations.history import HistoryLog, Unwritten
from rl.curriculum import Curriculum
from rl.learner import Learner
from rl.policy import Policy
from rl.prompts import PromptPool
from rl.ranks import Ranks
from rl.rollout_worker import VisitLog
from rl.run_folder.checkpoint import check_finite, load_latest, save_checkpoint
from rl.run_folder.completions import CompletionLog
from rl.run_folder.contents import COMPLETIONS, HISTORY, METRICS, NEWEST, POLICY, check_free
from rl.run_folder.log import Records, RunLog, is_end, read_metrics
from rl.run_folder.trackers import Tracker
from rl.train_config import TrainConfig

_log = logging.getLogger(__name__)
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
"""Names of weights in the folder of a policy: Transformers would read an old file before new shards."""


class Run:
    """A training run that can be killed at any moment and resumed from its folder.

    All processes (ranks) of the run call `restore` and `save`; rank 0 alone writes.

    Args:
        run_dir: The folder of the run.
        identity: The settings that the results depend on. A checkpoint with other settings is refused.
        config: The settings of the training loop.
        learner: The learner; its weights and its optimiser are restored and saved.
        curriculum: The curriculum; its selector is restored and saved with it.
        ranks: The processes of the run.

    Attributes:
        config: The settings of the training loop.
        learner: The learner.
        curriculum: The curriculum.
        ranks: The processes of the run.
        done: The number of finished steps.
        num_rollouts: The number of rollouts that these steps generated.
        finished: Whether the final probe is done too. `open_logs` sets it.
        log: The log of the metrics of every step, set by `open_logs`.
        visits: The record of the selector's observations and predictions, set by `open_logs`.
        completions: The completions that are kept, set by `open_logs`; None on ranks above 0.
    """

    log: Records
    visits: VisitLog
    completions: CompletionLog | None

    def __init__(
        self,
        run_dir: Path,
        identity: dict[str, Any],
        config: TrainConfig,
        learner: Learner,
        curriculum: Curriculum,
        ranks: Ranks,
    ):
        self.config, self.learner, self.curriculum, self.ranks = config, learner, curriculum, ranks
        self._run_dir, self._identity = run_dir, identity
        self.done = 0
        self.num_rollouts = 0
        self.finished = False

    def restore(self) -> None:
        """Load the newest undamaged checkpoint; without a checkpoint the run starts at its first step.

        Raises:
            ValueError: All checkpoints are damaged or have another identity. Or: the run has already done more steps
                than `config.steps`. Or: there is no checkpoint, though the metrics of the run hold steps that one
                should hold.
        """
        saved = load_latest(self._run_dir, self._identity, self.ranks)
        if saved is None:
            return self.ranks.on_main(self._check_that_no_step_is_lost)
        done, steps = saved["step"], self.config.steps
        if steps < done:
            raise ValueError(f"steps is {steps}, but the run in {self._run_dir} has done {done}; give at least {done}")
        self.learner.load_state_dict(saved["learner"])
        self.curriculum.load_state_dict(saved["curriculum"])
        self.done, self.num_rollouts = done, saved["num_rollouts"]

    def save(self) -> None:
        """Replace the checkpoint; the earlier one stays beside it.

        Raises:
            ValueError: A weight or a moment of the optimiser is no longer finite.
            OSError: The disk is full.
        """
        self.flush()  # first: a resumed run relies on the records of all steps that its checkpoint has done
        self.log.sync()
        content = {"learner": self.learner.state_dict(), "curriculum": self.curriculum.state_dict()}
        content |= {"step": self.done, "num_rollouts": self.num_rollouts}
        self.ranks.on_main(partial(save_checkpoint, self._run_dir / NEWEST, self._identity, **content))

    def flush(self) -> None:
        """Write the selector's observations and the kept completions to disk."""
        self.visits.flush()
        if self.completions is not None:
            self.completions.flush()

    @property
    def checkpoint_is_due(self) -> bool:
        """Whether the settings ask for a checkpoint after the steps that are done."""
        every = self.config.checkpoint_every
        return bool(every) and (self.done % every == 0 or self.done == self.config.steps)

    @contextmanager
    def open_logs(self, pool: PromptPool, *, resume: bool, tracker: Tracker | None) -> Iterator[None]:
        """Open the metrics, the selector's observations and the kept completions, inside the `with` block.

        Lines of steps that the resumed run takes again are removed. A warning names steps that the checkpoint has done
        and whose lines are missing.

        Args:
            pool: The training prompts; the record of observations keeps their texts.
            resume: False refuses a folder that already holds a run.
            tracker: Receives the metrics too, from rank 0.

        Raises:
            ValueError: The folder holds a run and `resume` is false, or it holds files of another origin that this run
                would replace.
        """
        steps = self.config.steps

        def open_log() -> Records:
            # the final probe of a finished run is kept, but no training step that a longer run took there
            first_step = self.done
            if self.done == steps:
                first_step += any(r["step"] == steps and is_end(r) for r in read_metrics(self._run_dir / METRICS))
            if self.ranks.is_main:
                if not self.done:
                    check_free(self._run_dir)
                return RunLog(self._run_dir, first_step=first_step, resume=resume, tracker=tracker)
            return Records(self._run_dir, first_step=first_step)

        def open_visits() -> VisitLog:
            if not (self.config.history and self.ranks.is_main):
                return Unwritten()
            options = {"spec": self.curriculum.spec, "first_step": self.done + self.finished, "texts": pool.plain_texts}
            return HistoryLog(self._run_dir / HISTORY, num_prompts=len(pool), **options)

        def open_completions() -> CompletionLog | None:
            if not self.ranks.is_main:
                return None
            return CompletionLog(self._run_dir / COMPLETIONS, self.config.keep_completions, first_step=self.done)

        self.log = self.ranks.each(open_log)
        missing = sorted(set(range(self.done)) - {record["step"] for record in self.log.records})
        if missing and self.ranks.is_main:
            lacks = f"lacks {len(missing)} steps, the first of them {missing[0]}, that the checkpoint has done"
            _log.warning("%s %s; their metrics are lost unless you put back a copy", self._run_dir / METRICS, lacks)
        self.finished = any(record["step"] == steps for record in self.log.records)
        self.visits = self.ranks.each(open_visits)
        self.completions = self.ranks.each(open_completions)
        with self.log:
            yield

    def save_policy(self, policy: Policy) -> None:
        """Write the policy to the folder `policy`, for Transformers. A run that had already finished keeps it.

        Other files of the folder, which the user may have added, stay.
        """
        folder = self._run_dir / POLICY
        if not self.ranks.on_main(lambda: not (self.finished and folder.exists())):
            return
        weights = self.learner.weights()

        def write() -> None:
            check_finite(weights, folder)
            with replaced_folder(folder, own=_WEIGHTS) as partial_folder:
                policy.save(partial_folder, weights)

        self.ranks.on_main(write)

    def finish(self, metrics: dict[str, float]) -> None:
        """Write the metrics of the final probe. Their line in the log marks the run as finished.

        Metrics of a run that was finished already are added to that line.
        """
        self.flush()  # first: a finished run does not probe again
        self.log.write({"step": self.config.steps, "rollouts": self.num_rollouts} | metrics)
        self.finished = True

    def _check_that_no_step_is_lost(self) -> None:
        """Refuse to start from step 0 if the folder holds metrics, unless the run died before its first checkpoint."""
        records, every = read_metrics(self._run_dir / METRICS), self.config.checkpoint_every
        if records and (not every or len(records) > every or is_end(records[-1])):
            kind = "of a finished run" if is_end(records[-1]) else "of a run to resume"
            cure = "give another folder, or delete this one"
            raise ValueError(f"{self._run_dir} holds the metrics {kind}, but has no checkpoint; {cure}")
