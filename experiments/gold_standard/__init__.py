"""Comparison of the quick predictors mopps, dps and gps with reference posteriors, which MCMC samples."""
