"""The identity of a pool: its size, a fingerprint of its keys (the names of its prompts), and a hash of every key."""

import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt32

from jaxsel import _validate

Keys = Sequence[str] | Sequence[int] | np.ndarray
_AT_ONCE = 1024  # keys
_MOST = 2**31 - 2  # prompts; the row after the last one pads batches
_SHOWN = 60  # characters of a key
_LEAST, _LARGEST = -(2**63), 2**63 - 1  # of int64
_GIVE = "give a vector of strings or integers"


class Pool(NamedTuple):
    """The identity of a pool.

    Attributes:
        size: Number of prompts.
        fingerprint: The size and a digest of the keys in their order.
        key_hashes: A 64-bit hash of every key as two numbers, to find the same prompts in another pool; None: the pool
            has no keys.
    """

    size: int
    fingerprint: str
    key_hashes: UInt32[np.ndarray, "N 2"] | None


def identify_pool(keys: Keys | None, num_prompts: int | None) -> Pool:
    """Return the identity of the pool.

    Raises:
        ValueError: Not exactly one of the two is given, the keys are not a vector of distinct strings or integers, or
            the pool has no prompts.
    """
    if keys is not None and num_prompts is None:
        rows = _checked(keys)
        return Pool(len(rows), _fingerprint(rows), _hashes_of(rows))
    if keys is None and num_prompts is not None:
        _validate.positive_integer(num_prompts=num_prompts)
        if num_prompts > _MOST:
            raise ValueError(f"num_prompts is {num_prompts}; give at most {_MOST}, because rows are 32-bit integers")
        return Pool(int(num_prompts), f"{num_prompts} prompts without keys", None)
    given = "keys and num_prompts are both" if keys is None else f"num_prompts is {num_prompts} and keys is not"
    raise ValueError(f"{given} None; give one of them")


def size_of(fingerprint: str) -> int:
    """Return the number of prompts, with which every fingerprint of a pool starts.

    Raises:
        ValueError: The text is not a fingerprint of a pool.
    """
    size, _, rest = str(fingerprint).partition(" ")
    if not (size.isascii() and size.isdigit() and rest.startswith("prompts")):
        raise ValueError(f"pool is {fingerprint!r}, which is not a fingerprint of a pool; give keys or num_prompts")
    return int(size)


def fingerprint_of(keys: Keys) -> str:
    """Return the fingerprint of a pool with these keys, without the hashes of the keys.

    Raises:
        ValueError: The keys are not a vector of distinct strings or integers, or the pool has no prompts.
    """
    return _fingerprint(_checked(keys))


def rows_in(old: Pool, new: Pool) -> Int[np.ndarray, " N"]:
    """Return the row in the old pool of every prompt of the new pool; -1 for a prompt that the old pool lacks.

    Raises:
        ValueError: A pool has no keys, or no prompt is in both pools.
    """
    for name, pool in (("old", old), ("new", new)):
        if pool.key_hashes is None:
            raise ValueError(
                f"the {name} pool is {pool.fingerprint!r}; give both pools keys, so that prompts are found"
            )
    before, after = _joined(old), _joined(new)
    order = before.argsort()
    at = np.minimum(before[order].searchsorted(after), len(before) - 1)
    rows = np.where(before[order][at] == after, order[at], -1).astype(np.int32)
    if (rows < 0).all():
        raise ValueError(
            f"the pool {new.fingerprint!r} and the pool {old.fingerprint!r} share no key; give keys "
            "that name the same prompts, or start with a new selector"
        )
    return rows


def _joined(pool: Pool) -> Int[np.ndarray, " N"]:
    """Return the hashes as one integer per key.

    Raises:
        ValueError: Two keys have the same hash.
    """
    hashes = np.ascontiguousarray(pool.key_hashes).view(np.int64)[:, 0]
    if len(np.unique(hashes)) < len(hashes):
        raise ValueError(f"two keys of the pool {pool.fingerprint} have the same 64-bit hash; change one of the keys")
    return hashes


def _checked(keys: Keys) -> Any:
    """Return the keys as rows, see `_rows`, which are distinct strings or distinct integers."""
    rows = _rows(keys)
    if len(rows) == 0:
        raise ValueError("keys has shape (0,); give one key for each prompt of the pool")
    _check_distinct(rows)
    return rows


def _fingerprint(rows: Any) -> str:
    digests = _of_strings(rows) if isinstance(next(_plain(rows)), str) else _of_integers(rows)
    return f"{len(rows)} prompts, sha256:{'+'.join(digests)}"


