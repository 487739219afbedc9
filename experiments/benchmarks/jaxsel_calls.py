"""Three ways to call jaxsel: the public class, the compiled functions alone, and predictions read from the state."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxsel
from experiments.benchmarks.peers.common import (
    BAND,
    DPS_DECAY,
    GROUP_SIZE,
    KALMAN_STEP_VARIANCE,
    MOPPS_DECAY,
    Peer,
)


def _kalman() -> jaxsel.Selector:
    predictor = jaxsel.kalman(step_variance=KALMAN_STEP_VARIANCE, group_size=GROUP_SIZE)
    return jaxsel.make_selector(predictor, jaxsel.target_success_rate(0.5), jaxsel.top_k(), method="kalman")


SELECTORS: dict[str, Callable[[], jaxsel.Selector]] = {
    "uniform": functools.partial(jaxsel.uniform, decay=MOPPS_DECAY, group_size=GROUP_SIZE),
    "mopps": functools.partial(jaxsel.mopps, decay=MOPPS_DECAY, group_size=GROUP_SIZE),
    "threshold": functools.partial(
        jaxsel.threshold, lower=BAND[0], upper=BAND[1], decay=MOPPS_DECAY, group_size=GROUP_SIZE
    ),
    "dps": functools.partial(jaxsel.dps, decay=DPS_DECAY),
    "kalman": _kalman,
}


class PublicClass(Peer):
    """A `PromptSelector` as a user calls it, with its checks, its counters and NumPy arrays in and out."""

    def __init__(self, method: str, num_prompts: int, seed: int, keys: list[str] | None = None):
        super().__init__(num_prompts, seed)
        self.pool: dict[str, Any] = {"num_prompts": num_prompts} if keys is None else {"keys": keys}
        self.selector = jaxsel.PromptSelector(SELECTORS[method](), seed=seed, **self.pool)

    def select(self, batch_size: int) -> np.ndarray:
        """Choose distinct prompts."""
        return self.selector.select(batch_size)

    def forget(self) -> None:
        """Forget the selection: one that is never observed stays open, and is compared with every observation."""
        self.selector._belief.books.forget()

    def observe(self, prompt_ids: np.ndarray, successes: np.ndarray, group_size: int) -> None:
        """Update the belief and wait, because `PromptSelector.observe` alone returns while the device still works."""
        self.selector.observe(prompt_ids, successes, group_size)
        self.selector.wait()

    def predict(self) -> jaxsel.Prediction:
        """Return all six fields of the prediction as NumPy arrays; other implementations return one or three."""
        return self.selector.predict()


class Kernels(Peer):
    """The compiled functions of a selector alone: batches are on the device, and nothing returns to the host."""

    def __init__(self, method: str, num_prompts: int, seed: int):
        super().__init__(num_prompts, seed)
        selector = SELECTORS[method]()
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
        """Copy a batch to the device."""
        sizes = np.full(len(prompt_ids), group_size, np.int32)
        return jax.block_until_ready((jnp.asarray(prompt_ids), jnp.asarray(successes), jnp.asarray(sizes)))

    def select(self, batch_size: int) -> jax.Array:
        """Choose distinct prompts, and wait for their scores and predictions too."""
        self.turn += 1
        return jax.block_until_ready(self._select(self.key, self.turn, self.state, batch_size)).prompt_ids

    def observe(self, prompt_ids: Any, successes: Any, group_size: Any) -> None:
        """Update the belief; the old state is donated."""
        self.state = jax.block_until_ready(self._observe(self.key, self.state, prompt_ids, successes, group_size))

    def predict(self) -> Any:
        """Return the mean success rates, or dps's three probabilities; fields that nobody reads are not computed."""
        return jax.block_until_ready(self._predict(self.key, self.state))


class FusedKernels(Kernels):
    """The compiled functions of dps, but `predict` only returns the prediction that `observe` left in the state.

    The implementations of dps without jaxsel do the same.
    """

    fused = True

    def predict(self) -> Any:
        """Return each prompt's probabilities of the next solve state, which the last `observe` computed."""
        return self.state.predicted
