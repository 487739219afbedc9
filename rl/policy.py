"""The policy: a language model and its tokenizer, built small with random weights, or loaded; some read images."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from jaxsel.runtime.checkpoint.disk import local_path
from rl import _checks
from rl._chat import rendered
from rl._model_calls import (
    accepted,
    checkpointed,
    configured_ends,
    longest_sequence,
    masks_padding,
    only_attention,
)
from rl._pretrained import load_parts
from rl._prompt_checks import check_tokens
from rl._scoring import Rows, Scores, score_by_length, score_groups, score_rows
from rl._tokenizers import character_tokenizer, left_padded, single, texts_of
from rl._vision import read_prompt
from rl.media import Media, ReadPrompts, model_inputs, placeholders, positions
from rl.names import PRECISIONS
from rl.prompts.messages import Prompt, check_prompts


@dataclass(frozen=True)
class Policy:
    """A language model with its tokenizer; the model is trained in place.

    Attributes:
        model: The language model. Its weights should be float32, whatever the precision.
        tokenizer: The model's tokenizer.
        precision: "float32" computes in the type of the weights. "bfloat16" computes matrix products in bfloat16
            (torch.autocast) and keeps the weights as they are. It applies to updates and to rollouts of `HFEngine`.
        processor: The processor of a vision-language model, which turns messages with images into tokens and tensors.
            None: the policy reads texts alone.

    Raises:
        ValueError: The precision is unknown.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    precision: str = "float32"
    processor: ProcessorMixin | None = None

    def __post_init__(self):
        _checks.one_of(PRECISIONS, precision=self.precision)

    @property
    def eos_token_id(self) -> int:
        """Return the tokenizer's end-of-sequence token, which also ends a demonstration."""
        return single(self.tokenizer.eos_token_id)

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Return the end-of-sequence tokens of the tokenizer and of the model's generation configuration, sorted."""
        return tuple(sorted({*configured_ends(self.model), self.eos_token_id}))

    @property
    def hidden_ids(self) -> frozenset[int]:
        """Return the tokens without text: padding, the ends of a sequence, and the token for unknown characters."""
        special = (*self.eos_token_ids, self.pad_token_id, self.tokenizer.unk_token_id)
        return frozenset(single(token) for token in special if token is not None)

    @property
    def max_length(self) -> int | None:
        """Return the limit of prompt and completion together, in tokens; None where the model has no limit."""
        return longest_sequence(self.model)

    @cached_property
    def masks_padding(self) -> bool:
        """Return whether the mask hides left padding, so that prompts of different lengths can share a forward pass.

        A model with other layers than attention is tested once.
        """
        if only_attention(self.model):
            return True
        embeddings: Any = self.model.get_input_embeddings()
        with torch.autocast(self.device.type, enabled=False):
            return masks_padding(self._call, embeddings.weight.shape[0], self.device)

    @property
    def pad_token_id(self) -> int:
        """Return the padding token, or the end-of-sequence token where the tokenizer has no padding token."""
        pad = self.tokenizer.pad_token_id
        return self.eos_token_id if pad is None else single(pad)

    @property
    def device(self) -> torch.device:
        """Return the device of the model."""
        return self.model.device

    @property
    def hidden_size(self) -> int:
        """Return the width of the decoder's last hidden states."""
        return self._output_layer.weight.shape[1]

    @property
    def _output_layer(self) -> torch.nn.Linear:
        return self.model.get_output_embeddings()  # type: ignore[return-value]

    def encode(self, prompts: Sequence[Prompt]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return left-padded tokens and their attention mask, both int64 `[len(prompts), longest]`.

        If the tokenizer has a chat template, it renders chat messages, and a text becomes one user message. `read`
        returns the images too.

        Raises:
            ValueError: `read` refuses the prompts.
        """
        return self.read(prompts)[:2]

    def read(self, prompts: Sequence[Prompt]) -> ReadPrompts:
        """Return left-padded tokens, their attention mask and the images of prompts.

        Raises:
            ValueError: A prompt is empty, has no tokens, or is not valid Unicode. Or: it holds images that the policy
                cannot read. Or: it has chat messages, and the policy has no chat template, or one that refuses them.
        """
        check_prompts(prompts, "prompts")
        media: Media = []
        if self.processor is None:
            texts = rendered(self.tokenizer, prompts)
            rows = self.tokenizer(texts, add_special_tokens=not self.tokenizer.chat_template)["input_ids"]
        else:
            found = [read_prompt(self.processor, prompt, row) for row, prompt in enumerate(prompts)]
            rows, media = [tokens for tokens, _ in found], [images for _, images in found]
        check_tokens(rows)
        tokens, mask = left_padded(rows, self.pad_token_id)
        return ReadPrompts(tokens.to(self.device), mask.to(self.device), media if any(media) else None)

    def decode(self, completions: torch.Tensor) -> list[str]:
        """Return the text of each row of tokens, without the tokens of `hidden_ids`."""
        return texts_of(self.tokenizer, completions, self.hidden_ids)

    def score(
        self,
        prompt_tokens: torch.Tensor,
        prompt_mask: torch.Tensor,
        tokens: torch.Tensor,
        mask: torch.Tensor,
        *,
        media: Media | None = None,
        temperature: float = 1.0,
        share_prompts: bool = False,
        entropy: bool = False,
    ) -> Scores:
        """Return log-probabilities and hidden states of completions under the current weights, with gradients.

        Args:
            prompt_tokens: Left-padded prompts, int64 `[r, p]`, one row per completion.
            prompt_mask: Mask of the prompts, int64 `[r, p]`.
            tokens: Right-padded completions, int64 `[r, t]`.
            mask: Mask of the completions, bool `[r, t]`.
            media: The images of the prompts, one entry per completion. None: there are none.
            temperature: Temperature of the sampling distribution.
            share_prompts: Whether rows with the same prompt read it once, if all layers are attention. This saves time
                and changes the result by rounding alone. Leave it False inside `gradient_checkpointing`, which would
                read the cache twice. Rows with images never share their prompts.
            entropy: Whether to compute the entropy too.
        """
        rows = Rows(prompt_tokens, prompt_mask, tokens, mask, media)
        if prompt_mask.all() or self.masks_padding:
            share = share_prompts and media is None and only_attention(self.model)
            shared = score_groups(self.forward, self._output_layer, rows, temperature, entropy) if share else None
            return shared or score_rows(self.forward, self._output_layer, rows, temperature, entropy)
        return score_by_length(self.forward, self._output_layer, rows, temperature, entropy)

    def forward(self, tokens: torch.Tensor, *, media: Media | None = None, **options: Any) -> Any:
        """Run one forward pass in the policy's precision, with options of the model's `forward`.

        With images, `media` holds those of every row, and the model's own rule gives the positions. The logits of the
        tokens that stand for images are -inf: the model would take such a token of a completion for a missing image.
        """
        inputs = {} if media is None else model_inputs(media, options["attention_mask"])
        if inputs:
            places = positions(self.model, tokens, options["attention_mask"], inputs)
            options |= inputs | {"position_ids": places}
        with self.autocast():
            output = self._call(tokens, **options)
        if self.placeholder_ids:
            never = torch.tensor(self.placeholder_ids, device=output.logits.device)
            output.logits = output.logits.index_fill(-1, never, -torch.inf)
        return output

    def autocast(self) -> torch.autocast:
        """Return the context of the policy's precision. Within it, several forward passes round each weight once."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    @cached_property
    def placeholder_ids(self) -> tuple[int, ...]:
        """Return the tokens that stand for images, videos and sounds in prompts, which no completion holds."""
        return () if self.processor is None else placeholders(self.model)

    def _call(self, tokens: torch.Tensor, **options: Any) -> Any:
        return self.model(tokens, **accepted(self.model, options))

    @contextmanager
    def gradient_checkpointing(self) -> Iterator[None]:
        """Recompute each layer's activations in the backward pass inside the `with` block: less memory, more time.

        Transformers' own switch needs layers in training mode, which would turn dropout on.

        Raises:
            ValueError: The model has no layers that support this.
        """
        with checkpointed(self.model):
            yield

    def frozen_copy(self) -> "Policy":
        """Return a copy with its own weights, which need no gradient."""
        return replace(self, model=copy.deepcopy(self.model).requires_grad_(False))

    def save(self, path: str | Path, weights: dict[str, torch.Tensor] | None = None) -> None:
        """Write a folder that `load_policy` and Transformers' Auto classes can read.

        Args:
            path: The folder to write.
            weights: The weights to write, for example the complete weights of a sharded model. None: the model's own.
        """
        self.model.save_pretrained(local_path(path), state_dict=weights)
        self.save_tokenizer(path)

    def save_tokenizer(self, path: str | Path) -> None:
        """Write the tokenizer, and the processor if there is one, to a folder."""
        (self.processor or self.tokenizer).save_pretrained(local_path(path))  # a processor saves its tokenizer too


def build_policy(
    alphabet: str, *, hidden_size: int = 96, num_layers: int = 3, feed_forward_size: int = 256, seed: int = 0
) -> Policy:
    """Build a small decoder (Qwen2 architecture) over single characters, with random weights drawn from `seed`.

    The defaults give about 0.3 million parameters. Each attention head is 32 wide.

    Raises:
        ValueError: `hidden_size` is not a positive multiple of 32, or `alphabet` repeats a character.
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
        eos_token_id=single(tokenizer.eos_token_id),
        pad_token_id=single(tokenizer.pad_token_id),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Policy(Qwen2ForCausalLM(config).eval(), tokenizer)


def load_policy(path: str | Path, **model_options: Any) -> Policy:
    """Load a Hugging Face language model and its tokenizer from a folder or a hub name.

    A vision-language model is loaded with its processor, and reads texts and images. If the processor is missing, or
    needs a package that is not installed, a warning says so, and the policy reads texts alone.

    The weights are loaded as float32, whatever type they are stored in: bfloat16 would lose small updates.

    Args:
        path: A folder written by `save_pretrained`, or the name of a model on the hub.
        **model_options: Options of the model's `from_pretrained`, for example `attn_implementation="eager"`.

    Raises:
        ValueError: Transformers cannot load the model or its tokenizer. Or: the tokenizer has no end-of-sequence
            token, so completions could not end.
    """
    model, tokenizer, processor = load_parts(path, {"dtype": torch.float32} | model_options)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer of {path} has no eos_token; set one and save it again")
    return Policy(model.eval(), tokenizer, processor=processor)
