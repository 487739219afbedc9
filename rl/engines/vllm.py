"""Rollouts with vLLM, in the trainer's process or in its own. Weight updates reach the running engine."""

import copy
import logging
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers.core_model_loading import revert_weight_conversion

from rl._prompt_checks import check_lengths
from rl._tokenizers import special_ids
from rl._vision import unread_prompt
from rl.engines._own_process import OwnProcess, ServerError
from rl.engines._vllm_server import Completion, Request, Server
from rl.engines._weights import check_fit
from rl.media import Media, ReadPrompts
from rl.policy import Policy
from rl.prompts.messages import Prompt
from rl.rollout import Completions, Sampling, check_request

_log = logging.getLogger(__name__)


class VLLMEngine:
    """A `RolloutEngine` that completes prompts with vLLM.

    A completion that failed or was not ready in time is drawn once more. A completion that fails twice has the text
    None and no tokens: it carries no information and does not count as a failure of the policy. If vLLM's own process
    dies or hangs, it is started again with the current weights.

    In the trainer's process, vLLM seeds the random generators (their states are restored) and changes environment
    variables. On the CPU it also binds torch's threads and disables `torch.set_num_threads`. In its own process vLLM
    changes nothing for the trainer. That process is spawned: guard the main module with `if __name__ == "__main__"`.

    Args:
        policy: The policy, which gives tokens, ends of sequence and the first weights. The engine never changes it.
        own_process: Whether vLLM runs in its own process; false runs it in the trainer's process.
        timeout: Time limit in seconds per call of `generate`, retry excluded. None: no limit.
        max_model_len: Longest prompt and completion together, in tokens, for which vLLM reserves memory. None: the
            model's limit.
        dtype: Type of vLLM's weights and arithmetic, by torch's name. None: the type of the policy's weights. The
            policy's `precision` does not apply to vLLM.
        **options: More options of `vllm.LLM`, for example `gpu_memory_utilization`.

    Raises:
        ValueError: `timeout` is not above 0, or `own_process` is false while torch.distributed runs. Or: an option
            spreads the engine over several GPUs, which weight updates do not support.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        own_process: bool = True,
        timeout: float | None = None,
        max_model_len: int | None = None,
        dtype: str | None = None,
        **options: Any,
    ):
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout is {timeout}; give seconds above 0, or None")
        if not own_process and torch.distributed.is_initialized():
            raise ValueError("own_process is False while torch.distributed runs, and vLLM starts it too; give True")
        for name in ("tensor_parallel_size", "pipeline_parallel_size"):
            if options.get(name, 1) != 1:
                raise ValueError(f"{name} is {options[name]}; give 1, because weight updates support one GPU only")
        self._policy = policy
        self._timeout = timeout
        self.max_length = max_model_len or policy.max_length
        weights = policy.model.state_dict()
        self._shapes = {name: weight.shape for name, weight in weights.items()}
        self._half_updated = self._closed = False
        self._server: Any = None
        self._folder = tempfile.TemporaryDirectory(prefix="jaxsel-vllm-")
        config = copy.deepcopy(policy.model.config)
        if policy.processor is not None:  # without its name, vLLM takes a model for one of embeddings
            config.architectures = config.architectures or [type(policy.model).__name__]
        config.save_pretrained(self._folder.name)
        policy.save_tokenizer(self._folder.name)
        if policy.processor is not None:
            # vLLM 0.32 starts with random weights, and this option would make the normalisation of pixels one of them.
            options = {"mm_device_do_normalize": False} | options
        options |= {
            "max_model_len": self.max_length,  # None stands for vLLM's own limit
            "dtype": dtype or str(policy.model.dtype).removeprefix("torch."),
        }
        try:
            server = (Server, self._folder.name, options)
            self._server = OwnProcess(*server, policy.device) if own_process else _Inside(*server)
            self.update_weights(weights)
        except BaseException:
            self.close()
            raise

    def generate(self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling, *, seed: int) -> Completions:
        """Complete the prompts; see `RolloutEngine.generate`.

        Raises:
            ValueError: `RolloutEngine.generate` refuses an argument, or the temperature is between 0 and 0.01.
            RuntimeError: The last weight update failed halfway, or the engine is closed. Or: vLLM reads a prompt with
                images as other tokens than the policy does.
        """
        check_request(prompts, group_size)
        if 0 < sampling.temperature < 0.01:
            raise ValueError(
                f"temperature is {sampling.temperature}, which vLLM raises to 0.01; give 0 or at least 0.01"
            )
        self._check_open()
        if self._half_updated:
            raise RuntimeError("the last update of vLLM's weights failed halfway; update them before generating")
        read = self._policy.read(list(prompts))
        prompt_tokens, prompt_mask, media = read
        lengths, cure = prompt_mask.sum(1).tolist(), "a smaller max_new_tokens or a larger max_model_len"
        check_lengths(lengths, sampling.max_new_tokens, self.max_length, cure)
        rows = [tokens[mask.bool()].tolist() for tokens, mask in zip(prompt_tokens, prompt_mask, strict=True)]
        seeds = np.random.SeedSequence(seed).generate_state(len(rows) * group_size).tolist()
        asked, never = self._with_images(list(prompts), rows, media), self._policy.placeholder_ids
        # vLLM cannot hide some special tokens and show others; those that the policy hides are hardly ever drawn
        shown = not special_ids(self._policy.tokenizer) <= self._policy.hidden_ids
        requests = [
            Request(asked[i // group_size][0], seed, asked[i // group_size][1], never, shown)
            for i, seed in enumerate(seeds)
        ]
        drawn = self._draw(requests, sampling)
        _check_prompts(drawn, rows, group_size)
        return self._assembled(read, drawn, greedy=sampling.temperature == 0)

    def update_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Load the policy's weights into the running engine; see `RolloutEngine.update_weights`.

        Raises:
            ValueError: Names or shapes differ from the policy's complete state dict. (`named_parameters` omits the head
                of tied embeddings, and vLLM would keep the old head.) The engine keeps its weights.
            RuntimeError: vLLM failed in its current process and in a new one, or the engine is closed. The engine
                refuses to generate until an update succeeds.
        """
        check_fit(weights, self._shapes)
        self._check_open()
        if self._half_updated:
            self._server.renew()  # otherwise vLLM would continue the interrupted update
        self._half_updated = True
        detached = {name: weight.detach() for name, weight in weights.items()}
        if self._policy.processor is not None:  # vLLM knows these models by the names in their files
            detached = revert_weight_conversion(self._policy.model, detached)
        try:
            self._server.load(detached)
        except ServerError:  # the process may have died since the last call
            _log.exception("vLLM failed to load weights; trying a new process")
            self._server.renew()
            self._server.load(detached)
        self._half_updated = False

    def close(self) -> None:
        """Stop vLLM; the engine cannot be used afterwards."""
        if not self._closed and self._server is not None:
            self._server.close()
        self._closed = True
        self._folder.cleanup()

    def __enter__(self) -> "VLLMEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the engine is closed; make a new one")

    def _with_images(
        self, prompts: Sequence[Prompt], rows: list[list[int]], media: Media | None
    ) -> list[tuple[list[int], list[Any]]]:
        """Return the tokens and the images of each prompt; one token stands for an image, which vLLM itself reads."""
        processor, images = self._policy.processor, media or [{} for _ in rows]
        return [unread_prompt(processor, prompts[i], i) if images[i] else (row, []) for i, row in enumerate(rows)]

    def _draw(self, requests: list[Request], sampling: Sampling) -> list[Completion | None]:
        drawn = self._attempt(requests, sampling)
        missing = [i for i, completion in enumerate(drawn) if completion is None]
        if missing:
            for i, again in zip(missing, self._attempt([requests[i] for i in missing], sampling), strict=True):
                drawn[i] = again
            failed = sum(drawn[i] is None for i in missing)
            _log.warning("%d of %d completions drawn again; %d failed twice", len(missing), len(drawn), failed)
        return drawn

    def _attempt(self, requests: list[Request], sampling: Sampling) -> list[Completion | None]:
        try:
            return self._server.generate(requests, sampling, self._policy.eos_token_ids, self._timeout)
        except ServerError:
            _log.exception("vLLM failed to generate")
            self._server.restart()
            return [None] * len(requests)

    def _assembled(self, prompts: ReadPrompts, drawn: list[Completion | None], *, greedy: bool) -> Completions:
        width = max((len(completion.tokens) for completion in drawn if completion), default=1)
        tokens = torch.full((len(drawn), width), self._policy.pad_token_id)
        mask, log_probs = torch.zeros(tokens.shape, dtype=torch.bool), torch.zeros(tokens.shape)
        for i, completion in enumerate(drawn):
            if completion:
                length = len(completion.tokens)
                tokens[i, :length] = torch.tensor(completion.tokens)
                mask[i, :length] = True
                if not greedy:
                    log_probs[i, :length] = torch.tensor(completion.log_probs)
        decoded = self._policy.decode(tokens)
        texts = [text if completion else None for text, completion in zip(decoded, drawn, strict=True)]
        device = prompts.tokens.device
        rows = (tokens.to(device), mask.to(device), log_probs.to(device))
        return Completions(prompts.tokens, prompts.mask, *rows, texts, prompts.media)


