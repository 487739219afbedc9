"""The server that runs vLLM, in the trainer's process or in its own. Only this file runs a `vllm.LLM`."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# vLLM is installed in an environment of its own, which pyright does not read.

import gc
import os
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from rl.rollout import Sampling


class Request(NamedTuple):
    """A request for one completion.

    Attributes:
        prompt: The tokens of the prompt, with one token per image.
        seed: The seed.
        images: The images, as Pillow's.
        never: Tokens that are never drawn.
        shows_special: Whether stop texts may hold special tokens.
    """

    prompt: list[int]
    seed: int
    images: Sequence[Any] = ()
    never: Sequence[int] = ()
    shows_special: bool = False


class Completion(NamedTuple):
    """One completion.

    Attributes:
        tokens: Its tokens, end of sequence included.
        log_probs: Their log-probabilities under the sampling distribution.
        prompt: The tokens of the prompt as vLLM read them, with those of images; None if the prompt has no image.
    """

    tokens: list[int]
    log_probs: list[float]
    prompt: list[int] | None = None


class Server:
    """A `vllm.LLM` whose weights are random until `load` is called.

    Args:
        folder: Folder with the model's configuration and its tokenizer.
        options: Options of `vllm.LLM`.
    """

    def __init__(self, folder: str, options: dict[str, Any]):
        _prepare_environment()
        with _random_state_kept():
            from vllm import LLM

            # "processed_logprobs" belong to the distribution of the drawn token, after temperature and truncation.
            defaults = {
                "load_format": "dummy",
                "generation_config": "vllm",
                "logprobs_mode": "processed_logprobs",
                "enforce_eager": not torch.cuda.is_available(),
            }
            self._llm = LLM(folder, **defaults | options)

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, eos_token_ids: Sequence[int], timeout: float | None
    ) -> list[Completion | None]:
        """Return completions in the order of the requests; None for a completion that took over `timeout` seconds."""
        engine, deadline = self._llm.llm_engine, None if timeout is None else time.monotonic() + timeout
        done: dict[str, Completion] = {}
        names = [str(i) for i in range(len(requests))]
        with _random_state_kept():
            try:
                for name, request in zip(names, requests, strict=True):
                    prompt: Any = {"prompt_token_ids": request.prompt}
                    if request.images:
                        prompt["multi_modal_data"] = {"image": list(request.images)}
                    engine.add_request(name, prompt, _parameters(sampling, eos_token_ids, request))
                while engine.has_unfinished_requests() and (deadline is None or time.monotonic() < deadline):
                    for output in engine.step():
                        if output.finished:
                            done[output.request_id] = _completion(output, requests[int(output.request_id)])
            finally:
                engine.abort_request([name for name in names if name not in done])
        return [done.get(name) for name in names]

    def load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Load a complete state dict, and drop all values that were computed with the old weights."""
        # vLLM does not clear the prefix cache itself. It also keeps the old head if the weights lack a tied head.
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(list(weights))})
        self._forget()

    def call(self, name: str, *arguments: Any) -> None:
        """Call a method of vLLM's interface for weight updates, for a transfer engine in the trainer's process."""
        getattr(self._llm, name)(*arguments)
        if name == "finish_weight_update":
            self._forget()

    def _forget(self) -> None:
        """Drop keys and values of prompts, and the vectors of images, which old weights computed."""
        self._llm.reset_prefix_cache()
        self._llm.llm_engine.reset_encoder_cache()

    def close(self) -> None:
        """Free the memory that can be freed while the process runs."""
        from vllm.distributed import cleanup_dist_env_and_memory

        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        gc.collect()
        cleanup_dist_env_and_memory()


def _parameters(sampling: Sampling, eos_token_ids: Sequence[int], request: Request) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        stop=list(sampling.stop) or None,
        include_stop_str_in_output=True,
        detokenize=bool(sampling.stop),  # vLLM needs the text only to find stop strings
        skip_special_tokens=not request.shows_special,
        ignore_eos=True,  # vLLM reads end tokens from three files; the policy's end tokens are given below
        stop_token_ids=list(eos_token_ids),
        seed=request.seed,
        logit_bias=dict.fromkeys(request.never, -100.0) or None,  # the lowest that vLLM allows
        logprobs=0,  # only for the drawn token
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _completion(output: Any, request: Request) -> Completion:
    (drawn,) = output.outputs
    tokens = list(drawn.token_ids)
    log_probs = [step[token].logprob for step, token in zip(drawn.logprobs, tokens, strict=True)]
    return Completion(tokens, log_probs, list(output.prompt_token_ids) if request.images else None)


def _prepare_environment() -> None:
    """Set the environment variables that vLLM reads at import; only VLLM_ENABLE_V1_MULTIPROCESSING is overwritten."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # vLLM's engine runs in this process, so `load` can reach it
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if not torch.cuda.is_available():
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Restore the states of all random generators after the block, because vLLM seeds them."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
