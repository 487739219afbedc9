"""Rollouts with the policy's own Transformers model; each prompt is read once for its whole group."""

from collections.abc import Mapping, Sequence

import torch

from rl.engines._continuation import Continuation
from rl.policy import Policy
from rl.rollout import Completions, Sampling, check_lengths, check_request


class HFEngine:
    """A `RolloutEngine` that samples from `policy.model` itself, so a weight update needs no hand-over.

    It works with every cache class of Transformers. A model that reads no attention mask (RWKV) needs prompts of one
    length, for the others are padded.

    Args:
        policy: the policy; only `update_weights` changes it, where it is a copy of the trained one.
        max_prompts: prompts completed at once; more are done in chunks, with the same result per prompt only if the
            chunks are the same.
    """

    def __init__(self, policy: Policy, *, max_prompts: int = 256):
        if max_prompts < 1:
            raise ValueError(f"max_prompts is {max_prompts}; give at least 1")
        self._policy = policy
        self._max_prompts = max_prompts

    def generate(self, prompts: Sequence[str], group_size: int, sampling: Sampling, *, seed: int) -> Completions:
        """See `RolloutEngine.generate`."""
        check_request(prompts, group_size)
        generator = torch.Generator(self._policy.device).manual_seed(seed)
        prompt_tokens, prompt_mask = self._policy.encode(list(prompts))
        check_lengths(prompt_mask, sampling.max_new_tokens, self._policy.max_length)
        chunks = [
            _sample(self._policy, tokens, mask, group_size, sampling, generator)
            for tokens, mask in zip(
                prompt_tokens.split(self._max_prompts), prompt_mask.split(self._max_prompts), strict=True
            )
        ]
        tokens, mask, log_probs = (torch.cat(columns) for columns in zip(*chunks, strict=True))
        width = int(mask.sum(1).max())
        tokens, mask, log_probs = tokens[:, :width], mask[:, :width], log_probs[:, :width]
        return Completions(prompt_tokens, prompt_mask, tokens, mask, log_probs, list(self._policy.decode(tokens)))

    @torch.no_grad()
    def update_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """See `RolloutEngine.update_weights`; costs nothing where the weights are the policy's own."""
        for name, own in self._policy.model.state_dict().items():
            if weights[name].data_ptr() != own.data_ptr():
                own.copy_(weights[name])


@torch.inference_mode()
def _sample(
    policy: Policy,
    prompt_tokens: torch.Tensor,
    prompt_mask: torch.Tensor,
    group_size: int,
    sampling: Sampling,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, mask and log-probabilities `[b * n, max_new_tokens]` of one chunk of prompts."""
    continuation = Continuation(policy, prompt_tokens, prompt_mask, group_size)
    logits = continuation.logits
    ends = torch.tensor(policy.eos_token_ids, device=logits.device)
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
        logits = continuation.extend(tokens[:, t])
    return tokens, mask, log_probs


def _draw(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """One token of each row of logits `[r, v]`, and its log-probability under the distribution it was drawn from."""
    if sampling.temperature == 0:
        return logits.argmax(-1), logits.new_zeros(len(logits))
    logits = logits / sampling.temperature
    if sampling.top_p < 1:
        logits = _truncated(logits, sampling.top_p)
    log_probs = torch.log_softmax(logits, -1)
    token = torch.multinomial(log_probs.exp(), 1, generator=generator)
    return token[:, 0], log_probs.gather(1, token)[:, 0]


def _truncated(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """Logits of the likeliest tokens that reach the probability `top_p` together, the last one included."""
    ordered, order = logits.sort(-1, descending=True)
    probs = ordered.softmax(-1)
    before = probs.cumsum(-1) - probs
    return logits.masked_fill((before >= top_p).gather(-1, order.argsort(-1)), -torch.inf)


def _stopped(texts: Sequence[str], stop: Sequence[str]) -> torch.Tensor:
    """Which texts hold a stop string, bool `[r]`."""
    return torch.tensor([any(end in text for end in stop) for text in texts])
