"""Torch: rollouts, rewards, policy. Importing any of it has JAX share the GPU with torch and vLLM."""

from rl._device_memory import share_device_memory

share_device_memory()
