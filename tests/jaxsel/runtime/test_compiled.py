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


def used(method: jaxsel.Selector) -> jaxsel.PromptSelector:
    selector = jaxsel.PromptSelector(method, num_prompts=N)
    selector.observe(selector.select(4), [1, 2, 3, 4], 8)
    return selector


EQUAL = {
    "mopps": lambda decay=0.5: jaxsel.mopps(decay=decay),
    "recalibrated": lambda decay=0.5: jaxsel.make_selector(
        jaxsel.recalibrated(jaxsel.hidden_markov(decay=decay)), jaxsel.mixed_probability(), jaxsel.top_k()
    ),
    "threshold": lambda decay=0.5: jaxsel.threshold(decay=decay),
    "dps": lambda decay=0.5: jaxsel.dps(decay=decay),
    "uniform": lambda decay=0.5: jaxsel.uniform(decay=decay),
    "gps": lambda decay=0.5: jaxsel.gps(EMBEDDINGS, **TINY, decay=decay),
    "adaptive": lambda temperature=0.5: jaxsel.adaptive(EMBEDDINGS, temperature=temperature),
    "with priors": lambda decay=0.5: jaxsel.mopps(**RATES, decay=decay),
    "exploring": lambda share=0.5: jaxsel.exploring(jaxsel.mopps(), share=share),
    "arcus": lambda temperature=0.5: jaxsel.arcus(temperature=temperature),
    "paced": lambda temperature=0.5: jaxsel.paced(jaxsel.kalman(), temperature=temperature),
}


@pytest.mark.parametrize("name", EQUAL)
def test_selectors_with_equal_settings_share_compiled_functions(name):
    first, second, other = (jaxsel.PromptSelector(EQUAL[name](*given), num_prompts=N) for given in ((), (), (0.25,)))
    assert first._chooser._select is second._chooser._select is not other._chooser._select
    for part in ("_predict", "_update", "_preview"):
        assert getattr(first._belief, part) is getattr(second._belief, part)


def test_a_changed_spec_is_no_one_elses():
    mine = jaxsel.thompson(0.3)
    mine.spec["name"] = "mine"
    assert jaxsel.thompson(0.3).spec["name"] == "thompson"


@pytest.mark.slow
def test_compiled_functions_are_freed_after_other_settings():
    method = jaxsel.mopps(decay=0.99)
    freed = weakref.ref(method.select)
    used(method)
    del method
    for decay in range(8):
        jaxsel.mopps(decay=decay / 8 + 0.01)
    gc.collect()
    assert freed() is None


@pytest.mark.slow
def test_the_arrays_of_a_user_are_freed_with_their_selector():
    embeddings, noise = EMBEDDINGS.copy(), np.ones(N, np.float32)
    scores = jaxsel.Acquisition({"name": "mine"}, lambda prediction, noise=noise: prediction.draw * noise[0])
    methods = [jaxsel.adaptive(embeddings), jaxsel.gps(embeddings, **TINY), jaxsel.mopps(acquisition=scores)]
    methods.append(jaxsel.exploring(methods[2]))
    selectors = [jaxsel.PromptSelector(method, num_prompts=N) for method in methods]
    selectors += [used(methods[2]), used(methods[3])]
    sharded = [jaxsel.shard(method, jaxsel.prompts_mesh(), N) for method in methods]
    assert sharded[0].select is jaxsel.shard(methods[0], jaxsel.prompts_mesh(), N).select  # compiled once
    selectors += [jaxsel.PromptSelector(method, num_prompts=N) for method in sharded[:2]] + [used(sharded[2])]
    freed = [weakref.ref(array) for array in (embeddings, noise)]
    del embeddings, noise, scores, methods, sharded, selectors
    gc.collect()
    assert [reference() for reference in freed] == [None, None]


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
