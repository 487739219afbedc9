"""Arrays from torch to JAX and back through DLPack: the one file that knows both.

They stay on their device: nothing goes through the host. `copy=True`, the default, copies them there and waits for it,
so that neither side sees what the other does later. `copy=False` shares the memory, with what this asks of you:

* Whoever writes in place changes the other's array, "immutable" JAX arrays included. Until JAX has computed what it
  makes of a shared array (`jax.block_until_ready`), leave the tensor as it is.
* On a GPU the framework that takes over waits for the stream of the one that gives, never the other way round: keep
  both arrays until what is computed from them is done.
* Do not donate a shared array to a jitted function. On the CPU, JAX then copies instead (tests/rl/test_handoff.py).

Sharing hardly depends on the size. On the CPU, small arrays go quicker through NumPy: see
experiments/benchmarks/handoff.py.

Importing `rl` sets JAX up to share the GPU: import it before JAX is first used.
"""

import contextlib

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
_WIDE = ("int64", "float64")  # JAX narrows them without a word, unless it is told to keep them
_INT32 = torch.iinfo(torch.int32)
_ALIGNMENT = 64  # bytes; what XLA asks of memory that it has not allocated itself


def to_jax(
    tensor: Shaped[torch.Tensor, "*shape"], *, name: str = "tensor", copy: bool = True
) -> Shaped[jax.Array, "*shape"]:
    """The tensor as a JAX array on the same device.

    Types stay, but int64 becomes int32 where JAX has no int64; on a GPU, to look whether the values fit waits for
    them.

    Args:
        tensor: dense, on the CPU or a GPU that JAX sees too, without gradient.
        name: what errors call it.
        copy: False shares the memory, see above, where that can be: int64, strided and expanded tensors, views that
            are not aligned to 64 bytes, and lazily negated ones are copied all the same. True is the default because
            trainers reuse their buffers in place.

    Raises:
        ValueError: a tensor that is not as above, a type that JAX lacks or would narrow (float64), an int64 value
            that int32 has no room for, or a call while JAX traces a function.
    """
    _not_traced(name)
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"{name} is a {type(tensor).__name__}; give a torch tensor")
    if tensor.requires_grad:
        raise ValueError(f"{name} requires a gradient, which ends at the hand-off; give {name}.detach()")
    if tensor.layout != torch.strided:
        raise ValueError(f"{name} has the layout {tensor.layout}; give {name}.to_dense()")
    _on_shared_device(name, tensor.device)
    source = _narrowed(name, tensor).resolve_neg().contiguous()
    if source.data_ptr() % _ALIGNMENT:
        source = source.clone()  # XLA would copy too, but later: after the next write to the tensor, it may be
    with torch.cuda.device(source.device) if source.is_cuda else contextlib.nullcontext():
        array = jax.dlpack.from_dlpack(source)
    if copy or source is not tensor:
        # Not torch's clone: a block that torch frees it may use again while JAX still computes with it.
        array = jnp.array(array, copy=True).block_until_ready()
    return array


def to_torch(array: Shaped[jax.Array, "*shape"], *, copy: bool = True) -> Shaped[torch.Tensor, "*shape"]:
    """The array as a tensor of the same type on the same device.

    Args:
        array: on one device, the CPU or a GPU that torch sees too.
        copy: False shares the memory, see above. True is the default because torch writes in place, and because
            `jaxsel` donates its state at every update.

    Raises:
        ValueError: no JAX array, one that is traced, was deleted (donated) or lies on several devices, or a type that
            torch lacks.
    """
    if isinstance(array, Tracer):
        raise ValueError(f"array is traced ({array.aval}) and has no values yet; hand over what the function returns")
    if not isinstance(array, jax.Array):
        raise ValueError(f"array is a {type(array).__name__}; give a JAX array (torch.from_numpy takes NumPy's)")
    if array.is_deleted():
        raise ValueError("array was deleted, or donated to a jitted function; give what that returned")
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
    if copied.is_cuda:  # or JAX may use the memory again before torch has read it
        torch.cuda.current_stream(copied.device).synchronize()
    return copied


