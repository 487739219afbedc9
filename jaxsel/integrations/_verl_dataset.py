"""verl's data set of prompts, with the rows in the order in which a selector wants them. Imports verl."""

import weakref
from typing import Any

from omegaconf import OmegaConf
from verl.utils.dataset.rl_dataset import RLHFDataset  # pyright: ignore[reportMissingImports]

from jaxsel.integrations._verl_options import pool_keys, prompt_selector, prompt_texts, read_options
from jaxsel.integrations._verl_outcomes import ROW, Outcomes
from jaxsel.integrations.edge import TrainerEdge

buffers: weakref.WeakSet[Any] = weakref.WeakSet()
"""The replay buffers of this process that observe. verl makes the buffer before the data set."""


class SelectedPrompts(RLHFDataset):
    """verl's training data, which answers each index with the prompt that the selector chooses next.

    verl gives its validation set the same class. The validation set answers as verl's own class does.

    Attributes:
        outcomes: The `TrainerEdge` that hands out the prompts, and the rewards that it has not observed yet; None for
            the validation set.

    Raises:
        ValueError: The data loader has workers, training and validation have the same files, or the replay buffer does
            not observe. Or: there are fewer rows than a batch takes, or an option or a key is wrong.
    """

    def __init__(self, data_files: Any, tokenizer: Any, config: Any, *args: Any, **kwargs: Any):
        super().__init__(data_files, tokenizer, config, *args, **kwargs)
        self.outcomes: Outcomes | None = None
        train = _listed(config.train_files)
        if train == _listed(config.val_files):
            raise ValueError(
                f"data.train_files and data.val_files are both {train}: verl does not tell its data set which one it "
                "is; give the validation file another path, for example a copy"
            )
        if _listed(self.original_data_files) == train:
            self._check(config)
            self.outcomes = Outcomes(self._edge(config))

    def __getitem__(self, item: int) -> dict[str, Any]:
        """Return the prompt that the selector wants next, or the row `item` of the validation set."""
        if self.outcomes is None:
            return super().__getitem__(item)
        row = self.outcomes.edge.next_prompt()
        return super().__getitem__(row) | {ROW: row}

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the selection. verl's data loader keeps it in the file `data.pt` of each checkpoint."""
        return {} if self.outcomes is None else self.outcomes.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint.

        Raises:
            ValueError: The checkpoint is of another method, other hyperparameters or another pool.
        """
        if self.outcomes is not None:
            self.outcomes.load_state_dict(state_dict)

    def _check(self, config: Any) -> None:
        if config.dataloader_num_workers:
            raise ValueError(
                f"data.dataloader_num_workers is {config.dataloader_num_workers}; set it to 0, because workers would "
                "choose prompts before the rewards are known"
            )
        if not len(buffers):
            raise ValueError(
                "the selector would observe nothing; set trainer.use_v1=true, "
                "trainer.v1.sampler.custom_sampler.path=pkg://jaxsel.integrations.verl and "
                "trainer.v1.sampler.custom_sampler.name=replay_buffer"
            )
        warmup = max((buffer.warmup for buffer in buffers if buffer.data_config is config), default=0)
        if len(self) < config.train_batch_size + warmup:
            also = f", and {warmup} more are generated at the same time (num_warmup_batches)" if warmup else ""
            raise ValueError(
                f"data.train_files has {len(self)} prompts after verl's filters, and each step takes "
                f"{config.train_batch_size} different ones{also}; give more prompts or a smaller data.train_batch_size"
            )

    def _edge(self, config: Any) -> TrainerEdge:
        given = config.get("jaxsel")
        options = read_options(OmegaConf.to_container(given, resolve=True) if OmegaConf.is_config(given) else given)
        self.success = options.success
        return TrainerEdge(
            prompt_selector(options, len(self), pool_keys(self.dataframe, options.key)),
            threshold=options.threshold,
            draw_size=config.train_batch_size,
            history=options.history,
            texts=None if options.history is None else prompt_texts(self.dataframe, self.prompt_key),
        )


def _listed(files: Any) -> list[str]:
    return [files] if isinstance(files, str) else [str(file) for file in files]
