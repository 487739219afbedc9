import doctest
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import jaxsel

ROOT = Path(jaxsel.__file__).parent


def modules_with_examples() -> list[str]:
    sources = [path.relative_to(ROOT.parent) for path in sorted(ROOT.rglob("*.py")) if ">>>" in path.read_text()]
    return [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in sources]


def examples(name: str) -> Iterator[doctest.DocTest]:
    """Yield a module's examples, found by hand: the standard finder overlooks decorated functions."""
    if name.startswith(("jaxsel.integrations.", "jaxsel.report.")):  # it may need an extra
        pytest.importorskip(name, exc_type=ImportError)
    module = importlib.import_module(name)
    finder = doctest.DocTestFinder(recurse=False)
    owned = {f"{name}.{key}": value for key, value in vars(module).items() if inspect.getmodule(value) is module}
    for cls in [value for value in owned.values() if inspect.isclass(value)]:
        owned |= {f"{cls.__qualname__}.{key}": value for key, value in vars(cls).items() if callable(value)}
    for key, value in {name: module, **owned}.items():
        yield from finder.find(value, key, module=module, globs=vars(module).copy())


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_in_docstrings_run(name):
    for example in examples(name):
        result = doctest.DocTestRunner().run(example)
        assert result.failed == 0, example.name


def test_examples_are_found():
    assert any(example.examples for example in examples("jaxsel.runtime.prompt_selector"))
