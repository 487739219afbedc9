"""Rollouts with the policy's own Transformers model, which reads each prompt once for all of its completions."""

import logging
from collections.abc import Mapping, Sequence
from functools import cache

import torch

from rl import _checks
from rl._model_calls import reads_mask, repeat_cache, same_length, take_cache, without_padding
from rl._prompt_checks import check_lengths
from rl.engines._weights import check_fit
from rl.lora import is_adapted
from rl.media import ReadPrompts, position_shift, take
from rl.policy import Policy
from rl.prompts.messages import Prompt
from rl.rollout import Completions, Sampling, check_request

_log = logging.getLogger(__name__)


class HFEngine:
    """A `RolloutEngine` that samples from `policy.model` itself.

    Args:
        policy: The policy that is being trained, for which `update_weights` copies nothing; or a copy of it, whose
            weights `update_weights` overwrites.
        max_prompts: Number of prompts completed at once. A larger batch is split into chunks; a prompt gets the same
            completions only if the chunks are the same.

    Raises:
        ValueError: `max_prompts` is less than 1.
    """

    def __init__(self, policy: Policy, *, max_prompts: int = 256):
        _checks.integers(1, max_prompts=max_prompts)
        self._policy = policy
        self._max_prompts = int(max_prompts)

    def generate(self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling, *, seed: int) -> Completions:
        """Complete the prompts; see `RolloutEngine.generate`."""
        check_request(prompts, group_size)
        generator = torch.Generator(self._policy.device).manual_seed(int(seed))
        read = self._policy.read(list(prompts))
        prompt_tokens, prompt_mask, media = read
        limit, cure = self._policy.max_length, "a smaller max_new_tokens or a model with more positions"
        check_lengths(prompt_mask.sum(1).tolist(), sampling.max_new_tokens, limit, cure)
        chunks = self._chunks(prompt_mask)
        with self._policy.autocast():
            parts = [_sample(self._policy, read.at(chunk), group_size, sampling, generator) for chunk in chunks]
        order = torch.cat(chunks).argsort()
        tokens, mask, log_probs = (
            torch.cat(columns).unflatten(0, (len(order), group_size))[order].flatten(0, 1)
            for columns in zip(*parts, strict=True)
        )
        width = int(mask.sum(1).max())
        tokens, mask, log_probs = tokens[:, :width], mask[:, :width], log_probs[:, :width]
        texts: list[str | None] = list(self._policy.decode(tokens))
        return Completions(prompt_tokens, prompt_mask, tokens, mask, log_probs, texts, media)

    def _chunks(self, prompt_mask: torch.Tensor) -> list[torch.Tensor]:
        """Return the indices of the prompts of each chunk, which have equal length if the model cannot mask padding."""
        everything = torch.arange(len(prompt_mask), device=prompt_mask.device)
        together = prompt_mask.all() or self._policy.masks_padding
        groups = [everything] if together else same_length(prompt_mask)
        return [chunk for group in groups for chunk in group.split(self._max_prompts)]

    @torch.no_grad()
    def update_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Copy the weights into the policy; weights that are the policy's own are not copied.

        A policy with adapters is the trained policy itself, whose adapters are current, and nothing is copied.

        Raises:
            ValueError: Names or shapes differ from the policy's. The policy keeps its weights.
        """
        if is_adapted(self._policy.model):
            return
        owned = self._policy.model.state_dict()
        check_fit(weights, {name: own.shape for name, own in owned.items()})
        for name, own in owned.items():
            if weights[name].data_ptr() != own.data_ptr():
                own.copy_(weights[name])


@torch.no_grad()  # autocast keeps no rounded weights in inference mode
def _sample(
    policy: Policy, prompts: ReadPrompts, group_size: int, sampling: Sampling, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return tokens, mask and log-probabilities `[b * n, max_new_tokens]` for one chunk of prompts."""
    decoding = _Decoding(policy, prompts, group_size)
    logits, ends = decoding.logits, torch.tensor(policy.eos_token_ids, device=prompts.tokens.device)
    rows, max_new_tokens = len(logits), sampling.max_new_tokens
    tokens = torch.full((rows, max_new_tokens), policy.pad_token_id, device=logits.device)
    mask = torch.zeros((rows, max_new_tokens), dtype=torch.bool, device=logits.device)
    log_probs = torch.zeros((rows, max_new_tokens), device=logits.device)
    alive = torch.ones(rows, dtype=torch.bool, device=logits.device)
    for t in range(max_new_tokens):
        token, log_prob = _draw(logits.float(), sampling, generator)
        tokens[:, t] = torch.where(alive, token, policy.pad_token_id)
        log_probs[:, t] = torch.where(alive, log_prob, 0.0)
        mask[:, t] = alive
        alive = alive & ~torch.isin(token, ends)
        if sampling.stop:
            alive = alive & ~_stopped(policy.decode(tokens[:, : t + 1]), sampling.stop).to(alive.device)
        if t + 1 == max_new_tokens or not alive.any():
            break
        logits = decoding.advance(tokens[:, t])
    return tokens, mask, log_probs


