"""What all tests with the real verl share: their marks, and the check that verl is there. Imports no verl."""

import importlib.util

import pytest

MARKS = [
    pytest.mark.verl,
    pytest.mark.slow,
    # warnings of verl and of what it imports
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


def need_verl() -> None:
    """Skip the whole file in an environment without verl."""
    if importlib.util.find_spec("verl") is None or importlib.util.find_spec("transfer_queue") is None:
        pytest.skip("no verl in this environment; see `make verl`", allow_module_level=True)
