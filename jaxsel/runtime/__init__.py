"""`PromptSelector` and its parts: state, choices, prompts in flight, pool and keys, devices, checkpoints."""
