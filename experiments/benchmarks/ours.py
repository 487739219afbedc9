"""jaxsel in three ways: its public class, its functions compiled alone, and the prediction read in their state."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxsel
from experiments.benchmarks.peers.common import BAND, DPS_DECAY, GROUP_SIZE, MOPPS_DECAY, Peer

METHODS: dict[str, Callable[[], jaxsel.Selector]] = {
    "uniform": functools.partial(jaxsel.uniform, decay=MOPPS_DECAY, group_size=GROUP_SIZE),
    "mopps": functools.partial(jaxsel.mopps, decay=MOPPS_DECAY, group_size=GROUP_SIZE),
    "threshold": functools.partial(
        jaxsel.threshold, lower=BAND[0], upper=BAND[1], decay=MOPPS_DECAY, group_size=GROUP_SIZE
    ),
    "dps": functools.partial(jaxsel.dps, decay=DPS_DECAY),
}


class PublicClass(Peer):
    """A `PromptSelector`: what a user pays, with its checks, counters and NumPy at the border."""

    def __init__(self, method: str, num_prompts: int, seed: int):
        super().__init__(num_prompts, seed)
        self.selector = jaxsel.PromptSelector(METHODS[method](), num_prompts=num_prompts, seed=seed)

    def select(self, batch_size: int) -> np.ndarray:
        """Chooses distinct prompts."""
        return self.selector.select(batch_size)

    def observe(self, prompt_ids: np.ndarray, successes: np.ndarray, group_size: int) -> None:
        """Takes in their outcome; `PromptSelector.observe` alone returns while the device still works."""
        self.selector.observe(prompt_ids, successes, group_size)
        self.selector.wait()

    def predict(self) -> jaxsel.Prediction:
        """All six fields of the prediction, as NumPy arrays: more than the peers give."""
        return self.selector.predict()


class Kernels(Peer):
    """The functions of a selector, compiled alone: batches on the device, nothing returned to the host."""

    def __init__(self, method: str, num_prompts: int, seed: int):
        super().__init__(num_prompts, seed)
        selector = METHODS[method]()
        self.key = jax.random.key(seed)
        self.state = selector.init(self.key, num_prompts)
        self.turn = 0

        def select(key, turn, state, batch_size):
            return selector.select(jax.random.fold_in(key, turn), state, batch_size)

        def predict(key, state):
            prediction = selector.predict(key, state, None)
            if method == "dps":
                return prediction.unsolved, prediction.mixed, prediction.solved
            return prediction.success_rate

        def observe(key, state, *rollouts):
            return selector.update(key, state, jaxsel.Rollouts(*rollouts))

        self._select = jax.jit(select, static_argnums=3)
        self._predict = jax.jit(predict)
        self._observe = jax.jit(observe, donate_argnums=1)

    def place(self, prompt_ids: np.ndarray, successes: np.ndarray, group_size: int) -> tuple[Any, Any, Any]:
        """Copies to the device."""
        sizes = np.full(len(prompt_ids), group_size, np.int32)
        return jax.block_until_ready((jnp.asarray(prompt_ids), jnp.asarray(successes), jnp.asarray(sizes)))

    def select(self, batch_size: int) -> jax.Array:
        """Chooses distinct prompts; waits for their scores and predictions too."""
        self.turn += 1
        return jax.block_until_ready(self._select(self.key, self.turn, self.state, batch_size)).prompt_ids

    def observe(self, prompt_ids: Any, successes: Any, group_size: Any) -> None:
        """Takes in their outcome; the old state is donated."""
        self.state = jax.block_until_ready(self._observe(self.key, self.state, prompt_ids, successes, group_size))

    def predict(self) -> Any:
        """What the peers predict; fields that nobody reads are not computed."""
        return jax.block_until_ready(self._predict(self.key, self.state))


class FusedKernels(Kernels):
    """The same for dps, with the prediction that an observation leaves in the state, as the peers of dps have it."""

    fused = True

    def predict(self) -> Any:
        """The belief about the next solve state, as the last observation left it; no work."""
        return self.state.predicted