def _rows(keys: Any) -> Any:
    """Return the keys as an object with a length that can be iterated over more than once."""
    if isinstance(keys, str | bytes | Mapping | Set) or not (hasattr(keys, "__len__") or hasattr(keys, "__array__")):
        raise ValueError(f"keys has shape () and type {type(keys).__name__}; {_GIVE}")
    if not isinstance(keys, range) and not hasattr(keys, "__array__"):
        return keys if isinstance(keys, list | tuple) else list(keys)  # NumPy would turn [1, "1"] into strings
    _validate.unmasked("keys", keys, _GIVE)
    try:
        array = np.asarray(keys)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"keys is not an array on the host ({error}); {_GIVE}") from error
    if array.ndim != 1 or array.dtype.kind not in "iuUTO":
        raise ValueError(f"keys has shape {array.shape} and type {array.dtype}; {_GIVE}")
    return array


def _plain(rows: Any) -> Iterator[Any]:
    """Yield the keys one by one; the error for a key of another type names its row."""
    wanted: type | None = None
    for start in range(0, len(rows), _AT_ONCE):
        part = rows[start : start + _AT_ONCE]
        for row, key in enumerate(part.tolist() if isinstance(part, np.ndarray) else part, start):
            kind = str if isinstance(key, str) else int if isinstance(key, int | np.integer) else None
            if kind is None or isinstance(key, bool) or (wanted or kind) is not kind:
                first = "" if wanted is None else f" where keys[0] is of type {wanted.__name__}"
                raise ValueError(f"keys[{row}] is {key!r:.60} of type {type(key).__name__}{first}; {_GIVE}")
            wanted = kind
            yield key


def _check_distinct(rows: Any) -> None:
    if isinstance(rows, np.ndarray) and rows.dtype.kind in "iu":
        return _validate.distinct("keys", rows)
    if len(set(_plain(rows))) == len(rows):
        return
    key, times = Counter(_plain(rows)).most_common(1)[0]
    at = ", ".join(str(row) for row, other in islice(((r, k) for r, k in enumerate(_plain(rows)) if k == key), 2))
    raise ValueError(f"keys holds the entry {_shown(key)} {times} times; give distinct entries (see the rows {at})")


def _of_strings(rows: Any) -> tuple[str, ...]:
    r"""Return a digest of the keys joined by NUL, and a second digest if a key contains NUL.

    Without the second digest, the pools ["a", "b\0c"] and ["a\0b", "c"] would have the same fingerprint.
    """
    joined, prefixed, first, has_nul = hashlib.sha256(), hashlib.sha256(b"strings"), True, False
    for part in _in_parts(_plain(rows)):
        text = "\0".join(part)
        joined.update(("" if first else "\0").encode() + text.encode("utf-8", "surrogatepass"))
        first, has_nul = False, has_nul or text.count("\0") >= len(part)
    if has_nul:
        for key in _plain(rows):
            encoded = key.encode("utf-8", "surrogatepass")
            prefixed.update(len(encoded).to_bytes(8, "little") + encoded)
    return _short(joined, prefixed) if has_nul else _short(joined)


def _of_integers(rows: Any) -> tuple[str, ...]:
    """Return a digest of the keys as int64, and a second digest if int64 cannot hold a key.

    Without the second digest, the pools [-1] and [2**64 - 1] would have the same fingerprint.
    """
    if isinstance(rows, np.ndarray) and rows.dtype.kind in "iu" and rows.dtype != np.uint64:
        return _short(hashlib.sha256(rows.astype(np.int64).tobytes()))
    wrapped, decimal, fits = hashlib.sha256(), hashlib.sha256(b"integers"), True
    for part in _in_parts(int(key) for key in _plain(rows)):
        fits = fits and min(part) >= _LEAST and max(part) <= _LARGEST
        wrapped.update(np.array([key % 2**64 for key in part], np.uint64).tobytes())
        decimal.update("".join(f" {key}" for key in part).encode())
    return _short(wrapped) if fits else _short(wrapped, decimal)


def _hashes_of(rows: Any) -> UInt32[np.ndarray, "N 2"]:
    """Return a hash of every key: an int64 is its own hash, and any other key has the hash of its text."""
    if isinstance(rows, np.ndarray) and rows.dtype.kind in "iu" and rows.dtype != np.uint64:
        return rows.astype(np.int64).view(np.uint32).reshape(-1, 2)
    return np.frombuffer(b"".join(map(_hash, _plain(rows))), np.uint32).reshape(-1, 2)


def _hash(key: str | int) -> bytes:
    if not isinstance(key, str):
        if _LEAST <= key <= _LARGEST:
            return int(key).to_bytes(8, sys.byteorder, signed=True)
        key = str(key)
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _in_parts(keys: Iterable[Any]) -> Iterator[list[Any]]:
    keys = iter(keys)
    while part := list(islice(keys, _AT_ONCE)):
        yield part


def _short(*digests: Any) -> tuple[str, ...]:
    return tuple(digest.hexdigest()[:16] for digest in digests)


def _shown(key: Any) -> str:
    shown = repr(str(key) if isinstance(key, str) else key)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
