"""Prompt selection in TRL: `SelectsPrompts` goes in front of GRPOTrainer or RLOOTrainer.

This module needs `pip install "jaxsel[trl]"`. It does not import TRL before a trainer is made. Importing it makes JAX
allocate GPU memory on demand, unless the environment says otherwise: by default JAX would take most of the GPU from the
policy.

    class Trainer(SelectsPrompts, GRPOTrainer):
        pass

    trainer = Trainer(..., selector=jaxsel.adaptive())

TRL has no public place for a selector. This module overrides two private methods of TRL's trainers, whose names and
parameters are the same from TRL 1.3 to 1.16. A trainer whose methods differ is refused when it is made.
"""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxsel.base import Selector
from jaxsel.integrations._rewards import checked_threshold, one_reward
from jaxsel.integrations._trl_checks import (
    check_hooks,
    check_rows,
    checked_keys,
    newest_complete,
    prompt_selector,
    rows,
    steps,
    text,
    versions,
)
from jaxsel.integrations.edge import TrainerEdge
from jaxsel.runtime.prompt_selector import PromptSelector

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX reads it when it first looks at its devices

STATE_FILE = "selector.npz"
"""Name of the file with the selector's state in each folder `checkpoint-N`."""
_Trainer: Any = object  # stands for GRPOTrainer or RLOOTrainer, the next base class


