"""Conversion of arrays between torch and JAX through DLPack; no other file of `rl` imports `jax`.

Arrays stay on their device and never pass through the host. `copy=True`, the default, copies an array on its device and
waits for the copy, so that later writes on one side never show on the other. `copy=False` shares the memory. Shared
memory has three rules:

* A write in place changes the array of both frameworks, including "immutable" JAX arrays. Do not write to a tensor
  before JAX has finished computing with the shared array (`jax.block_until_ready`).
* On a GPU, the receiving framework waits for the stream of the giving framework, never the reverse. Keep both arrays
  until all computations with them are done.
* Do not donate a shared array to a jitted function. On the CPU, JAX copies a donated array that is shared
  (tests/rl/test_handoff.py).

The time of sharing hardly depends on the size of the array. On the CPU, small arrays convert faster through NumPy: see
experiments/benchmarks/handoff.py.

Importing `rl` sets JAX up to share the GPU. Import `rl` before the first use of JAX.
"""

import contextlib
import math
import threading
from numbers import Real

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.core import Tracer
from jax.extend.core import get_opaque_trace_state
from jaxtyping import Shaped
from numpy.typing import ArrayLike

from jaxsel import PromptSelector

_BOTH_KNOW = ("bool", "uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "bfloat16", "float32")
_WIDE = ("int64", "float64")  # by default JAX narrows these types without a warning
_INT32 = torch.iinfo(torch.int32)
_ALIGNMENT = 64  # bytes; XLA requires it of memory that it has not allocated


def to_jax(
    tensor: Shaped[torch.Tensor, "*shape"], *, name: str = "tensor", copy: bool = True
) -> Shaped[jax.Array, "*shape"]:
    """Return the tensor as a JAX array on the same device.

    The type stays the same, except that int64 becomes int32 where JAX has no int64. On a GPU, the check that int64
    values fit into int32 waits until they are computed.

    Args:
        tensor: A dense tensor without gradient, on the CPU or on a GPU that JAX sees too.
        name: The name of the tensor in error messages.
        copy: False shares the memory where this is possible, with the rules of this module. Tensors that are int64,
            strided, expanded, lazily negated or not aligned to 64 bytes are copied all the same. True is the default
            because trainers reuse their buffers in place.

    Raises:
        ValueError: The tensor has a gradient, another layout or another device. Its type is one that JAX lacks or
            would narrow (float64). One of its int64 values is out of the range of int32. Or JAX is tracing a function.
    """
    _not_traced(name)
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"{name} is a {type(tensor).__name__}; give a torch tensor")
    if tensor.requires_grad:
        raise ValueError(f"{name} requires a gradient, which DLPack does not carry over; give {name}.detach()")
    if tensor.layout != torch.strided:
        raise ValueError(f"{name} has the layout {tensor.layout}; give {name}.to_dense()")
    _on_shared_device(name, tensor.device)
    source = _narrowed(name, tensor).resolve_neg().contiguous()
    if source.data_ptr() % _ALIGNMENT:
        source = source.clone()  # XLA would copy later, perhaps after the next write to the tensor
    with torch.cuda.device(source.device) if source.is_cuda else contextlib.nullcontext():
        array = jax.dlpack.from_dlpack(source)
    if copy or source is not tensor:
        # Not torch's clone: torch may reuse a freed block while JAX still computes with it.
        array = jnp.array(array, copy=True).block_until_ready()
    return array


