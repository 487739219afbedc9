"""The method GPS with networks and a pool so small that only compilation takes time."""

from typing import Any

import numpy as np

import jaxsel

N, FEATURES = 21, 5
EMBEDDINGS = np.random.default_rng(0).normal(size=(N, FEATURES)).astype(np.float32)
TINY: dict[str, Any] = {
    "width": 4,
    "num_heads": 1,
    "latent_size": 2,
    "num_draws": 2,
    "context_size": 8,
    "history": 4,
    "inner_steps": 2,
    "replayed": 1,
}
GPS = jaxsel.gps(EMBEDDINGS, **TINY)
NO_LATENT = jaxsel.gps(EMBEDDINGS, **TINY | {"latent_size": 0, "decay": None})
