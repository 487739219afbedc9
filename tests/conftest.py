"""Shapes, types and ranks are part of what is tested: every annotation of jaxsel is checked at every call."""

import os
from collections.abc import Iterator

# Before torch is imported, here and in the processes that tests start: tiny tensors gain nothing from more threads
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import jax
import jaxtyping
import pytest

try:
    import tests.support.typechecker  # noqa: F401  (the hook looks it up by name)

    # Before anything imports jaxsel.
    jaxtyping.install_import_hook("jaxsel", "tests.support.typechecker.check")
except ImportError:  # no beartype: a machine with a GPU, where `make gpu` installs nothing
    pass

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)  # for meshes; all else runs on the first


def pytest_configure(config: pytest.Config) -> None:
    """Keeps what XLA compiles between files, workers and runs; `pytest --cache-clear` forgets it."""
    cache = getattr(config, "cache", None)  # `-p no:cacheprovider` has none
    if cache is None or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    jax.config.update("jax_compilation_cache_dir", str(cache.mkdir("xla")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


hypothesis.settings.register_profile(
    "jaxsel",
    derandomize=True,
    deadline=None,
    max_examples=30,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("jaxsel")


@pytest.fixture
def unchecked_types() -> Iterator[None]:
    """Switches the checks of annotations off, to see what users get who give a wrong type."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def on_cpu() -> Iterator[None]:
    """Everything on the CPU, where a mesh can be pretended."""
    with jax.default_device(jax.devices("cpu")[0]):
        yield


@pytest.fixture(scope="module", autouse=True)
def _free_compiled_code():
    """Of each file's tests: what all of them compile together takes more memory mappings than a process may have."""
    yield
    jax.clear_caches()