def _check_prompts(drawn: Sequence[Completion | None], rows: Sequence[list[int]], group_size: int) -> None:
    """Refuse completions of prompts with images that vLLM read as other tokens than the policy does."""
    for i, completion in enumerate(drawn):
        if completion is not None and completion.prompt not in (None, rows[i // group_size]):
            row, length = i // group_size, len(completion.prompt or ())
            raise RuntimeError(
                f"vLLM read {length} tokens in row {row} of the prompts, and the policy reads {len(rows[row])} or "
                "others: their processors differ; give engine.name=hf"
            )


class _Inside:
    """Runs a `Server` in this process, with the methods of `OwnProcess`."""

    def __init__(self, server: type[Server], folder: str, options: dict[str, Any]):
        self._make = lambda: server(folder, options)
        self._server: Server | None = self._make()

    def generate(self, *arguments: Any) -> list[Completion | None]:
        assert self._server is not None
        try:
            return self._server.generate(*arguments)
        except Exception as error:
            raise ServerError(f"vLLM raised {error!r}") from error

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        assert self._server is not None
        self._server.load(weights.items())

    def renew(self) -> None:
        self.close()
        self._server = self._make()

    def restart(self) -> None:
        """Do nothing: there is no other process to start, and the waiting requests are already aborted."""

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
