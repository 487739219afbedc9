"""Modules import only what they may: the layers of jaxsel point one way, and jaxsel imports no rl or experiments."""

import ast
import functools
import graphlib
import inspect
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PREDICTORS = tuple(f"jaxsel.predictors.{name}" for name in ("beta", "hidden_markov", "amortized", "state_space"))
PUBLIC = ("metrics", "plotting", "reference_models", "replay", "simulate")
ADAPTERS = ("prime_rl", "ray", "slime", "tinker", "trinity", "trl", "tunix", "verl")
INTEGRATIONS = tuple(
    f"integrations.{name}" for name in ("arviz", "edge", "embeddings", "history", "trainer_logs", *ADAPTERS)
)
# Of the packages in OTHERS, jaxsel.integrations may import all but those in NEVER. Other parts of jaxsel import none.
OTHERS = {"torch", "trinity", "trl", "tunix", "verl", "ray", "vllm", "transformers", "datasets", "rl", "experiments"}
OTHERS |= {"accelerate", "arviz_base", "arviz_stats", "xarray", "pyarrow", "tqdm", "wordllama", "sentence_transformers"}
NEVER = {"torch", "datasets", "rl", "experiments"}
# A part of jaxsel imports from the parts above it in this list, and from no other.
LAYERS = (
    {"base", "_validate", "numerics"},
    {"_rows", "_shared", "_visits"},
    {"_inner"},
    {"predictors", "selection"},
    {"methods"},
    {"runtime"},
    {"evaluation"},
    {"simulation"},
    {"integrations"},
    set(PUBLIC),
    {"report"},
    {""},
)
LAYER = {part: number for number, layer in enumerate(LAYERS) for part in layer}


def files(package: str) -> list[Path]:
    folder = ROOT / package
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def imports(path: Path) -> tuple[str, ...]:
    """Return all imports of the file, also inside functions: `import a.b` and `from a import b` both give a.b."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return tuple(found)


@functools.cache
def known_modules(package: str) -> set[str]:
    return {module_name(file) for file in files(package)}


@functools.cache
def modules(path: Path, package: str) -> set[str]:
    """Return the modules of `package` that the file imports."""
    known = known_modules(package)
    found = set()
    for name in imports(path):
        while name and name not in known:
            name = name.rpartition(".")[0]
        found |= {name} - {""}
    return found


def part(name: str) -> str:
    """Return the package or file directly below jaxsel that holds the module; the root itself is ''."""
    return [*name.split("."), ""][1]


def top_levels(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def test_only_integrations_import_trainers_and_data_formats():
    for path in files("jaxsel"):
        is_integration = part(module_name(path)) == "integrations"
        assert not top_levels(path) & (NEVER if is_integration else OTHERS), path


def test_parts_of_jaxsel_import_only_lower_layers():
    for path in files("jaxsel"):
        name = module_name(path)
        assert part(name) in LAYER, f"{name} has no place in the layers of this test"
        for other in modules(path, "jaxsel"):
            is_inside = part(other) == part(name) and part(name) not in PUBLIC
            assert is_inside or LAYER[part(other)] < LAYER[part(name)], f"{name} imports {other}"


def test_predictors_never_import_each_other():
    for path in (path for name in PREDICTORS for path in files(name.replace(".", "/"))):
        others = tuple(name for name in PREDICTORS if not module_name(path).startswith(name))
        assert not [other for other in modules(path, "jaxsel") if other.startswith(others)], path


def test_imports_have_no_cycle():
    graph = {module_name(path): modules(path, "jaxsel") for path in files("jaxsel")}
    graphlib.TopologicalSorter(graph).prepare()  # raises if there is a cycle


@pytest.mark.parametrize("name", PUBLIC)
def test_public_modules_only_reexport(name):
    statements = ast.parse((ROOT / "jaxsel" / f"{name}.py").read_text()).body
    assert ast.get_docstring(ast.Module(statements, []))
    assert all(isinstance(statement, ast.ImportFrom) for statement in statements[1:])


@pytest.mark.parametrize("name", ["jaxsel", *(f"jaxsel.{name}" for name in (*PUBLIC, *INTEGRATIONS))])
def test_all_public_names_are_documented(name):
    module = pytest.importorskip(name, exc_type=ImportError)  # an integration may need an extra
    names = {key: value for key, value in vars(module).items() if not key.startswith("_") and callable(value)}
    public = [value for value in names.values() if value.__module__.startswith("jaxsel")]
    assert public
    for value in public:
        own = (
            [inspect.unwrap(member) for key, member in vars(value).items() if not key.startswith("_")]
            if inspect.isclass(value)
            else []
        )
        for member in [value, *(member for member in own if inspect.isfunction(member))]:
            assert member.__doc__, f"{name}: {member.__qualname__} has no docstring"


def test_only_plotting_draws():
    for path in files("jaxsel"):
        name = module_name(path)
        if not name.startswith("jaxsel.report"):
            assert not top_levels(path) & {"altair", "vl_convert"}, name
        if not name.startswith(("jaxsel.plotting", "jaxsel.evaluation.plotting")):
            assert "matplotlib" not in top_levels(path), name
            drawn = {"jaxsel.evaluation.plotting.looks"} if name.startswith("jaxsel.report.charts") else set()
            assert not {other for other in modules(path, "jaxsel") if "plotting" in other} - drawn, name


def test_only_the_handoff_of_rl_imports_jax():
    for path in files("rl"):
        imported = top_levels(path)
        assert "experiments" not in imported, path
        if module_name(path) != "rl.handoff":
            assert not imported & {"jax", "jaxlib", "flax", "optax"}, path


def test_only_checkpoints_and_integrations_touch_files():
    disk = ("jaxsel.runtime.checkpoint.folder", "jaxsel.runtime.checkpoint.disk")
    for path in files("jaxsel"):
        if module_name(path) not in disk and part(module_name(path)) != "integrations":
            assert_touches_no_file(path)


def assert_touches_no_file(path: Path) -> None:
    touching = {"open", "read_text", "read_bytes", "write_text", "write_bytes", "mkdir", "unlink", "rename"}
    touching |= {"save", "savez", "load", "tofile", "fromfile", "memmap", "makedirs"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            # triton.load reads an array in a kernel
            is_allowed = isinstance(called, ast.Attribute) and ast.unparse(called.value) in ("folder", "triton")
            assert name not in touching or is_allowed, f"{path}:{node.lineno} calls {name}"
    touching = {"os", "shutil", "tempfile", "orbax", "io"}
    used = {name for name in imports(path) if name.partition(".")[0] in touching}
    assert not used - {"os.environ", "os.getpid"}, path


def test_our_own_code_does_not_import_moved_names():
    moved = ("rl.history.", "rl.logs.", "rl.embeddings.")
    for path in (*files("rl"), *files("experiments"), *files("tests")):
        assert not [name for name in imports(path) if f"{name}.".startswith(moved)], path


def test_functions_and_files_stay_small():
    """A function has at most 60 lines beside its docstring, and a file of jaxsel or rl at most 300 in all."""
    for package in ("jaxsel", "rl", "experiments"):
        for path in files(package):
            source = path.read_text()
            assert package == "experiments" or source.count("\n") <= 300, path
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.FunctionDef):
                    docstring = (ast.get_docstring(node, clean=False) or "").splitlines()
                    assert node.end_lineno is not None
                    assert node.end_lineno - node.lineno + 1 - len(docstring) <= 60, f"{path}: {node.name}"
