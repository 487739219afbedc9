"""Dependencies point one way; the arrows are those of the picture in the documentation."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PREDICTORS = {"jaxsel.beta", "jaxsel.hmm", "jaxsel.amortized"}
# A file imports from lower layers, and private modules without a layer, which themselves know `base` alone.
LAYER = {
    "jaxsel.base": 0,
    "jaxsel.random": 0,
    "jaxsel.checkpoint": 0,
    "jaxsel.metrics": 1,
    "jaxsel.networks": 1,
    "jaxsel.beta": 2,
    "jaxsel.hmm": 2,
    "jaxsel.amortized": 2,
    "jaxsel.acquisition": 2,
    "jaxsel.allocation": 2,
    "jaxsel.recalibration": 2,
    "jaxsel.plotting": 2,
    "jaxsel.simulate": 3,
    "jaxsel.selection": 3,
    "jaxsel.methods": 4,
    "jaxsel.sharding": 4,
    "jaxsel._rebuild": 5,
    "jaxsel._selector_core": 6,
    "jaxsel.prompt_selector": 7,
    "jaxsel.replay": 8,
    "jaxsel.fitting": 9,
    "jaxsel.reference_models": 9,
    "jaxsel": 10,
}


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """All that the file imports, wherever in it: `import a.b` and `from a import b` are both a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules(path: Path, package: str) -> set[str]:
    """The modules of `package` that the file imports."""
    known = {module_name(file) for file in files(package)}
    found = set()
    for name in imports(path):
        while name and name not in known:
            name = name.rpartition(".")[0]
        found |= {name} - {""}
    return found


def is_leaf(name: str) -> bool:
    """A private module without a layer of its own."""
    return name.startswith("jaxsel._") and name not in LAYER


def top_levels(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", files("jaxsel"), ids=module_name)
def test_jaxsel_knows_no_trainer(path):
    assert not top_levels(path) & {"torch", "vllm", "transformers", "datasets", "rl", "experiments"}


@pytest.mark.parametrize("path", files("jaxsel"), ids=module_name)
def test_arrows_of_jaxsel_point_one_way(path):
    name, imported = module_name(path), modules(path, "jaxsel")
    if name in PREDICTORS:
        assert not imported & (PREDICTORS - {name}), "predictors never import each other"
    if is_leaf(name):
        assert all(other == "jaxsel.base" or is_leaf(other) for other in imported)
        return
    assert name in LAYER, f"{name} has no place in the layers of this test"
    for other in imported:
        assert is_leaf(other) or LAYER[other] < LAYER[name]


@pytest.mark.parametrize("path", files("jaxsel"), ids=module_name)
def test_only_plotting_draws(path):
    if module_name(path) != "jaxsel.plotting":
        assert "matplotlib" not in top_levels(path)
        assert "jaxsel.plotting" not in modules(path, "jaxsel")


@pytest.mark.parametrize("path", files("rl"), ids=module_name)
def test_torch_and_jax_meet_in_the_handoff_alone(path):
    imported = top_levels(path)
    assert "experiments" not in imported
    if module_name(path) != "rl.handoff":
        assert not imported & {"jax", "jaxlib", "flax", "optax"}


@pytest.mark.parametrize("path", files("jaxsel"), ids=module_name)
def test_only_checkpoints_touch_files(path):
    if module_name(path) in ("jaxsel.checkpoint", "jaxsel._disk"):
        return
    touching = {"open", "read_text", "read_bytes", "write_text", "write_bytes", "mkdir", "unlink", "rename"}
    touching |= {"save", "savez", "load", "tofile", "fromfile", "memmap", "makedirs"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            through_checkpoint = isinstance(called, ast.Attribute) and ast.unparse(called.value) == "checkpoint"
            assert name not in touching or through_checkpoint, f"{path}:{node.lineno} calls {name}"
    touching = {"os", "shutil", "tempfile", "orbax", "io"}
    assert not {name for name in imports(path) if name.partition(".")[0] in touching} - {"os.environ", "os.getpid"}
