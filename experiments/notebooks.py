"""Execute the notebooks from top to bottom, and print how many seconds each takes.

    python -m experiments.notebooks [NAME ...] [--out FOLDER] [--limit SECONDS]

The command writes the outputs into the notebooks, so that the committed outputs match their code; with --out, it writes
into another folder. It omits metadata such as times and versions, which differ from run to run. A notebook fails if a
cell fails or writes to stderr (warnings, progress bars), or if it takes longer than the limit of two minutes.
"""

import base64
import io
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

from experiments.running.command import module_parser, quiet_pipe

FOLDER = Path(__file__).parents[1] / "notebooks"


def execute(source: Path, target: Path, limit: float) -> float:
    """Run a notebook in its own folder with this interpreter, write it with its outputs, and return the seconds.

    Raises:
        RuntimeError: A cell failed or wrote to stderr, or the notebook took longer than `limit`. Nothing is written.
    """
    # The extra `notebooks` installs these packages.
    import nbformat  # pyright: ignore[reportMissingImports]
    from jupyter_client.kernelspec import KernelSpecManager  # pyright: ignore[reportMissingImports]
    from jupyter_client.manager import AsyncKernelManager  # pyright: ignore[reportMissingImports]
    from nbclient import NotebookClient  # pyright: ignore[reportMissingImports]
    from nbclient.exceptions import CellExecutionError, CellTimeoutError  # pyright: ignore[reportMissingImports]

    notebook = nbformat.read(source, as_version=4)
    for cell in notebook.cells:
        cell.metadata = {}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as sockets:
        # No folder is searched, because a kernel named python3 in a user's folder may belong to another interpreter.
        specs = KernelSpecManager(kernel_dirs=[])
        kernel = AsyncKernelManager(kernel_spec_manager=specs, transport="ipc", ip=f"{sockets}/kernel")
        resources = {"metadata": {"path": str(source.parent)}}
        client = NotebookClient(
            notebook, km=kernel, timeout=int(limit), record_timing=False, coalesce_streams=True, resources=resources
        )
        try:
            client.execute(cleanup_kc=True)
        except (CellExecutionError, CellTimeoutError) as error:
            raise RuntimeError(f"{source.name}: {error}") from error
    seconds = time.perf_counter() - start
    if seconds > limit:
        raise RuntimeError(f"{source.name} took {seconds:.0f} s; the limit is {limit:.0f} s")
    for said in complaints(notebook.cells):
        raise RuntimeError(f"{source.name} wrote to stderr: {said}")
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if "image/png" in output.get("data", {}):
            output["data"]["image/png"] = smaller(output["data"]["image/png"])
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.validate(notebook)
    nbformat.write(notebook, target)
    return seconds


def smaller(picture: str) -> str:
    """Return the same PNG in fewer bytes, both in base64: the pictures of Altair's charts are hardly compressed."""
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        image.save(written := io.BytesIO(), "PNG", optimize=True)
    made = base64.b64encode(written.getvalue()).decode()
    return min(made, picture, key=len)


def complaints(cells: list[dict[str, Any]]) -> list[str]:
    """Return the texts that the cells wrote to stderr."""
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return ["".join(output["text"]) for output in outputs if output.get("name") == "stderr"]


def main(arguments: list[str]) -> None:
    """Execute the named notebooks, or all of them, and print seconds."""
    parser = module_parser("experiments.notebooks", __doc__)
    parser.add_argument("names", nargs="*", help="notebooks such as 01_beta_posteriors_and_forgetting; default: all")
    parser.add_argument("--out", type=Path, help="folder to write to, instead of notebooks/")
    parser.add_argument("--limit", type=float, default=120, help="seconds per notebook; raise it on a busy machine")
    options = parser.parse_args(arguments)
    # numpyro imports tqdm. tqdm warns in every notebook if the package for widgets is not installed.
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"
    # a kernel starts in the folder of its notebook
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(FOLDER.parent), os.environ.get("PYTHONPATH")]))
    if "JAXSEL_PROBLEMS" in os.environ and Path(os.environ["JAXSEL_PROBLEMS"]).exists():
        os.environ["JAXSEL_PROBLEMS"] = str(Path(os.environ["JAXSEL_PROBLEMS"]).absolute())
    out = options.out or FOLDER
    out.mkdir(parents=True, exist_ok=True)
    known = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
    unknown = sorted(set(options.names) - set(known))
    if unknown:
        parser.error(f"there is no notebook {unknown[0]}; give one of {', '.join(known)}")
    failed = []
    for name in options.names or known:
        try:
            seconds = execute(FOLDER / f"{name}.ipynb", out / f"{name}.ipynb", options.limit)
            print(f"{seconds:5.1f} s  {name}", flush=True)
        except RuntimeError as error:
            failed.append(name)
            print(f" failed  {error}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