def to_torch(array: Shaped[jax.Array, "*shape"], *, copy: bool = True) -> Shaped[torch.Tensor, "*shape"]:
    """Return the array as a tensor of the same type on the same device.

    Args:
        array: A JAX array on one device, which is the CPU or a GPU that torch sees too.
        copy: False shares the memory, with the rules of this module. True is the default because torch writes in place,
            and because `jaxsel` donates its state at every update.

    Raises:
        ValueError: `array` is not a JAX array, is traced, was deleted or donated, or lies on several devices. Or its
            type is one that torch lacks.
    """
    if isinstance(array, Tracer):
        raise ValueError(f"array is traced ({array.aval}) and has no values yet; give the function's result")
    if not isinstance(array, jax.Array):
        raise ValueError(f"array is a {type(array).__name__}; give a JAX array (torch.from_numpy takes NumPy's)")
    if array.is_deleted():
        raise ValueError("array was deleted, or donated to a jitted function; give its result")
    if array.dtype.name not in _BOTH_KNOW + _WIDE:
        raise ValueError(f"array has type {array.dtype}; give one of {', '.join(_BOTH_KNOW + _WIDE)}")
    if len(array.devices()) > 1:
        raise ValueError(f"array lies on {len(array.devices())} devices; put it on one with jax.device_put")
    (device,) = array.devices()
    if device.platform != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"array lies on {device}, which torch does not see; give jax.device_put(array, a CPU device)")
    if device.platform == "cpu":
        array.block_until_ready()
    tensor = torch.from_dlpack(array)
    if not copy:
        return tensor
    copied = tensor.clone(memory_format=torch.contiguous_format)
    if copied.is_cuda:  # otherwise JAX may reuse the memory before torch has read it
        torch.cuda.current_stream(copied.device).synchronize()
    return copied


def observe_rewards(
    selector: PromptSelector,
    prompt_ids: ArrayLike | torch.Tensor,
    rewards: Shaped[torch.Tensor, "b n"] | Shaped[torch.Tensor, " m"],
    *,
    threshold: float = 0.5,
) -> None:
    """Update the selector with the rewards of rollouts. Each call is one step, see `PromptSelector.observe`.

    A completion is a success if its reward is above `threshold`. A reward of NaN or of plus or minus infinity means
    that the completion was not judged. It counts neither as a success nor as a failure, as in `rl.groups`. Give a
    threshold that no reward of a wrong answer exceeds: a wrong answer may have a reward for its format.

    Rewards are counted on their own device. On a GPU that JAX sees too, the counts do not pass through the host, and
    the host does not wait for the rewards: see `PromptSelector.observe_on_device`.

    Args:
        selector: The selector that observes the counts of successes and of judged completions.
        prompt_ids: Rows of the pool, one per row of `rewards`; with flat rewards, one per completion. Keep the ids on
            the host: copying ids from a GPU waits for all earlier work of the GPU.
        rewards: Rewards `[b, n]`, or flat with one entry per completion. Any real type and any device.
        threshold: The largest reward that is not a success; compared in float32. Rewards of 16 bits are rounded: 0.1
            is 0.1001 in bfloat16, above a threshold of 0.1. Give a threshold between the rewards, such as 0.5.

    Raises:
        ValueError: The rewards have another shape or type, the lengths differ, the threshold is not a number, or an id
            is not a row of the pool. The selector stays as it was.
    """
    if not isinstance(rewards, torch.Tensor):
        raise ValueError(f"rewards is a {type(rewards).__name__}; give a torch tensor")
    if rewards.ndim not in (1, 2) or rewards.is_complex():
        shape = tuple(rewards.shape)
        raise ValueError(f"rewards has shape {shape} and type {rewards.dtype}; give real numbers, [b, n] or flat")
    if rewards.layout != torch.strided:
        raise ValueError(f"rewards has the layout {rewards.layout}; give rewards.to_dense()")
    if isinstance(threshold, torch.Tensor) and threshold.numel() == 1:
        threshold = threshold.item()
    if not isinstance(threshold, Real) or math.isnan(threshold):
        raise ValueError(f"threshold is {threshold!r}; give a number below the reward of every success")
    ids = _ids_beside(rewards, prompt_ids)
    rewards = rewards.detach()
    if rewards.is_floating_point() and rewards.element_size() < 4:
        rewards = rewards.float()  # beside 16 bits, torch would round a threshold of 0.999 to 1
    judged = rewards.isfinite()
    if rewards.dtype == torch.float64:  # a 0.1 that was rounded to float32 must not exceed a threshold of 0.1
        rewards = rewards.float()
    counts = torch.stack([(rewards > threshold) & judged, judged]).to(torch.int32)
    if counts.ndim == 3:
        counts = counts.sum(2, dtype=torch.int32)
    if _stay_on_device(counts):
        selector.observe_on_device(ids, *_passed_on(counts))
    else:
        selector.observe(ids, *counts.cpu().numpy())


