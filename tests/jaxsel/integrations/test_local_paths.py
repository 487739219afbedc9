"""Paths of files and folders: `~` is the home folder everywhere, and addresses of remote stores become no folders."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import jaxsel
from jaxsel.integrations import ray
from jaxsel.integrations.cache import cache_root
from jaxsel.integrations.edge import TrainerEdge
from jaxsel.integrations.embeddings import Embedder, embed
from jaxsel.integrations.history import read_history
from jaxsel.integrations.slime import SlimeSource
from jaxsel.integrations.tunix import SelectedPrompts

ONES = Embedder("ones", lambda texts: np.ones((len(texts), 2), np.float32))


def edge(**options):
    return TrainerEdge(jaxsel.PromptSelector(jaxsel.uniform(), num_prompts=3, seed=0, track_in_flight=True), **options)


def save_and_load(path):
    edge().save(path)
    edge().load(path)


def record(path):
    recorded = edge(history=path)
    recorded.observe(recorded.next_batch(2), np.ones((2, 2)))
    recorded.flush()
    assert len(read_history(path).history.prompt_ids) == 2


def cached(path):
    embed(["a", "b"], embedder=ONES, cache=Path(path), progress=False)


def slime_source(path):
    samples: list[Any] = [SimpleNamespace(group_index=None, index=None, metadata={}, reward=None) for _ in range(3)]
    source = SlimeSource(samples, edge(), group_size=2, folder=path)
    source.save(0)
    source.load(0)


def tunix_prompts(path):
    rows = [{"prompts": str(i)} for i in range(3)]
    folder = SelectedPrompts(rows, 2, jaxsel.uniform(), state_folder=path)._folder
    assert folder is not None
    folder.mkdir()


USES = {
    "a saved edge": save_and_load,
    "a history": record,
    "a server": lambda path: Path(ray._absolute(path, "folder")).mkdir(),
    "cached embeddings": cached,
    "slime": slime_source,
    "tunix": tunix_prompts,
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "home"
    assert os.listdir(tmp_path / "here") == []


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_tilde_is_the_home_folder(home, use):
    use("~/mine")
    assert os.listdir(home) == ["mine"]


@pytest.mark.parametrize("path", ["s3://bucket/mine", Path("gs://bucket/mine")])
@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_an_address_is_refused_with_the_name_of_the_argument(use, path):
    with pytest.raises(ValueError, match=r"^\w+ is (s3|gs):.*, which is not on this machine; give a local path"):
        use(path)


def test_the_folder_of_the_cache(home, monkeypatch):
    monkeypatch.delenv("JAXSEL_CACHE", raising=False)
    assert cache_root() == home / ".cache" / "jaxsel"
    monkeypatch.setenv("JAXSEL_CACHE", "~/mine")
    assert cache_root() == home / "mine"
    monkeypatch.setenv("JAXSEL_CACHE", "s3://bucket/mine")
    with pytest.raises(ValueError, match="JAXSEL_CACHE is s3://bucket/mine, which is not on this machine"):
        cache_root()
