"""What a saved selector has to share with the one that goes on."""

from typing import Any

import numpy as np

FORMAT = 2


def check(saved: dict[str, Any], here: dict[str, Any]) -> None:
    """Compares the metadata of a checkpoint with those of the selector that reads it.

    Raises:
        ValueError: another format, another pool, another method, other hyperparameters, or arrays of other shapes.
    """
    if saved.get("format") != FORMAT or saved.keys() != here.keys():
        raise ValueError(
            f"the checkpoint has format {saved.get('format')} with {sorted(saved)}; this version reads "
            f"format {FORMAT} with {sorted(here)}"
        )
    if saved["pool"] != here["pool"]:
        raise ValueError(
            f"the checkpoint is of another pool ({saved['pool']}, here {here['pool']}); "
            "give the same keys in the same order"
        )
    different = _differences(saved["spec"], here["spec"])
    if different:
        raise ValueError(f"the checkpoint is of another method or other hyperparameters ({different}); give the same")
    different = _differences(saved["shapes"], here["shapes"])
    if different:
        raise ValueError(f"the checkpoint holds arrays of other shapes ({different}); give what this version saved")


def checked_arrays(state_dict: dict[str, Any], here: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a `state_dict`, for the selector with the metadata `here`.

    Raises:
        ValueError: see `check`; it is no state_dict, or its arrays are not of the shapes it says.
    """
    if state_dict.keys() != {"arrays", "metadata"}:
        raise ValueError(f"state_dict has the keys {list(state_dict)}; give what state_dict() returned")
    check(state_dict["metadata"], here)
    arrays = {name: np.asarray(array) for name, array in state_dict["arrays"].items()}
    given = {name: array.shape for name, array in arrays.items()}
    expected = {name: tuple(shape) for name, shape in here["shapes"].items()}
    if given != expected:
        raise ValueError(f"state_dict holds arrays of shapes {given}; this selector has {expected}")
    return arrays


def _differences(saved: dict[str, Any], here: dict[str, Any]) -> str:
    saved, here = _flat(saved), _flat(here)
    names = sorted(name for name in saved.keys() | here.keys() if saved.get(name) != here.get(name))
    return ", ".join(f"{name}: saved {saved.get(name)!r}, here {here.get(name)!r}" for name in names)


def _flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every entry under its path: `predictor.decay`."""
    flat = {}
    for name, value in nested.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
