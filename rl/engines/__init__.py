"""Engines that generate rollouts: Hugging Face Transformers, and vLLM in this process or its own."""
