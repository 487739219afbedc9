"""Fixtures that several files of this folder share."""

import pytest


@pytest.fixture
def own_cache(monkeypatch, tmp_path_factory):
    """Give each test an empty cache."""
    monkeypatch.setenv("JAXSEL_CACHE", str(tmp_path_factory.mktemp("cache")))