def _stay_on_device(counts: torch.Tensor) -> bool:
    return counts.is_cuda and jax.default_backend() == "gpu"


_passing: list[tuple[jax.Array, torch.Tensor]] = []
_passing_lock = threading.Lock()


def _passed_on(tensor: torch.Tensor) -> jax.Array:
    """Return `to_jax(tensor)` without waiting for it. Nothing may write to the tensor.

    `_passing` keeps the tensor until JAX has copied it. Otherwise torch would reuse its memory.
    """
    array = jnp.array(to_jax(tensor, copy=False), copy=True)
    with _passing_lock:  # between reading and replacing the list, another thread could add a pair, which would be lost
        kept = [pair for pair in _passing if not pair[0].is_ready()]  # pyright: ignore[reportAttributeAccessIssue]
        _passing[:] = [*kept, (array, tensor)]
    return array


def _not_traced(name: str) -> None:
    """Refuse a tensor while JAX traces a function: it would become a constant of the compiled function."""
    if get_opaque_trace_state(convention="flax") != _EAGER:
        raise ValueError(f"{name} was given while JAX traces a function; convert it before, and pass it as an argument")


def _on_shared_device(name: str, device: torch.device) -> None:
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"{name} lies on {device}; give {name}.cpu()")
    try:
        jax.devices("gpu" if device.type == "cuda" else "cpu")
    except RuntimeError as error:
        raise ValueError(
            f"{name} lies on {device}, which JAX does not see ({error}); give {name}.cpu(), or install a JAX for it"
        ) from error


def _narrowed(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor in a type that JAX keeps."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype in _BOTH_KNOW or (dtype in _WIDE and jax.dtypes.canonicalize_dtype(dtype) == dtype):
        return tensor
    if dtype == "float64":
        raise ValueError(f"{name} has type float64, which JAX would narrow; give {name}.float()")
    if dtype != "int64":
        raise ValueError(f"{name} has type {dtype}; give one of {', '.join(_BOTH_KNOW)}")
    if tensor.numel():
        low, high = torch.stack(tensor.aminmax()).tolist()
        if low < _INT32.min or high > _INT32.max:
            raise ValueError(
                f"{name} holds {low if low < _INT32.min else high}, which int32 cannot hold; give integers from "
                f"{_INT32.min} to {_INT32.max}, or set JAX_ENABLE_X64=1"
            )
    return tensor.to(torch.int32)


def _ids_beside(rewards: torch.Tensor, prompt_ids: ArrayLike | torch.Tensor) -> np.ndarray:
    """Return the ids on the host, one per row of the rewards. The selector checks their values."""
    if isinstance(prompt_ids, torch.Tensor):
        if prompt_ids.dtype == torch.bfloat16 or prompt_ids.requires_grad:  # NumPy converts neither
            raise ValueError(f"prompt_ids has type {prompt_ids.dtype}; give integers")
        prompt_ids = prompt_ids.cpu().numpy()
    ids = np.asarray(prompt_ids)
    if ids.size and ids.dtype.kind not in "iu":
        raise ValueError(f"prompt_ids has type {ids.dtype}; give integers")
    if ids.shape != (len(rewards),):
        raise ValueError(f"prompt_ids has shape {ids.shape} for rewards {tuple(rewards.shape)}; give one id per row")
    return ids


_EAGER = get_opaque_trace_state(convention="flax")
