import os
from pathlib import Path

import jax
import pytest
from jax._src.lru_cache import LRUCache

from experiments.running.compiled_programs import keep_compiled_programs

NAMES = ("compilation_cache_dir", "compilation_cache_max_size", "persistent_cache_min_compile_time_secs")


@pytest.fixture
def config(monkeypatch, tmp_path):
    """Undo what the test changes in JAX's settings, which all tests of a process share."""
    monkeypatch.setenv("JAXSEL_CACHE", str(tmp_path))
    before = {f"jax_{name}": getattr(jax.config, f"jax_{name}") for name in NAMES}
    yield jax.config
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_in_one_folder_per_kind_of_processor(config, tmp_path):
    config.update("jax_compilation_cache_dir", None)
    keep_compiled_programs()
    first = config.jax_compilation_cache_dir
    assert str(tmp_path / "programs") in first
    assert config.jax_compilation_cache_max_size == 2**30
    config.update("jax_compilation_cache_dir", None)
    keep_compiled_programs()
    assert config.jax_compilation_cache_dir == first


def test_a_folder_that_the_user_set_remains(config, tmp_path):
    config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    keep_compiled_programs()
    assert config.jax_compilation_cache_dir == str(tmp_path / "mine")


def test_a_program_without_a_time_of_use_is_deleted(config):
    config.update("jax_compilation_cache_dir", None)
    keep_compiled_programs()
    folder = Path(config.jax_compilation_cache_dir)
    cache = LRUCache(str(folder), max_size=2**20)
    cache.put("whole", b"program")
    (folder / "new-cache").write_bytes(b"another process writes its time of use next")
    (folder / "old-cache").write_bytes(b"half a progr")
    os.utime(folder / "old-cache", (0, 0))
    config.update("jax_compilation_cache_dir", None)
    keep_compiled_programs()
    assert {path.name for path in folder.glob("*-cache")} == {"whole-cache", "new-cache"}
    (folder / "new-atime").write_bytes(b"")
    cache.put("next", b"program")
    assert cache.get("whole") == cache.get("next") == b"program"
