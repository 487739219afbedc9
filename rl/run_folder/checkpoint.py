"""The checkpoint of a run: one file of tensors and plain values, with a checksum of its content.

`torch.save` writes the file, and `torch.load(weights_only=True)` reads it: loading never runs code from the file.
A NumPy array is stored as its bytes, data type and shape. A NamedTuple is stored as a plain tuple.
"""

import hashlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jaxsel.integrations.atomic_files import replaced_when_complete
from rl.ranks import Ranks
from rl.run_folder.contents import DAMAGED, NEWEST, PREVIOUS
from rl.train_config import TrainConfig, may_change

_ARRAY = "numpy array"
_FORMAT = 1
_NEWER = ("texts and answers", "held-out texts and answers")  # entries of an identity that earlier versions lack


class DamagedError(ValueError):
    """A checkpoint cannot be read, or its content differs from the content that was written."""


def save_checkpoint(path: Path, identity: dict[str, Any], **content: Any) -> None:
    """Replace the checkpoint once the new one is complete on disk. The earlier one is kept as `PREVIOUS`.

    Args:
        path: The file to write.
        identity: The settings that the run depends on; `load_checkpoint` compares them.
        **content: Nested dicts, lists and tuples of tensors, NumPy arrays and plain values. All tensors of the entry
            `learner` must be finite.

    Raises:
        ValueError: A weight or a moment of the optimiser is NaN or infinite. The checkpoint stays as it was.
        OSError: The disk is full. The checkpoint stays as it was.
    """
    check_finite(content.get("learner"), path)
    packed = _packed({"identity": identity, **content}, "")
    packed |= {"format": _FORMAT, "checksum": _checksum(packed)}
    with replaced_when_complete(path, keep=path.with_name(PREVIOUS)) as file:
        torch.save(packed, file)


def check_finite(learner: Any, path: Path) -> None:
    """Refuse to write weights or moments of the optimiser that are NaN or infinite.

    Raises:
        ValueError: A weight or a moment is NaN or infinite.
    """
    for name, tensor in _tensors(learner, "learner"):
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(
                f"{name} is NaN or infinite in places, so {path} is not written and stays as it was; start another "
                "run with a lower learning_rate or max_grad_norm, or look for rewards that are too large"
            )


