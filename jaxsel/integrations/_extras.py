"""Imports of optional packages: the error about a missing package names the extra that installs it."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Replace the error of a failed import inside the `with` block.

    Args:
        name: The extra that installs the imported packages.

    Raises:
        ImportError: A package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing(error.name or str(error), name) from error


def missing(package: str, extra: str) -> ImportError:
    """Return the error for a package that is not installed."""
    return ImportError(f'{package} is not installed; pip install "jaxsel[{extra}]"', name=package)
