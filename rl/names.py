"""Names that settings accept. This file loads nothing else, so that a command line checks them at once."""

PRECISIONS = ("float32", "bfloat16")
"""Precisions of updates and of the Hugging Face engine."""
PARALLEL = ("ddp", "fsdp")
"""Uses of several processes."""
TRACKERS = ("wandb", "trackio")
"""Trackers that may get the metrics too."""
ENGINES = ("hf", "vllm")
"""Engines that generate rollouts."""
