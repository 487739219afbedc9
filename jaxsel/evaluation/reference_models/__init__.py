"""A state-space model of success rates, sampled by MCMC; `jaxsel.reference_models` lists the public names."""