def load_checkpoint(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Return the content that `save_checkpoint` wrote, without running code from the file.

    Raises:
        DamagedError: The file is damaged, or an earlier version of this package wrote it.
        ValueError: The file belongs to a run with another configuration.
    """
    saved = _read(path)
    if differ := _differences(saved["identity"], _restored(_packed(identity, ""))):
        raise ValueError(f"{path} is of another run: {differ}; give the same configuration, or another folder")
    return saved


def load_latest(run_dir: Path, identity: dict[str, Any], ranks: Ranks) -> dict[str, Any] | None:
    """Return the content of the newest sound checkpoint in a run's folder, or None if there is none.

    If the newest checkpoint is damaged, it is renamed to `checkpoint-damaged.pt`. A message on standard error names
    the damage, and the earlier checkpoint is loaded.

    Raises:
        ValueError: All checkpoints are damaged, or they belong to a run with another configuration.
    """
    found: dict[str, Any] = {}

    def choose() -> Path | None:
        newest, previous = run_dir / NEWEST, run_dir / PREVIOUS
        if not newest.exists():  # a crash occurred between the two renames of `replaced_when_complete`
            newest = previous
        if not newest.exists():
            return None
        try:
            found.update(load_checkpoint(newest, identity))
        except DamagedError as error:
            if newest == previous or not previous.exists():
                raise
            found.update(load_checkpoint(previous, identity))
            os.replace(newest, run_dir / DAMAGED)
            print(f"{error}\nthe run goes on from {previous}, after step {found['step']}", file=sys.stderr, flush=True)
            return previous
        return newest

    path = ranks.on_main(choose)
    if path is None:
        return None
    return ranks.each(lambda: found if ranks.is_main else load_checkpoint(path, identity))


def _read(path: Path) -> dict[str, Any]:
    cure = (
        f"put back a copy of it, or delete it: the run then goes on from {PREVIOUS} if that is there, "
        "and else starts anew"
    )
    try:
        packed = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch.load raises errors of many classes
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk or its permissions failed, and the checkpoint may be sound
        reason = f"it is damaged, or of an earlier version of this package ({type(error).__name__})"
        raise DamagedError(f"{path} cannot be read: {reason}; {cure}") from error
    if not isinstance(packed, dict) or packed.get("format") != _FORMAT:
        raise DamagedError(f"{path} is not a checkpoint of this version; {cure}")
    checksum = packed.pop("checksum", None)
    del packed["format"]
    if checksum != _checksum(packed):
        raise DamagedError(f"{path} is damaged: its checksum does not match its content; {cure}")
    return _restored(packed)


def _packed(value: Any, name: str) -> Any:
    """Return the value as tensors, dicts, lists, tuples and plain values."""
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if not array.dtype.hasobject:
            raw = torch.from_numpy(np.frombuffer(bytearray(array.tobytes()), np.uint8)) if array.size else None
            shape = list(array.shape)
            dtype = array.dtype.name if array.dtype.kind == "V" else array.dtype.str  # bfloat16's str is only "<V2"
            return {_ARRAY: dtype, "shape": shape, "bytes": raw, "scalar": isinstance(value, np.generic)}
    if isinstance(value, Mapping) and all(type(key) in (str, int) for key in value):
        return {key: _packed(inner, f"{name}.{key}") for key, inner in value.items()}
    if isinstance(value, list | tuple):
        inside = [_packed(inner, f"{name}.{i}") for i, inner in enumerate(value)]
        return tuple(inside) if isinstance(value, tuple) else inside
    raise ValueError(
        f"{name.lstrip('.')} is a {type(value).__name__}, which a checkpoint cannot hold; make it an array"
    )


def _restored(value: Any) -> Any:
    """Return the value that `_packed` packed."""
    if isinstance(value, dict):
        if _ARRAY in value:
            raw = bytearray() if value["bytes"] is None else bytearray(value["bytes"].numpy())
            array = np.frombuffer(raw, np.dtype(value[_ARRAY])).reshape(value["shape"])
            return array[()] if value["scalar"] else array
        return {key: _restored(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_restored(inner) for inner in value)
    return value


def _checksum(packed: dict[str, Any]) -> str:
    """Return the SHA-256 hash of names, values and the bytes of tensors."""
    digest = hashlib.sha256()
    for part in _parts(packed):
        digest.update(part)
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, torch.Tensor):
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        yield value.contiguous().flatten().view(torch.uint8).numpy().data if value.numel() else b""
    elif isinstance(value, bytes):
        yield f"bytes{len(value)}:".encode()
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield f"{key!r}:".encode()
            yield from _parts(inner)
        yield b"}"
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _parts(inner)
        yield b"]" if isinstance(value, list) else b")"
    else:
        yield f"{value!r},".encode(errors="surrogatepass")


def _tensors(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield all tensors with their dotted names."""
    if isinstance(value, torch.Tensor):
        yield name, value
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _tensors(inner, f"{name}.{key}")


def _differences(saved: dict[str, Any], here: dict[str, Any], prefix: str = "") -> str:
    """Return a text that names the settings in which two identities differ, except those that may change."""
    if not prefix:
        saved, here = _fixed(saved), _fixed(here)
    found = []
    for name in sorted({*saved, *here} - ({*_NEWER} - {*saved}), key=str):
        there, mine = saved.get(name, "unset"), here.get(name, "unset")
        if isinstance(there, dict) and isinstance(mine, dict):
            found.append(_differences(there, mine, f"{prefix}{name}."))
        elif there != mine:
            found.append(f"{prefix}{name} was {_short(there)} and is {_short(mine)}")
    return ", ".join(filter(None, found))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _fixed(identity: dict[str, Any]) -> dict[str, Any]:
    """Return the identity without the settings that may change.

    A setting that an earlier version did not have gets its default, which is what that version did.
    """
    if not isinstance(identity.get("train"), dict):
        return identity
    train = asdict(TrainConfig()) | identity["train"]
    kept = {name: value for name, value in train.items() if not may_change(name, train["lr_schedule"])}
    return identity | {"train": kept}
