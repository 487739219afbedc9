"""A logistic state-space model of all prompts, filtered online."""
