"""Settings of all tests. Every call of a jaxsel function is checked against its annotated shapes and types."""

import functools
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from typing import Any

# Set before torch is imported, also for the processes that tests start: tiny tensors gain nothing from more threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import jax
import jaxtyping
import pytest

# Without bytecode, every worker and every process that a test starts would compile all of this repository again: the
# rewritten assertions of the tests, and the checks of annotations. This takes a third of the time of the imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

try:
    import tests.support.typechecker  # noqa: F401  (jaxtyping's import hook looks it up by name)

    # The hook must exist before anything imports jaxsel.
    jaxtyping.install_import_hook("jaxsel", "tests.support.typechecker.check")
except ImportError:  # `make gpu` installs nothing, so that beartype may be missing
    pass

# Traces and compiled programs are millions of small objects that live long. With Python's own thresholds, the garbage
# collector goes through them so often that it takes a fifth of the time.
gc.set_threshold(50_000, 20, 20)

jax.config.update("jax_traceback_in_locations_limit", 0)  # lowering is quicker without the line of every operation
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)  # for meshes; all other computations run on the first device


# The tests compile thousands of small programs and call most of them once or twice. With these flags a program compiles
# in a quarter of the time. `XLA_FLAGS= make test` compiles as users do.
QUICK_COMPILATION = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1 --xla_cpu_max_isa=AVX"  # AVX: all programs round alike, without FMA
)


def pytest_configure(config: pytest.Config) -> None:
    """Compile quickly, and cache the compiled programs for all files, workers, processes of tests, and later runs.

    `pytest --cache-clear` deletes the programs.
    """
    if "XLA_FLAGS" not in os.environ:  # workers have the variables from the process that starts them
        os.environ["XLA_FLAGS"] = QUICK_COMPILATION if _runs_on_a_cpu_with(QUICK_COMPILATION) else ""
    if os.environ["XLA_FLAGS"] == QUICK_COMPILATION:
        _lower_in_one_context()
    cache = getattr(config, "cache", None)  # there is none with `-p no:cacheprovider`
    if cache is None or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache.mkdir("xla"))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    # JAX is imported already, and has read the variables
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import the tests without garbage collection. What was imported stays, and all later collections leave it out."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> object:
    runner: Any = item.config.pluginmanager.getplugin("runner")
    return _with_room(runner.pytest_runtest_protocol, item, nextitem)


def _with_room(function: Callable[..., object], *arguments: object) -> object:
    return function(*arguments)


# Python's stack of frames consists of chunks of 16 kB, and a chunk is given back to the system when its last call ends.
# Where a traced function is called again and again at the end of a chunk, every call pays for a new one: two of three
# page faults of the tests came from there. A frame of more than half a megabyte has a chunk of one, with room for many.
_with_room.__code__ = _with_room.__code__.replace(co_stacksize=70_000)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """Collect garbage once: pytest does so five more times, which go through new objects only."""
    gc.collect()
    gc.freeze()


def _runs_on_a_cpu_with(flags: str) -> bool:
    """Return whether JAX computes on a CPU and knows the flags. A process aborts at flags that XLA does not know."""
    program = "import jax, sys; sys.exit(jax.default_backend() != 'cpu')"
    environment = {**os.environ, "XLA_FLAGS": flags}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True).returncode == 0


def _lower_in_one_context() -> None:
    """Let JAX lower all programs in one MLIR context. By default, every program has one, which takes 3 ms to make.

    JAX has no public setting for this. A release without the private function lowers as by default.
    """
    from jax._src.interpreters import mlir

    if hasattr(mlir, "make_ir_context"):
        mlir.make_ir_context = functools.cache(mlir.make_ir_context)


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
def no_shared_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processes that a test starts compile everything, also their collective operations, as on a cluster."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)


@pytest.fixture
def on_cpu() -> Iterator[None]:
    """Run on the CPU, which can simulate the devices of a mesh."""
    with jax.default_device(jax.devices("cpu")[0]):
        yield


@pytest.fixture(autouse=True)
def _signals_are_given_back() -> Iterator[None]:
    """Fail in the test that leaves a handler of a signal behind, and not in a later one."""
    numbers = signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2
    before = [signal.getsignal(number) for number in numbers]
    yield
    after = [signal.getsignal(number) for number in numbers]
    for number, handler, left in zip(numbers, before, after, strict=True):
        if left != handler:
            signal.signal(number, handler)
    assert after == before


@pytest.fixture(scope="module", autouse=True)
def _free_compiled_code():
    """Free the compiled code after each file: all of it together needs more memory mappings than a process may have."""
    yield
    jax.clear_caches()
