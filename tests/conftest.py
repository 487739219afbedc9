"""Settings of all tests. Every call of a jaxsel function is checked against its annotated shapes and types."""

import os
from collections.abc import Iterator

# Set before torch is imported, also for the processes that tests start: tiny tensors gain nothing from more threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import jax
import jaxtyping
import pytest

try:
    import tests.support.typechecker  # noqa: F401  (jaxtyping's import hook looks it up by name)

    # The hook must exist before anything imports jaxsel.
    jaxtyping.install_import_hook("jaxsel", "tests.support.typechecker.check")
except ImportError:  # `make gpu` installs nothing, so that beartype may be missing
    pass

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)  # for meshes; all other computations run on the first device


def pytest_configure(config: pytest.Config) -> None:
    """Cache the programs that XLA compiles, for all files, workers and runs; `pytest --cache-clear` deletes them."""
    cache = getattr(config, "cache", None)  # there is none with `-p no:cacheprovider`
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
    """Switch the checks of annotations off, to test the errors that users get for a wrong type."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def on_cpu() -> Iterator[None]:
    """Run on the CPU, which can simulate the devices of a mesh."""
    with jax.default_device(jax.devices("cpu")[0]):
        yield


@pytest.fixture(scope="module", autouse=True)
def _free_compiled_code():
    """Free the compiled code after each file: all of it together needs more memory mappings than a process may have."""
    yield
    jax.clear_caches()
