"""Fixtures of the tests with real trainers."""

import pytest


@pytest.fixture(scope="session")
def ray_and_transfer_queue():
    """Start Ray and verl's TransferQueue once for all files. Starting takes ten seconds."""
    from tests.support.tiny_verl import start, stop

    start()
    yield
    stop()
