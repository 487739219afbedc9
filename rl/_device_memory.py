"""GPU memory shared by torch, vLLM and JAX.

`share_device_memory` has an effect only before JAX starts. Therefore this file imports none of the three.
"""

import os
import sys
import warnings

_VARIABLE = "XLA_PYTHON_CLIENT_PREALLOCATE"


def share_device_memory() -> None:
    """Make JAX allocate GPU memory on demand, instead of three quarters of it at the start.

    This sets the environment variable XLA_PYTHON_CLIENT_PREALLOCATE to false, unless it has a value already. JAX reads
    the variable once, when it first looks for devices. If JAX has already done so on a GPU, a RuntimeWarning names the
    cure.
    """
    if _VARIABLE in os.environ:
        return
    os.environ[_VARIABLE] = "false"
    if _jax_has_a_gpu():
        warnings.warn(
            f"JAX started before {_VARIABLE} was set, and holds most of the GPU memory; import rl before JAX is "
            f"first used, or start Python with {_VARIABLE}=false",
            RuntimeWarning,
            stacklevel=2,
        )


def _jax_has_a_gpu() -> bool:
    """Return whether JAX has started on a GPU, without starting JAX. JAX has no public function for this."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    started = getattr(bridge, "backends_are_initialized", lambda: False)()
    return started and sys.modules["jax"].default_backend() == "gpu"
