import jax
import pytest

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
