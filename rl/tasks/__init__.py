"""Tasks: prompts with answers, and a verifier for completions."""
