"""Plots of calibration and beliefs; `jaxsel.plotting` lists the public ones."""
