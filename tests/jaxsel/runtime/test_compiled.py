import gc
import weakref

import jax
import numpy as np
import pytest

import jaxsel
from tests.support.small_gps import EMBEDDINGS, TINY, N

RATES = dict(zip(("prior_alpha", "prior_beta"), jaxsel.informative_prior(np.linspace(0, 1, N), 8), strict=True))
START_AGAIN = {
    "mopps": lambda: jaxsel.mopps(**RATES),
    "dps": lambda: jaxsel.dps(**RATES),
    "gps": lambda: jaxsel.gps(EMBEDDINGS, **TINY, **RATES),
    "adaptive": lambda: jaxsel.adaptive(EMBEDDINGS, **RATES),
    "exploring": lambda: jaxsel.exploring(jaxsel.adaptive()),
}


class Method:
    """An object whose method `select` becomes a function of a selector."""

    def __init__(self):
        self._inner = jaxsel.mopps()

    def select(self, key, state, batch_size, candidates=None):
        return self._inner.select(key, state, batch_size, candidates)

    def selector(self) -> jaxsel.Selector:
        return self._inner._replace(select=self.select)


def test_a_selector_of_bound_methods_can_be_used():
    chosen = jaxsel.PromptSelector(Method().selector(), num_prompts=20, seed=1).select(4)
    np.testing.assert_array_equal(chosen, jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=20, seed=1).select(4))


def test_selectors_of_one_method_share_compiled_functions():
    method = jaxsel.mopps()
    first, second = (jaxsel.PromptSelector(method, num_prompts=20, seed=seed) for seed in (0, 1))
    assert first._chooser._select is second._chooser._select


def test_compiled_functions_are_freed_with_their_selector():
    method = jaxsel.mopps()
    selector = jaxsel.PromptSelector(method, num_prompts=20)
    selector.observe(selector.select(4), [1, 2, 3, 4], 8)
    freed = weakref.ref(method.select)
    del method, selector
    gc.collect()
    assert freed() is None


@pytest.mark.parametrize("method", START_AGAIN)
def test_the_second_start_of_a_method_compiles_nothing(method):
    START_AGAIN[method]().init(jax.random.key(0), N)
    compiled = []

    def count(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        START_AGAIN[method]().init(jax.random.key(1), N)
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert not compiled
