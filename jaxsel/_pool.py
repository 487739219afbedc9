"""Which pool a selector belongs to."""

import hashlib
from collections.abc import Sequence

import numpy as np

from jaxsel import _validate

Keys = Sequence[str] | Sequence[int] | np.ndarray


def identify_pool(keys: Keys | None, num_prompts: int | None) -> tuple[int, str]:
    """The size of the pool, and a fingerprint of its keys.

    Raises:
        ValueError: not exactly one of the two, keys that are no vector of distinct strings or integers, or no prompts.
    """
    if keys is not None and num_prompts is None:
        return _fingerprint(keys)
    if keys is None and num_prompts is not None:
        _validate.positive_integer(num_prompts=num_prompts)
        return int(num_prompts), f"{num_prompts} prompts without keys"
    given = "keys and num_prompts are both" if keys is None else f"num_prompts is {num_prompts} and keys is not"
    raise ValueError(f"{given} None; give one of them")


def _fingerprint(keys: Keys) -> tuple[int, str]:
    array = np.asarray(keys)
    if array.dtype.kind in "OT":  # strings as pandas has them
        array = np.asarray(array.tolist())
    if array.ndim != 1 or len(array) == 0 or array.dtype.kind not in "iuU":
        raise ValueError(f"keys has shape {array.shape} and type {array.dtype}; give a vector of strings or integers")
    _validate.distinct("keys", array)
    strings = array.dtype.kind == "U"
    names = "\0".join(array.tolist()).encode() if strings else array.astype(np.int64).tobytes()
    return len(array), f"{len(array)} prompts, sha256:{hashlib.sha256(names).hexdigest()[:16]}"
