"""The method `gps` on a mesh of devices: every device has the whole state and predicts a part of the pool."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsel
from jaxsel import PromptSelector
from tests.support.playing import choices, mesh_of
from tests.support.small_gps import GPS, NO_LATENT, N

pytestmark = [pytest.mark.usefixtures("on_cpu"), pytest.mark.slow]
KEY = jax.random.key(0)
STEPS, SOME = 6, [20, 3, 3, 0, 7, 8, 9, 10, 11]


METHODS = {"gps": GPS, "no latent": NO_LATENT}


def start(method: str, devices: int | None) -> PromptSelector:
    return PromptSelector(METHODS[method], num_prompts=N, seed=1, mesh=mesh_of(devices) if devices else None)


@functools.cache
def run(method: str, devices: int | None) -> tuple[list[list[int]], dict[str, Any], PromptSelector]:
    """Return the choices of a run, its last predictions, and its selector, which tests must not change."""
    selector = start(method, devices)
    chosen = choices(selector, STEPS)
    learnt = {"pool": selector.predict(), "some": selector.predict(SOME), "metrics": selector.metrics()}
    return chosen, learnt, selector


def assert_close(first: Any, second: Any) -> None:
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), first, second)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "devices"), [("gps", 2), ("no latent", 1), ("no latent", 4)])
def test_a_mesh_chooses_and_predicts_as_one_device(method, devices):
    """The runs are short, because training is chaotic: differences in rounding grow until choices differ."""
    (chosen, learnt, sharded), (expected, expected_learnt, plain) = run(method, devices), run(method, None)
    assert sharded.spec == plain.spec
    assert chosen == expected
    assert_close(learnt, expected_learnt)
    assert_close(learnt["some"], jax.tree.map(lambda field: field[SOME], learnt["pool"]))


def test_a_state_from_a_mesh_continues_on_one_device():
    _, learnt, sharded = run("gps", 2)
    restored, plain = PromptSelector(GPS, num_prompts=N), start("gps", None)
    restored.load_state_dict(sharded.state_dict())
    jax.tree.map(np.testing.assert_array_equal, restored.state_dict(), sharded.state_dict())
    assert_close(restored.predict(), learnt["pool"])
    assert choices(restored, 2) == choices(plain, STEPS + 2)[STEPS:]


def test_candidates_limit_the_choice_on_a_mesh():
    candidates = [3, 17, 5, 20, 8]
    selectors = [start("no latent", devices) for devices in (4, None)]
    for selector in selectors:
        choices(selector, 2)
    chosen, expected = (selector.select(4, candidates).tolist() for selector in selectors)
    assert chosen == expected
    assert set(chosen) <= set(candidates)


def test_the_whole_pool_is_predicted_by_parts():
    _, _, plain = run("no latent", None)
    sharded = jaxsel.shard(NO_LATENT, mesh_of(4), N)
    state = jax.tree.map(jnp.array, plain._belief.state)
    assert_close(jax.jit(sharded.predict)(KEY, state, None), jax.jit(NO_LATENT.predict)(KEY, state, None))


def test_shortlists_of_all_devices_suffice_for_the_choice():
    """A rule that considers only the best scores makes the same choice from a pool that is split."""
    rule = jaxsel.top_k()._replace(shortlist=lambda batch_size: 2 * batch_size)
    method = jaxsel.mopps(acquisition=jaxsel.target_success_rate(), rule=rule)
    chosen = [choices(PromptSelector(method, num_prompts=N, mesh=mesh)) for mesh in (mesh_of(4), None)]
    assert chosen[0] == chosen[1]


def test_a_predictor_without_embeddings_cannot_diversify_on_a_mesh():
    selector = PromptSelector(jaxsel.mopps(rule=jaxsel.diverse()), num_prompts=N, mesh=mesh_of(2))
    with pytest.raises(ValueError, match="the state BetaState lacks embeddings; give the rule diverse with amortized"):
        selector.select(4)