def observe_rewards(
    selector: PromptSelector,
    prompt_ids: ArrayLike | torch.Tensor,
    rewards: Shaped[torch.Tensor, "b n"] | Shaped[torch.Tensor, " m"],
    *,
    threshold: float = 0.5,
) -> None:
    """Tells the selector what came of rollouts. Each call is one step of the method's clock.

    A completion is a success where its reward is above `threshold`. NaN and plus or minus infinity mean that it was not
    judged: it counts neither as success nor as failure, as in `rl.groups`. There the task says what a success is; here,
    give a threshold of at least the largest reward of a wrong answer (format credit).

    Rewards are counted on the device they lie on and stay there. On a GPU that JAX sees too, the counts go over without
    the host, and nothing waits for the rewards: see `PromptSelector.observe_on_device`.

    Args:
        selector: observes successes and group sizes.
        prompt_ids: rows of the pool, one a row of `rewards`; flat rewards repeat them. On the host: those on a GPU are
            copied from there, which waits for all that the GPU has to do before.
        rewards: `[b, n]`, or flat with one entry a completion; any real type, any device.
        threshold: see above.

    Raises:
        ValueError: rewards of another shape or type, lengths that differ, a threshold that is NaN, or ids that are no
            rows of the pool. The selector stays as it was.
    """
    if not isinstance(rewards, torch.Tensor):
        raise ValueError(f"rewards is a {type(rewards).__name__}; give a torch tensor")
    if rewards.ndim not in (1, 2) or rewards.is_complex():
        shape = tuple(rewards.shape)
        raise ValueError(f"rewards has shape {shape} and type {rewards.dtype}; give real numbers, [b, n] or flat")
    if np.isnan(threshold):
        raise ValueError(f"threshold is {threshold}; give a number that rewards of successes are above")
    ids = _ids_beside(rewards, prompt_ids)
    rewards = rewards.detach()
    judged = rewards.isfinite()
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


def _passed_on(tensor: torch.Tensor) -> jax.Array:
    """`to_jax(tensor)` without waiting, for a tensor that nobody writes to.

    It is kept until JAX has copied it: torch would use its memory again.
    """
    array = jnp.array(to_jax(tensor, copy=False), copy=True)
    _passing[:] = [pair for pair in _passing if not pair[0].is_ready()]  # pyright: ignore[reportAttributeAccessIssue]
    _passing.append((array, tensor))
    return array


def _not_traced(name: str) -> None:
    """A tensor that is handed over while JAX traces would become a constant of the compiled function."""
    if get_opaque_trace_state(convention="flax") != _EAGER:
        raise ValueError(f"{name} was handed over while JAX traces a function; hand it over before, as an argument")


def _on_shared_device(name: str, device: torch.device) -> None:
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"{name} lies on {device}; give {name}.cpu()")
    try:
        jax.devices("gpu" if device.type == "cuda" else "cpu")
    except RuntimeError as error:
        raise ValueError(
            f"{name} lies on {device}, where JAX sees nothing ({error}); give {name}.cpu(), or install a JAX for it"
        ) from error


def _narrowed(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, in a type that JAX keeps."""
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
                f"{name} holds {low if low < _INT32.min else high}, for which int32 has no room; give integers from "
                f"{_INT32.min} to {_INT32.max}, or set JAX_ENABLE_X64=1"
            )
    return tensor.to(torch.int32)


def _ids_beside(rewards: torch.Tensor, prompt_ids: ArrayLike | torch.Tensor) -> np.ndarray:
    """On the host; the selector checks their values."""
    if isinstance(prompt_ids, torch.Tensor):
        if prompt_ids.dtype == torch.bfloat16 or prompt_ids.requires_grad:  # which NumPy does not take
            raise ValueError(f"prompt_ids has type {prompt_ids.dtype}; give integers")
        prompt_ids = prompt_ids.cpu().numpy()
    ids = np.asarray(prompt_ids)
    if ids.size and ids.dtype.kind not in "iu":
        raise ValueError(f"prompt_ids has type {ids.dtype}; give integers")
    if ids.shape != (len(rewards),):
        raise ValueError(f"prompt_ids has shape {ids.shape} for rewards {tuple(rewards.shape)}; give one id a row")
    return ids


_EAGER = get_opaque_trace_state(convention="flax")
