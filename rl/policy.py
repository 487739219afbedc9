"""The policy: a causal language model and its tokenizer, built small or loaded by path."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from rl._model_calls import (
    accepted,
    checkpointed,
    configured_ends,
    longest_sequence,
    masks_padding,
    only_attention,
    same_length,
    without_padding,
)
from rl._prompt_checks import check_text, check_tokens
from rl._tokenizers import character_tokenizer, load_tokenizer

PRECISIONS = ("float32", "bfloat16")


class Scores(NamedTuple):
    """Completions under the current weights; what stands where their mask is false means nothing.

    Attributes:
        log_probs: float32 `[r, t]`, of the tokens.
        hidden: `[r, t, h]`, the decoder's last hidden state before each token, which the output layer reads.
    """

    log_probs: torch.Tensor
    hidden: torch.Tensor


@dataclass(frozen=True)
class Policy:
    """A causal language model with its tokenizer; the model is trained in place.

    Attributes:
        model: the model; its weights are best float32, whatever the precision.
        tokenizer: its tokenizer.
        precision: float32: the model computes in the type of its weights; bfloat16: matrix products are in bfloat16
            (torch.autocast), the weights stay as they are. It holds for updates and for the rollouts of `HFEngine`.

    Raises:
        ValueError: an unknown precision.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    precision: str = "float32"

    def __post_init__(self):
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}; give one of {', '.join(PRECISIONS)}")

    @property
    def eos_token_id(self) -> int:
        """The tokenizer's end of sequence, which ends a demonstration."""
        return _single(self.tokenizer.eos_token_id)

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Every token that ends a completion: of the tokenizer and of the model's generation configuration, sorted."""
        return tuple(sorted({*configured_ends(self.model), self.eos_token_id}))

    @property
    def max_length(self) -> int | None:
        """Longest prompt and completion together, in tokens; None where the model's configuration has no limit."""
        return longest_sequence(self.model)

    @cached_property
    def masks_padding(self) -> bool:
        """Whether prompts of different lengths can share a forward pass: a recurrent model is tried once."""
        if only_attention(self.model):
            return True
        embeddings: Any = self.model.get_input_embeddings()
        with torch.autocast(self.device.type, enabled=False):
            return masks_padding(self._call, embeddings.weight.shape[0], self.device)

    @property
    def pad_token_id(self) -> int:
        """The token that fills up rows; the end of sequence where the tokenizer has none."""
        pad = self.tokenizer.pad_token_id
        return self.eos_token_id if pad is None else _single(pad)

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.model.device

    @property
    def hidden_size(self) -> int:
        """Width of the decoder's last hidden states."""
        return self._output_layer.weight.shape[1]

    @property
    def _output_layer(self) -> torch.nn.Linear:
        return self.model.get_output_embeddings()  # type: ignore[return-value]

    def encode(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Left-padded tokens and their attention mask, both int64 `[len(texts), longest]`.

        A tokenizer with a chat template sees every text as one user message.

        Raises:
            ValueError: a text that is empty, has no tokens, or holds a lone surrogate.
        """
        check_text(texts, "prompts")
        if self.tokenizer.chat_template:
            texts = [self._chat(text) for text in texts]
        rows = self.tokenizer(texts, add_special_tokens=not self.tokenizer.chat_template)["input_ids"]
        check_tokens(rows)
        width = max(len(row) for row in rows)
        tokens = torch.full((len(rows), width), self.pad_token_id)
        mask = torch.zeros_like(tokens)
        for i, row in enumerate(rows):
            tokens[i, width - len(row) :] = torch.tensor(row)
            mask[i, width - len(row) :] = 1
        return tokens.to(self.device), mask.to(self.device)

    def decode(self, completions: torch.Tensor) -> list[str]:
        """The text of each row of tokens, without special tokens."""
        return list(self.tokenizer.batch_decode(completions, skip_special_tokens=True))

    def score(
        self,
        prompt_tokens: torch.Tensor,
        prompt_mask: torch.Tensor,
        tokens: torch.Tensor,
        mask: torch.Tensor,
        *,
        temperature: float = 1.0,
    ) -> Scores:
        """Log-probabilities and hidden states, with gradient, of completions under the current weights.

        Args:
            prompt_tokens: int64 `[r, p]`, left-padded, one row a completion.
            prompt_mask: int64 `[r, p]`.
            tokens: int64 `[r, t]`, right-padded completions.
            mask: bool `[r, t]`.
            temperature: of the sampling distribution.
        """
        if prompt_mask.all() or self.masks_padding:
            return self._score(prompt_tokens, prompt_mask, tokens, mask, temperature)
        groups = same_length(prompt_mask)
        parts = [
            self._score(prompt_tokens[group], prompt_mask[group], tokens[group], mask[group], temperature)
            for group in groups
        ]
        order = torch.cat(groups).argsort()
        return Scores(*(torch.cat(column)[order] for column in zip(*parts, strict=True)))

    def _score(
        self,
        prompt_tokens: torch.Tensor,
        prompt_mask: torch.Tensor,
        tokens: torch.Tensor,
        mask: torch.Tensor,
        temperature: float,
    ) -> Scores:
        prompt_tokens, prompt_mask = without_padding(prompt_tokens, prompt_mask)
        attention = torch.cat([prompt_mask, mask.to(prompt_mask.dtype)], 1)
        positions = (attention.cumsum(1) - 1).clamp_min(0)
        read: list[torch.Tensor] = []
        # `output_hidden_states` would keep those of every layer.
        hook = self._output_layer.register_forward_pre_hook(lambda _, arguments: read.append(arguments[0]))
        try:
            output = self.forward(
                torch.cat([prompt_tokens, tokens], 1),
                attention_mask=attention,
                position_ids=positions,
                use_cache=False,
                logits_to_keep=tokens.shape[1] + 1,
            )
        finally:
            hook.remove()
        scored = slice(-tokens.shape[1] - 1, -1)  # a model that knows no logits_to_keep returns all of them
        log_probs = torch.log_softmax(output.logits[:, scored].float() / temperature, -1)
        return Scores(log_probs.gather(2, tokens[:, :, None])[:, :, 0], read[0][:, scored])

    def forward(self, tokens: torch.Tensor, **options: Any) -> Any:
        """One pass of the model in the policy's precision; the options are the model's own."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            return self._call(tokens, **options)

    def _call(self, tokens: torch.Tensor, **options: Any) -> Any:
        return self.model(tokens, **accepted(self.model, options))

    @contextmanager
    def gradient_checkpointing(self) -> Iterator[None]:
        """Within it a layer's activations are computed again in the backward pass, not kept: less memory, more time.

        Transformers' own switch acts on layers in training mode alone, which is that of dropout too.

        Raises:
            ValueError: the model has no layers to do that with.
        """
        with checkpointed(self.model):
            yield

    def frozen_copy(self) -> "Policy":
        """With weights of its own, which no gradient changes."""
        return replace(self, model=copy.deepcopy(self.model).requires_grad_(False))

    def save(self, path: str | Path, weights: dict[str, torch.Tensor] | None = None) -> None:
        """Writes a folder that `load_policy` and Transformers' Auto classes read.

        Args:
            path: the folder.
            weights: of the model, whole, where it is sharded; None: its own.
        """
        self.model.save_pretrained(path, state_dict=weights)
        self.tokenizer.save_pretrained(path)

    def _chat(self, text: str) -> str:
        message = [{"role": "user", "content": text}]
        return str(self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))


