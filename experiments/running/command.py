"""Parts that all commands of this folder use: a parser, and contexts for imports and for the main function."""

import argparse
import gc
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def module_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser for `python -m MODULE`; of a package, argparse would show only the name `__main__.py`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.register("type", Path, _local)
    return parser


def _local(text: str) -> Path:
    """Return the path of an option with `type=Path`."""
    from jaxsel.runtime.checkpoint.disk import local_path  # imports JAX, which --help does not need

    try:
        return local_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


class Distinct(argparse.Action):
    """The action of an option with several values, which refuses a repeated one: a seed counts once."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option=None
    ) -> None:
        """Keep the values."""
        for value in values:
            if values.count(value) > 1:
                parser.error(f"{option} holds {value} {values.count(value)} times; give every value once")
        setattr(namespace, self.dest, values)


def check_integers(parser: argparse.ArgumentParser, options: argparse.Namespace, **least: int) -> None:
    """End the command if an option is below its least value; an option that is None is not checked."""
    for name, smallest in least.items():
        value = getattr(options, name)
        if value is not None and value < smallest:
            parser.error(f"--{name.replace('_', '-')} is {value}; give an integer of at least {smallest}")


_OUR_PAGES = b'<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; script-src'
_HEAD = 1024  # bytes of a page that hold this line


def check_page(parser: argparse.ArgumentParser, path: Path) -> None:
    """End the command if `--out` is no name for a page, or the name of a file that neither `experiments.watch` nor
    `experiments.explore` wrote.
    """
    if path.suffix not in (".html", ".htm"):
        parser.error(f"--out is {path}; give the name of an HTML file, for example page.html")
    if path.is_dir() or (path.exists() and path.stat().st_size and _OUR_PAGES not in _head(path)):
        parser.error(f"--out is {path}, which exists and was not written by this command; give another name")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import without garbage collection, which takes a fifth of the time that torch, Transformers and JAX take.

    What was imported stays until the end of the process. Later collections leave it out too.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def quiet_pipe() -> Iterator[None]:
    """End without a traceback when the reader of the output has gone, as in `--help | head`."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        output = sys.stdout.fileno()
        if not _abandoned(output):
            raise  # another pipe broke
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)  # Python flushes the output once more when it ends
        sys.exit(0)


def _abandoned(descriptor: int) -> bool:
    """Return whether the reading end of a pipe is closed."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
