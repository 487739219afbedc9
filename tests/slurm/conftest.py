"""The lane `make slurm`: a real SLURM with two nodes, whose jobs get signals and are killed."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.local_cluster import VARIABLE


@pytest.fixture(scope="session", autouse=True)
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give all jobs a cache of their own; return a folder that all workers of pytest share."""
    if VARIABLE not in os.environ:
        pytest.skip("there is no local cluster; `make slurm` starts one and runs these tests")
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXSEL_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(autouse=True)
def apart(request: pytest.FixtureRequest, shared_folder: Path) -> Iterator[None]:
    """Let tests marked `slurm(alone=True)`, which kill nodes, run while no other test does."""
    alone = any(mark.kwargs.get("alone") for mark in request.node.iter_markers("slurm"))
    with (shared_folder / "nodes.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