class _Decoding:
    """Completions that grow by one token at a time, with `group_size` rows per prompt.

    Each prompt is read once and its cache is repeated. A model without a cache that can be repeated safely reads every
    row again for every token, which gives the same result slowly.

    Attributes:
        logits: Logits of the next token, `[b * n, v]`.
    """

    def __init__(self, policy: Policy, prompts: ReadPrompts, group_size: int):
        self._policy, self._use_cache, self._cache = policy, True, {}
        self._media, self._shift = prompts.media, position_shift(policy.model, prompts)
        tokens, mask = without_padding(prompts.tokens, prompts.mask)
        logits = self._read(tokens, mask)
        rows = torch.arange(len(tokens), device=tokens.device).repeat_interleave(group_size)
        self.logits, self._tokens, self._mask = logits[rows], tokens[rows], mask[rows]
        self._media = take(self._media, rows)
        self._shift = None if self._shift is None else self._shift[rows]
        if not repeat_cache(self._cache, rows):
            _warn_slow(type(policy.model).__name__)
            self._use_cache, self._cache = False, {}

    def advance(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append one token per row, int64 `[b * n]`; return the logits of the next token."""
        self._tokens = torch.cat([self._tokens, tokens[:, None]], 1)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], 1)
        self.logits = self._read(self._tokens, self._mask)
        return self.logits

    def _read(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        unread = slice(-1, None) if self._cache else slice(None)
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        if self._cache and self._shift is not None:
            positions = positions + self._shift
        output = self._policy.forward(
            tokens[:, unread],
            attention_mask=mask if reads_mask(self._cache) else None,
            position_ids=positions[:, unread],
            use_cache=self._use_cache,
            logits_to_keep=1,
            media=None if self._cache else self._media,
            **self._cache,
        )
        self._cache = take_cache(output) if self._use_cache else {}
        return output.logits[:, -1]


@cache
def _warn_slow(model: str) -> None:
    """Log a warning once per class of model."""
    _log.warning("%s has no cache that can be repeated; every new token reads the whole sequence again", model)


def _draw(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one token per row of logits `[r, v]`; return tokens and their log-probabilities under that distribution."""
    if sampling.temperature == 0:
        return logits.argmax(-1), logits.new_zeros(len(logits))
    logits = logits / sampling.temperature
    if sampling.top_p < 1:
        logits = _truncated(logits, sampling.top_p)
    log_probs = torch.log_softmax(logits, -1)
    token = torch.multinomial(log_probs.exp(), 1, generator=generator)
    return token[:, 0], log_probs.gather(1, token)[:, 0]


def _truncated(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """Mask all logits except the likeliest tokens that together reach the probability `top_p`, at least one."""
    ordered, order = logits.sort(-1, descending=True)
    probs = ordered.softmax(-1)
    before = probs.cumsum(-1) - probs
    masked = (before >= top_p) & (before > 0)  # a `top_p` below 1e-45 is 0 in float32
    return logits.masked_fill(masked.gather(-1, order.argsort(-1)), -torch.inf)


def _stopped(texts: Sequence[str], stop: Sequence[str]) -> torch.Tensor:
    """Return which texts contain a stop string, bool `[r]`."""
    return torch.tensor([any(end in text for end in stop) for text in texts])
