"""The completions of a batch that the policy is trained on, as rows of tensors."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from rl import finish
from rl import media as images
from rl.groups import Groups, advantages_of
from rl.ranks import Ranks
from rl.train_config import PER_TOKEN, TrainConfig


class Rows(NamedTuple):
    """Completions to train on, one per row.

    `mask` marks the tokens that the model reads, and `counts` marks the tokens among them that the losses include.
    Advantages are one per completion or one per token. If the old log-probabilities are None, the first pass uses the
    current log-probabilities as the old ones. `media` holds the images of each row's prompt; None: there are none.
    """

    prompt_tokens: torch.Tensor
    prompt_mask: torch.Tensor
    tokens: torch.Tensor
    mask: torch.Tensor
    counts: torch.Tensor
    rewards: torch.Tensor
    advantages: torch.Tensor
    engine_log_probs: torch.Tensor
    old_log_probs: torch.Tensor | None
    reference_log_probs: torch.Tensor | None = None
    old_values: torch.Tensor | None = None
    returns: torch.Tensor | None = None
    media: images.Media | None = None

    @property
    def tokens_and_masks(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The arguments of `Policy.score`."""
        return self.prompt_tokens, self.prompt_mask, self.tokens, self.mask

    def parts(self, size: int) -> Iterator["Rows"]:
        """Yield the rows in order, at most `size` at a time."""
        for start in range(0, len(self.tokens), size):
            yield self.at(slice(start, start + size))

    def split(self, sizes: Sequence[int]) -> list["Rows"]:
        """Return the rows in order, in parts of these sizes."""
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        return [self.at(slice(start, start + size)) for start, size in zip(starts, sizes, strict=True)]

    def share(self, ranks: Ranks) -> "Rows":
        """Return the share of this process (rank). Rows whose tokens are all masked make all shares the same size."""
        total = len(self.tokens)
        index = torch.arange(ranks.rank, -(-total // ranks.count) * ranks.count, ranks.count, device=self.tokens.device)
        rows = self.at(index % total)
        own = (index < total)[:, None]
        return rows._replace(mask=rows.mask & own, counts=rows.counts & own)

    def at(self, index: slice | torch.Tensor) -> "Rows":
        """Return the rows at these positions."""
        columns: list[Any] = [None if column is None else column[index] for column in self[:-1]]
        return Rows(*columns)._replace(media=images.take(self.media, index))


def join(parts: Sequence[Rows]) -> Rows:
    """Return the rows of all parts, in order; a column that one part lacks is None."""
    if len(parts) == 1:
        return parts[0]
    columns: list[Any] = [
        None if any(column is None for column in columns) else torch.cat(columns)
        for columns in zip(*(part[:-1] for part in parts), strict=True)
    ]
    media = images.join([part.media for part in parts], [len(part.tokens) for part in parts])
    return Rows(*columns)._replace(media=media)


class MiniBatch(NamedTuple):
    """The rows of one optimiser step, and the divisors of its means.

    Attributes:
        rows: The rows that the processes of the run train on together.
        totals: num_tokens and num_completions: the tokens and the completions that the means run over. They include
            completions whose advantage is 0, which are not among the rows.
    """

    rows: Rows
    totals: dict[str, int]


def mini_batches(groups: Groups, config: TrainConfig) -> tuple[list[MiniBatch], int]:
    """Return the mini-batches that have a row to train on, and the number of masked tokens in judged completions.

    A judged completion is trained on if its advantage is not 0. With advantages per token or a KL term in the loss, all
    judged completions are. `config.mask_truncated` leaves out truncated completions, which still count in the baseline
    of their group. Tokens are masked if the engine gave them no finite log-probability.

    Raises:
        ValueError: `config.mask_truncated` is true, and the groups hold no finish reasons.
    """
    completions = groups.completions
    device = completions.tokens.device
    judged = groups.rewards.isfinite().flatten().to(device)
    if config.mask_truncated:
        judged = judged & ~_truncated(groups).to(device)
    counts = completions.mask & completions.log_probs.isfinite()
    per_token = config.advantage in PER_TOKEN  # the learner computes these advantages later
    advantage = torch.zeros_like(groups.rewards) if per_token else advantages_of(groups, config.advantage)
    advantage = advantage.flatten().to(device)
    every = per_token or config.kl_weight > 0
    learns = (judged if every else advantage != 0) & judged & counts.any(1)
    own_old = config.importance_cap or config.top_p < 1 or config.reward_kl_weight
    found = []
    size = config.mini_batch_size or len(judged)
    for start in range(0, len(judged), size):
        inside = slice(start, start + size)
        chosen = start + learns[inside].nonzero()[:, 0]  # all other completions add nothing to the loss
        if not len(chosen):
            continue
        prompt = chosen // completions.group_size
        rows = Rows(
            completions.prompt_tokens[prompt],
            completions.prompt_mask[prompt],
            completions.tokens[chosen],
            completions.mask[chosen],
            counts[chosen],
            groups.rewards.flatten().to(device)[chosen],
            advantage[chosen],
            engine_log_probs=completions.log_probs[chosen],
            old_log_probs=None if own_old else completions.log_probs[chosen],
            media=images.take(completions.media, prompt),
        )
        counted = counts[inside][judged[inside]]
        found.append(MiniBatch(rows, {"num_tokens": int(counted.sum()), "num_completions": int(counted.any(1).sum())}))
    return found, int(completions.mask[judged].sum()) - int(counts[judged].sum())


def _truncated(groups: Groups) -> torch.Tensor:
    if groups.finish is None:
        raise ValueError("groups.finish is None with mask_truncated; give it, or set mask_truncated to False")
    return torch.as_tensor(groups.finish == finish.LENGTH).flatten()
