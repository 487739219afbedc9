"""One file with the state of a `TrainerEdge` (a selector and its waiting prompts): arrays as bytes, the rest as JSON.

The file is a .npz archive without pickles, so reading it runs no code. The archive has a checksum of every entry.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxsel.integrations.atomic_files import named, replaced_when_complete

_ABOUT = "about"
_CURE = "resume from an earlier checkpoint"


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Replace the file once the new one is complete on disk.

    Args:
        path: The file to write; its folder is made where it is missing.
        state: What `TrainerEdge.state_dict` returned.

    Raises:
        OSError: The disk is full, or fails otherwise. The file stays as it was.
    """
    arrays = state["selector"]["arrays"]
    shapes = {name: {"dtype": array["dtype"], "shape": array["shape"]} for name, array in arrays.items()}
    about = {**state, "selector": {**state["selector"], "arrays": shapes}}
    content: dict[str, Any] = {
        f"array {name}": np.frombuffer(array["data"], np.uint8) for name, array in arrays.items()
    }
    content[_ABOUT] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    with named(path, "nothing was saved"):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_when_complete(path) as file:
        np.savez(file, **content)


def is_state(path: Path) -> bool:
    """Return whether `write_state` wrote this file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return f"{_ABOUT}.npy" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def read_state(path: Path) -> dict[str, Any]:
    """Return the state that `write_state` was given.

    Raises:
        ValueError: The file does not exist, or it is damaged.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; {_CURE} that has this file, or start anew")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            content = {name: archive[name].tobytes() for name in archive.files}
        state = json.loads(content[_ABOUT])
        for name, array in state["selector"]["arrays"].items():
            array["data"] = content[f"array {name}"]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged ({error}); {_CURE}") from error
    return state
