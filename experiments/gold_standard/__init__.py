"""Comparison of the quick predictors with reference posteriors, sampled by MCMC."""
