"""Checkpoints of selectors: what they contain, how they are written and read, and earlier formats."""