class SelectsPrompts(_Trainer):
    """Trains on freshly selected prompts, and lets the selector observe their rewards.

    Put this class in front of TRL's: `class Trainer(SelectsPrompts, GRPOTrainer): pass`. It takes the arguments of
    TRL's trainer and those below.

    Prompts are selected whenever TRL generates, after the rewards of the previous generation were observed. Evaluation
    neither selects nor observes. Each folder `checkpoint-N` gets a file `selector.npz`. A resumed run makes the same
    choices as the uninterrupted run if TRL generates new completions right after the checkpoint. TRL's logs get the
    metrics "selector/...". With several processes, the first one holds the selector, and all get its choice.

    Args:
        *args: Arguments of TRL's trainer.
        selector: Method, for example `jaxsel.adaptive()`; the seed is `args.seed`. Or a `PromptSelector` with one
            prompt per row of the training data and `track_in_flight=True`.
        success: Name of the reward function that tells whether a completion is correct, as TRL logs it. None: there is
            only one.
        threshold: The largest reward that is not a success. A completion with the reward None was not judged, and never
            counts as a failure.
        key_column: Column of the training data with a unique name for each prompt. Resuming then fails on data with
            other prompts or another order. None: resuming checks only the number of rows.
        history: Folder in which to record what was observed, for `jaxsel.integrations.history.read_history`.
        **kwargs: Arguments of TRL's trainer.

    Attributes:
        edge: The `TrainerEdge` with the selector; None in processes other than the first.

    Raises:
        ValueError: The training data is a stream, smaller than a batch or of another size than the selector; the key
            column is missing or repeats a key; or `success` names no reward function.
        RuntimeError: This version of TRL has other methods than the tested versions.
        ImportError: TRL is not installed.
    """

    def __init__(
        self,
        *args: Any,
        selector: Selector | PromptSelector | None,
        success: str | None = None,
        threshold: float = 0.5,
        key_column: str | None = None,
        history: str | Path | None = None,
        **kwargs: Any,
    ):
        check_hooks(type(self))
        check_rows(kwargs["train_dataset"] if "train_dataset" in kwargs else [*args, *[None] * 4][3])
        super().__init__(*args, **kwargs)
        dataset, num_prompts = self.train_dataset, self.args.generation_batch_size // self.num_generations
        keys = checked_keys(dataset, key_column, num_prompts)
        self._judge = list(self.reward_func_names).index(one_reward(self.reward_func_names, success))
        threshold = checked_threshold(threshold)
        self._chosen: Int[np.ndarray, " b"] | None = None
        self.edge: TrainerEdge | None = None

        def make_edge() -> None:
            own = prompt_selector(selector, dataset, keys, self.args.seed)
            texts = None if history is None else [text(dataset[row]["prompt"]) for row in range(len(dataset))]
            self.edge = TrainerEdge(own, threshold=threshold, history=history, texts=texts)

        self._on_main(make_edge)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train as TRL does. With `True`, resume from the newest checkpoint that is complete.

        Raises:
            ValueError: The checkpoint has no state of a selector, or it is of another method or another pool. Or: the
                history is of another run.
        """
        self._warn_about_resuming()
        start = self._on_main(lambda: self._load_selector(resume_from_checkpoint))
        try:
            return super().train(start, *args, **kwargs)
        finally:
            if self.edge is not None:
                self.edge.flush()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model as TRL does, and the selector's state with each checkpoint.

        TRL saves its own state after the model, so the selector's state is there whenever a checkpoint is complete.
        """
        super().save_model(output_dir, _internal_call)
        if self.edge is not None and output_dir is not None and _internal_call:
            self.edge.save(Path(output_dir) / STATE_FILE)

    def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """Log as TRL does; the logs of training have the selector's metrics too."""
        if self.edge is not None and self._chosen is not None and self.model.training:
            logs.update(self.edge.metrics())
        super().log(logs, *args, **kwargs)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        if self.model.training:
            inputs = self._selected(len(inputs))
        return super()._generate_and_score_completions(inputs)

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        rewards = super()._calculate_rewards(*args, **kwargs)  # those of all processes
        if self.model.training and self.edge is not None:
            self._observe(rewards)
        return rewards

    def _selected(self, count: int) -> list[dict[str, Any]]:
        """Return this process's rows of the training data, each prompt once per completion."""
        rank, group = self.accelerator.process_index, self.num_generations
        total = count * self.accelerator.num_processes
        chosen = self._on_main(lambda: self.edge and self.edge.next_batch(total // group))
        self._chosen = chosen
        return rows(self.train_dataset, np.repeat(chosen, group)[rank * count : (rank + 1) * count])

    def _observe(self, rewards: Any) -> None:
        chosen, edge = self._chosen, self.edge
        expected = (0 if chosen is None else len(chosen) * self.num_generations, len(self.reward_func_names))
        if chosen is None or edge is None or tuple(rewards.shape) != expected:
            raise RuntimeError(
                f"TRL returned rewards of shape {tuple(rewards.shape)}, but {expected} was expected; {versions()}"
            )
        groups = rewards[:, self._judge].float().cpu().numpy().reshape(len(chosen), -1)
        edge.observe(chosen, groups, step=int(self.state.global_step))
        edge.end_step()

    def _load_selector(self, resume: str | bool | None) -> str | bool | None:
        """Load the selector's state, and return the checkpoint that TRL has to resume from."""
        folder = newest_complete(Path(self.args.output_dir)) if resume is True else resume or None
        if self.edge is not None:
            if folder is not None:
                self.edge.load(Path(str(folder)) / STATE_FILE)
            self.edge.open_history()  # a folder of another run is refused before training
            self.edge.release()  # an interrupted call of `train` may have left prompts without rewards
        return resume if folder is None else str(folder)

    def _warn_about_resuming(self) -> None:
        args = self.args
        batches = args.steps_per_generation * self.num_iterations
        saves = args.save_steps * args.gradient_accumulation_steps
        if args.save_strategy == "steps" and args.save_steps >= 1 and saves % batches:
            warnings.warn(
                f"save_steps is {args.save_steps}, so TRL saves while it still uses a generation: a resumed run "
                "generates again and chooses other prompts; give a multiple of "
                f"{steps(batches, args.gradient_accumulation_steps)}",
                stacklevel=3,
            )
        if args.ignore_data_skip:
            warnings.warn(
                "ignore_data_skip is True: a resumed run then continues from another random state, and generates other "
                "completions; leave it False",
                stacklevel=3,
            )

    def _on_main(self, ask: Callable[[], Any]) -> Any:
        """Call `ask` in the first process, and return its answer in all processes. Its error ends all of them."""
        from accelerate.utils import broadcast_object_list

        answer, failure = [None, None], None
        if self.accelerator.is_main_process:
            try:
                answer = [ask(), None]
            except Exception as error:
                answer, failure = [None, f"{type(error).__name__}: {error}"], error
        broadcast_object_list(answer)
        if failure is not None:
            raise failure
        if answer[1] is not None:
            raise RuntimeError(f"the first process failed: {answer[1]}")
        return answer[0]
