"""Rollouts with the policy's own Transformers model; the cache is filled once a prompt, for its whole group."""

from collections.abc import Sequence

import torch

from rl.policy import Policy
from rl.rollout import Completions


class HFEngine:
    """A `RolloutEngine` that samples from `policy.model` itself, so a weight update needs no hand-over.

    Args:
        policy: the policy; read, never changed.
        max_prompts: prompts completed at once; more are done in chunks, with the same result per prompt only if the
            chunks are the same.
    """

    def __init__(self, policy: Policy, *, max_prompts: int = 256):
        if max_prompts < 1:
            raise ValueError(f"max_prompts is {max_prompts}; give at least 1")
        self._policy = policy
        self._max_prompts = max_prompts

    def generate(
        self, prompts: Sequence[str], group_size: int, *, max_new_tokens: int, temperature: float, seed: int
    ) -> Completions:
        """See `RolloutEngine.generate`.

        Raises:
            ValueError: no prompts, a group size or length below 1, or a negative temperature.
        """
        if not prompts:
            raise ValueError("prompts is empty; give at least one")
        if group_size < 1 or max_new_tokens < 1 or temperature < 0:
            raise ValueError(
                f"group_size {group_size} and max_new_tokens {max_new_tokens} must be at least 1, "
                f"temperature {temperature} at least 0"
            )
        generator = torch.Generator(self._policy.device).manual_seed(seed)
        prompt_tokens, prompt_mask = self._policy.encode(list(prompts))
        chunks = [
            _sample(self._policy, tokens, mask, group_size, max_new_tokens, temperature, generator)
            for tokens, mask in zip(
                prompt_tokens.split(self._max_prompts), prompt_mask.split(self._max_prompts), strict=True
            )
        ]
        tokens, mask, log_probs = (torch.cat(columns) for columns in zip(*chunks, strict=True))
        width = int(mask.sum(1).max())
        tokens, mask, log_probs = tokens[:, :width], mask[:, :width], log_probs[:, :width]
        return Completions(prompt_tokens, prompt_mask, tokens, mask, log_probs, list(self._policy.decode(tokens)))


@torch.inference_mode()
def _sample(
    policy: Policy,
    prompt_tokens: torch.Tensor,
    prompt_mask: torch.Tensor,
    group_size: int,
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, mask and log-probabilities `[b * n, max_new_tokens]` of one chunk of prompts."""
    positions = (prompt_mask.cumsum(1) - 1).clamp_min(0)
    output = policy.forward(
        prompt_tokens, attention_mask=prompt_mask, position_ids=positions, use_cache=True, logits_to_keep=1
    )
    cache = output.past_key_values
    cache.batch_repeat_interleave(group_size)
    logits = output.logits[:, -1].repeat_interleave(group_size, 0)
    attention = prompt_mask.repeat_interleave(group_size, 0)
    position = prompt_mask.sum(1).repeat_interleave(group_size)[:, None]

    rows = len(logits)
    tokens = torch.full((rows, max_new_tokens), policy.pad_token_id, device=logits.device)
    mask = torch.zeros((rows, max_new_tokens), dtype=torch.bool, device=logits.device)
    log_probs = torch.zeros((rows, max_new_tokens), device=logits.device)
    alive = torch.ones(rows, dtype=torch.bool, device=logits.device)
    for t in range(max_new_tokens):
        token, log_prob = _draw(logits.float(), temperature, generator)
        tokens[:, t] = torch.where(alive, token, policy.pad_token_id)
        log_probs[:, t] = torch.where(alive, log_prob, 0.0)
        mask[:, t] = alive
        alive = alive & (token != policy.eos_token_id)
        if t + 1 == max_new_tokens or not alive.any():
            break
        attention = torch.cat([attention, attention.new_ones(rows, 1)], 1)
        output = policy.forward(
            tokens[:, t : t + 1],
            attention_mask=attention,
            position_ids=position + t,
            past_key_values=cache,
            use_cache=True,
        )
        logits = output.logits[:, -1]
    return tokens, mask, log_probs


def _draw(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """One token of each row of logits `[r, v]`, and its log-probability under the distribution it was drawn from."""
    if temperature == 0:
        return logits.argmax(-1), logits.new_zeros(len(logits))
    log_probs = torch.log_softmax(logits / temperature, -1)
    token = torch.multinomial(log_probs.exp(), 1, generator=generator)
    return token[:, 0], log_probs.gather(1, token)[:, 0]
