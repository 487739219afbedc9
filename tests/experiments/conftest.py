"""A cache of compiled functions for the processes that these tests start. Later test runs use it too."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def shared_compilations(request: pytest.FixtureRequest) -> Iterator[None]:
    """Give new processes pytest's cache of compiled functions, unless the environment names another cache."""
    cache = getattr(request.config, "cache", None)  # None with `-p no:cacheprovider`
    with pytest.MonkeyPatch.context() as patch:
        if cache is not None and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
            patch.setenv("JAX_COMPILATION_CACHE_DIR", str(cache.mkdir("xla")))
            patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
        yield
