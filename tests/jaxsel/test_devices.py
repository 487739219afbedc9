"""The forms for a GPU: the same values as the forms for a CPU, and nothing in them that CUDA lacks."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsel
from jaxsel.numerics import devices, largest, random
from jaxsel.predictors.hidden_markov import filtering, one_pass

N, BATCH = 2_100, 16  # more than one block of the kernel, and no multiple of it
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
EMBEDDINGS = RNG.normal(size=(N, 4)).astype(np.float16)
SMALL_GPS: dict[str, Any] = {"width": 4, "num_heads": 1, "context_size": BATCH}
METHODS = {
    "uniform": jaxsel.uniform,
    "threshold": jaxsel.threshold,
    "mopps": jaxsel.mopps,
    "dps": jaxsel.dps,
    "adaptive": lambda: jaxsel.adaptive(EMBEDDINGS),
    "gps": lambda: jaxsel.gps(EMBEDDINGS, **SMALL_GPS),
    "kalman": lambda: jaxsel.make_selector(
        jaxsel.kalman(), jaxsel.mixed_near_target(log=True), jaxsel.gumbel_top_k(0.3), method="kalman"
    ),
    "expected_signal": lambda: jaxsel.make_selector(
        jaxsel.beta_bernoulli(), jaxsel.expected_signal(), jaxsel.top_k(), method="signal"
    ),
    "recalibrated": lambda: jaxsel.make_selector(
        jaxsel.recalibrated(jaxsel.beta_bernoulli()), jaxsel.expected_variance(), jaxsel.top_k(), method="corrected"
    ),
    "exploring": lambda: jaxsel.exploring(jaxsel.mopps(), share=0.2),
    "stratified": lambda: jaxsel.make_selector(
        jaxsel.beta_bernoulli(),
        jaxsel.expected_variance(),
        jaxsel.stratified(jaxsel.top_k(), np.arange(N) % 3),
        method="quotas",
    ),
    "arcus": lambda: jaxsel.arcus(),
    "paced": lambda: jaxsel.paced(jaxsel.kalman()),
    "diverse adaptive": lambda: jaxsel.adaptive(EMBEDDINGS, rule=jaxsel.diverse(anchor_batches=0)),
    "screened adaptive": lambda: jaxsel.adaptive(EMBEDDINGS, screened=0.2),
    "screened gps": lambda: jaxsel.gps(EMBEDDINGS, screened=0.2, **SMALL_GPS),
}
SLOW = ("gps", "screened gps")


@pytest.fixture
def for_a_gpu(monkeypatch):
    """Trace functions in the form for a GPU; their compiled forms for a CPU are forgotten before and after."""
    jax.clear_caches()
    monkeypatch.setattr(devices, "for_a_cpu", lambda: False)
    monkeypatch.setattr(one_pass, "_supported", lambda: True)
    yield
    jax.clear_caches()


def an_abstract_gpu() -> contextlib.AbstractContextManager[Any]:
    """Return a context with a GPU, of which JAX asks for the kind since version 0.12 to lower a Pallas kernel."""
    if jax.__version_info__ < (0, 12):
        return contextlib.nullcontext()
    gpu = jax.sharding.AbstractDevice("NVIDIA H100 80GB HBM3", 132, "gpu")
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((1,), ("x",), abstract_device=gpu))


def rollouts(seed: int = 0) -> jaxsel.Rollouts:
    """Return a batch with one prompt twice, one without rollouts, and the first and the last prompt of the pool."""
    rng = np.random.default_rng(seed)
    ids = np.concatenate([[0, N - 1, 7, 7], rng.choice(np.arange(8, N - 1), BATCH - 4, replace=False)])
    sizes = np.where(np.arange(BATCH) == 5, 0, 4)
    return jaxsel.Rollouts(*(jnp.asarray(x, jnp.int32) for x in (ids, rng.integers(0, sizes + 1), sizes)))


@pytest.mark.parametrize("method", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in METHODS])
def test_every_kernel_is_lowered_for_cuda(method, for_a_gpu):
    selector = METHODS[method]()
    state = jax.eval_shape(lambda key: selector.init(key, N), KEY)
    batch = rollouts()
    with an_abstract_gpu():
        calls = {
            "update": jax.jit(selector.update, donate_argnums=1).trace(KEY, state, batch),
            "select": jax.jit(selector.select, static_argnums=2).trace(KEY, state, BATCH),
            "predict": jax.jit(selector.predict, static_argnums=2).trace(KEY, state, None),
        }
        programs = {name: call.lower(lowering_platforms=("cuda",)).as_text() for name, call in calls.items()}
    assert all("func.func public @main" in program for program in programs.values())
    assert ("xla.gpu.triton" in programs["update"]) == (method == "dps")
    # a GPU would round the sums of information to 11 bits otherwise
    assert ("HIGHEST" in programs["update"]) == ("adaptive" in method)


def test_the_kernel_of_dps_returns_what_two_passes_return(monkeypatch):
    prior = np.array([[3.0, 0.5, 0.2], [1.0, 2.0, 4.0], [0.1, 0.1, 9.0]])
    model = jaxsel.hidden_markov(prior_counts=prior, initial_belief=[0.5, 0.3, 0.2])
    by_form = []
    for interpret in (False, True):
        if interpret:
            monkeypatch.setattr(
                filtering, "in_two_passes", lambda *args: filtering.condition_and_predict(*args, interpret=True)
            )
        update = jax.jit(lambda state, visits: filtering.update(state, visits, jnp.float32(0.01)))
        state = model.init(KEY, N)
        for step in range(6):  # at this decay the counts are rescaled on the way
            state = update(state, rollouts(step))
        by_form.append(state)
    jax.tree.map(np.testing.assert_array_equal, *by_form)


def test_draws_and_the_kth_largest_do_not_depend_on_the_form(for_a_gpu, monkeypatch):
    a, b = (jnp.asarray(RNG.uniform(0.02, 3, 40_000), jnp.float32) for _ in range(2))
    on_gpu = random.beta(KEY, a, b), largest.kth_largest(a, 17)
    monkeypatch.setattr(devices, "for_a_cpu", lambda: True)
    jax.clear_caches()
    jax.tree.map(np.testing.assert_array_equal, on_gpu, (random.beta(KEY, a, b), largest.kth_largest(a, 17)))


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="JAX sees no GPU")
@pytest.mark.parametrize("method", ["uniform", "threshold", "mopps", "dps"])
def test_a_gpu_chooses_and_predicts_as_a_cpu(method):
    selector = METHODS[method]()
    found = []
    for device in (jax.devices()[0], jax.devices("cpu")[0]):
        with jax.default_device(device):
            state = selector.init(KEY, N)
            for step in range(3):
                state = jax.jit(selector.update)(KEY, state, rollouts(step))
            chosen = jax.jit(selector.select, static_argnums=2)(KEY, state, BATCH)
            predicted = jax.jit(selector.predict, static_argnums=2)(KEY, state, None)
            found.append(jax.tree.map(np.asarray, (chosen.prompt_ids, predicted)))
    assert set(found[0][0]) == set(found[1][0])
    jax.tree.map(lambda gpu, cpu: np.testing.assert_allclose(gpu, cpu, atol=1e-5), found[0][1], found[1][1])
