"""Checks that a checkpoint fits the selector that reads it: the same pool, method, hyperparameters and shapes."""

import warnings
from typing import Any

import numpy as np

from jaxsel.runtime.checkpoint import earlier_dps_layout
from jaxsel.runtime.checkpoint.arrays import decoded

FORMAT = 3  # in which the specs of predictor, acquisition and rule are nested in the spec of the method
_READABLE = (2, FORMAT)
# arguments that earlier versions lacked, and what they had instead
_ADDED = {"prior_alpha": 1.0, "prior_beta": 1.0, "frozen": False}
_ENTRIES = {"format": int, "spec": dict, "pool": str, "shapes": dict, "seed": int, "counters": dict}


def readable(saved: Any) -> dict[str, Any]:
    """Return the given metadata of a checkpoint if this version can read them.

    Raises:
        ValueError: The metadata have another format, or are not metadata of a selector.
    """
    known = isinstance(saved, dict) and all(isinstance(saved.get(name), kind) for name, kind in _ENTRIES.items())
    if not known or saved["format"] not in _READABLE:
        given = f"format {saved.get('format')} with {sorted(saved)}" if isinstance(saved, dict) else repr(saved)
        raise ValueError(
            f"the checkpoint has {given}; this version reads the formats {_READABLE} with {sorted(_ENTRIES)}: "
            "give what PromptSelector wrote"
        )
    _check_numbers(saved["seed"], saved["counters"])
    return saved


def _check_numbers(seed: int, counters: dict[str, Any]) -> None:
    """Check the seed and the counters, so that a selector does not stop in the middle of taking them over.

    Raises:
        ValueError: The seed is out of its range, or a counter is missing or is not an integer of at least 0.
    """
    needed = {"selects": None, "observes": None} | counters
    are_right = all(isinstance(value, int) and value >= 0 for value in needed.values())
    if not are_right or not 0 <= seed < 2**32:
        given = f"the seed {seed} and the counters {counters}"
        raise ValueError(f"the checkpoint has {given}; give what PromptSelector wrote")


def check(saved: dict[str, Any], here: dict[str, Any]) -> None:
    """Compare the metadata of a checkpoint with the metadata of the selector that reads it.

    Raises:
        ValueError: The checkpoint has another format, pool or method, other hyperparameters, or arrays of other shapes.
    """
    readable(saved)
    if not same_pool(saved, here["pool"]):
        raise ValueError(
            f"the checkpoint is of another pool ({saved['pool']}, here {here['pool']}); give the same keys in the same "
            "order, or ask for a changed pool with load(path, keys=...), with load_state_dict(..., changed_pool=True) "
            "or with with_pool"
        )
    check_method(saved, here)
    different = _differences(earlier_dps_layout.shapes_as_here(saved["shapes"], here["shapes"]), here["shapes"])
    if different:
        raise ValueError(f"the checkpoint holds arrays of other shapes ({different}); give what this version saved")


def check_method(saved: dict[str, Any], here: dict[str, Any], *, other_pool: bool = False) -> None:
    """Compare the specs of a checkpoint and of the selector that reads it.

    Args:
        saved: Metadata of the checkpoint.
        here: Metadata of the selector.
        other_pool: Whether fingerprints of arrays may differ, because an array with one entry per prompt differs
            between pools.

    Raises:
        ValueError: The method or its hyperparameters differ.
    """
    specs = [saved["spec"], here["spec"]]
    if saved["format"] == 2:
        specs = [_side_by_side(spec) for spec in specs]
    different = _differences(*specs, but_fingerprints=other_pool)
    if different:
        raise ValueError(f"the checkpoint is of another method or other hyperparameters ({different}); give the same")


