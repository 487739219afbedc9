"""Rollouts, rewards and policy updates with torch. Importing `rl` makes JAX share the GPU with torch and vLLM."""

from rl._device_memory import share_device_memory

share_device_memory()
