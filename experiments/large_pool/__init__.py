"""Methods on simulated pools of up to ten million prompts."""