def checked_arrays(state_dict: dict[str, Any], here: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the arrays of a `state_dict`, for the selector with the metadata `here`.

    Raises:
        ValueError: The argument is not a state_dict, its arrays have unexpected shapes, or `check` fails.
    """
    check(metadata_in(state_dict), here)
    arrays = _decoded(state_dict)
    shapes = earlier_dps_layout.shapes_as_here({name: array.shape for name, array in arrays.items()}, here["shapes"])
    given, expected = ({name: tuple(shape) for name, shape in held.items()} for held in (shapes, here["shapes"]))
    if given != expected:
        raise ValueError(f"state_dict holds arrays of shapes {given}; this selector has {expected}")
    return earlier_dps_layout.arrays_as_here(arrays, here["shapes"])


def own_arrays(state_dict: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the arrays of a `state_dict`, which may be of another pool than the selector's.

    Raises:
        ValueError: The argument is not a state_dict, or its arrays have other shapes than its metadata say.
    """
    said = {name: tuple(shape) for name, shape in metadata_in(state_dict)["shapes"].items()}
    arrays = _decoded(state_dict)
    shapes = {name: array.shape for name, array in arrays.items()}
    if shapes != said:
        raise ValueError(f"state_dict holds arrays of shapes {shapes}, and its metadata say {said}")
    return arrays


def metadata_in(state_dict: Any) -> dict[str, Any]:
    """Return the metadata of a `state_dict` if this version can read them.

    Raises:
        ValueError: The argument is not a state_dict, or its metadata are not those of a selector.
    """
    if not isinstance(state_dict, dict) or state_dict.keys() != {"arrays", "metadata"}:
        given = f"the keys {list(state_dict)}" if isinstance(state_dict, dict) else f"type {type(state_dict).__name__}"
        raise ValueError(f"state_dict has {given}; give what state_dict() returned")
    return readable(state_dict["metadata"])


def _decoded(state_dict: dict[str, Any]) -> dict[str, np.ndarray]:
    if not isinstance(state_dict["arrays"], dict):
        raise ValueError(f"arrays is of type {type(state_dict['arrays']).__name__}; give what state_dict() returned")
    return {name: decoded(name, array) for name, array in state_dict["arrays"].items()}


def same_pool(saved: dict[str, Any], here: str) -> bool:
    """Return whether the pools are the same. In format 2 a fingerprint lacks the second digest that some pools have."""
    return saved["pool"] == here or (saved["format"] == 2 and here.startswith(f"{saved['pool']}+"))


def check_in_new_order(saved: dict[str, Any], here: dict[str, Any], *, given: bool) -> None:
    """Check that a pool with other prompts, or in another order, has no array of the saved pool's method.

    Arrays have one entry per prompt. Equal priors or strata of a given method are warned of: their entries may be the
    same in both orders.

    Args:
        saved: Spec of the saved method.
        here: Spec of the method for the new pool.
        given: Whether the user gave a method for the new pool.

    Raises:
        ValueError: No method was given, and the saved one has such an array; or the embeddings are the saved ones.
    """
    before = _flat(saved)
    same = [name for name, value in _flat(here).items() if _is_fingerprint(value) and before.get(name) == value]
    if not same:
        return
    if not given:
        raise ValueError(
            f"selector is None, but {', '.join(same)} has one entry per prompt, in the order of the old pool; give "
            "the method made for the new pool"
        )
    said = (
        f"{', '.join(same)} is the array of the saved pool, whose prompts had another order; give one entry per prompt"
    )
    if any(name.endswith("embeddings") for name in same):
        raise ValueError(f"{said} in the order of this pool's keys")
    warnings.warn(f"{said} in the order of this pool's keys, if they are not the same", stacklevel=5)


def _side_by_side(spec: dict[str, Any]) -> dict[str, Any]:
    """Return a spec in format 2, where the arguments of predictor, acquisition and rule are not nested."""
    flat = {name: value for name, value in spec.items() if not isinstance(value, dict)}
    for part in ("predictor", "acquisition", "rule"):
        if isinstance(spec.get(part), dict):
            flat |= _part_side_by_side(part, spec[part])
    return flat


def _part_side_by_side(part: str, spec: dict[str, Any]) -> dict[str, Any]:
    flat = {part if name == "name" else name: value for name, value in spec.items() if name != "predictor"}
    if isinstance(spec.get("predictor"), dict):  # recalibrated
        flat["inner"] = _part_side_by_side("predictor", spec["predictor"])
    if spec.get("name") == "diverse" and "weight" in flat:
        flat["diversity_weight"] = flat.pop("weight")
    return flat


def _differences(saved: dict[str, Any], here: dict[str, Any], *, but_fingerprints: bool = False) -> str:
    saved, here = _flat(saved), _flat(here)
    added = {name: _ADDED[name.rpartition(".")[2]] for name in here if name.rpartition(".")[2] in _ADDED}
    saved = added | saved
    names = sorted(name for name in saved.keys() | here.keys() if saved.get(name) != here.get(name))
    if but_fingerprints:
        names = [name for name in names if not all(_is_fingerprint(side.get(name)) for side in (saved, here))]
    return ", ".join(f"{name}: saved {saved.get(name)!r}, here {here.get(name)!r}" for name in names)


def _is_fingerprint(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("sha256:")


def _flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return every entry by its path, for example `predictor.decay`."""
    flat = {}
    for name, value in nested.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