def _single(token_id: Any) -> int:
    """Transformers declares the special tokens as numbers, lists or text; here they are one number."""
    return int(token_id)


def build_policy(
    alphabet: str, *, hidden_size: int = 96, num_layers: int = 3, feed_forward_size: int = 256, seed: int = 0
) -> Policy:
    """A small decoder (Qwen2 architecture) over single characters, with random weights drawn from `seed`.

    The defaults have about 0.3 million parameters. Heads are 32 wide.

    Raises:
        ValueError: `hidden_size` is not a positive multiple of 32.
    """
    if hidden_size < 32 or hidden_size % 32:
        raise ValueError(f"hidden_size is {hidden_size}; give a positive multiple of 32, the width of a head")
    tokenizer = character_tokenizer(alphabet)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=feed_forward_size,
        num_hidden_layers=num_layers,
        num_attention_heads=hidden_size // 32,
        num_key_value_heads=hidden_size // 32,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        use_cache=True,
        bos_token_id=None,
        eos_token_id=_single(tokenizer.eos_token_id),
        pad_token_id=_single(tokenizer.pad_token_id),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Policy(Qwen2ForCausalLM(config).eval(), tokenizer)


def load_policy(path: str | Path, **model_options: Any) -> Policy:
    """Any Hugging Face causal language model with its tokenizer, from a folder or a hub name.

    Its weights are float32 whatever type they are stored in: small updates would be lost in bfloat16 ones.

    Args:
        path: a folder written by `save_pretrained`, or the name of a model on the hub.
        **model_options: passed on to `AutoModelForCausalLM.from_pretrained`, for example `attn_implementation="eager"`.

    Raises:
        ValueError: the tokenizer has no end of sequence, so that completions could not end.
    """
    tokenizer = load_tokenizer(path)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer of {path} has no eos_token; set one and save it again")
    options = {"dtype": torch.float32} | model_options
    return Policy(AutoModelForCausalLM.from_pretrained(path, **options).eval(), tokenizer)
