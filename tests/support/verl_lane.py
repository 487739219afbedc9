"""What all tests with the real verl share: their marks, and whether verl is there. Imports no verl."""

import importlib.util

import pytest

MARKS = [
    pytest.mark.verl,
    pytest.mark.slow,
    # warnings of verl and of what it imports
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

HAS_VERL = all(importlib.util.find_spec(name) is not None for name in ("verl", "transfer_queue"))
NO_VERL = "no verl in this environment; see `make verl`"
