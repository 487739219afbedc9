"""One GPU for torch, vLLM and JAX: set before JAX starts, so this file imports none of them."""

import os
import sys
import warnings

_VARIABLE = "XLA_PYTHON_CLIENT_PREALLOCATE"


def share_device_memory() -> None:
    """Has JAX take GPU memory as it needs it, not three quarters of the GPU when it starts.

    A value that the environment already has stays. JAX reads it once, when it first looks at its devices: where that
    has happened on a GPU, a RuntimeWarning says so, and what to do.
    """
    if _VARIABLE in os.environ:
        return
    os.environ[_VARIABLE] = "false"
    if _jax_has_a_gpu():
        warnings.warn(
            f"JAX started before {_VARIABLE} was set, and holds most of the GPU; import rl before JAX is "
            f"first used, or start Python with {_VARIABLE}=false",
            RuntimeWarning,
            stacklevel=2,
        )


def _jax_has_a_gpu() -> bool:
    """Whether JAX has started, and on a GPU. Does not start it, for which there is no public function."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    started = getattr(bridge, "backends_are_initialized", lambda: False)()
    return started and sys.modules["jax"].default_backend() == "gpu"
