"""Options of `jax.jit` for tests that compute for seconds. All other programs compile quickly and run slowly."""

OPTIMIZED = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}
