"""The quick predictors against reference posteriors that MCMC samples."""
