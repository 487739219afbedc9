"""Experiments: one file or package per claim, beside the parts that they share (`running`, `reporting`)."""
