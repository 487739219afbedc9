"""Metrics of predictions; `jaxsel.metrics` lists the public ones."""
