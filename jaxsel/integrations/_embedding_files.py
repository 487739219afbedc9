"""The files of cached embeddings: a .npy file with a checksum at its end, named by a hash of the texts."""

import hashlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np

_FORMAT = 1  # raise it when the same texts and embedder give another file
_DIGEST_BYTES = 32


def key_of(texts: list[str], name: str, dtype: str) -> bytes:
    """Return a hash of the texts, the name of the embedder and the type of the vectors."""
    digest = hashlib.sha256(json.dumps([_FORMAT, name, dtype]).encode())
    for text in texts:
        content = text.encode()
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.digest()


def _checksum(key: bytes, content: np.ndarray) -> bytes:
    digest = hashlib.sha256(key)
    digest.update(content.data)
    return digest.digest()


def is_sound(path: Path, key: bytes) -> bool:
    """Return whether the file exists and ends in the checksum of the key and of the content before the checksum."""
    try:
        content = np.memmap(path, np.uint8, "r")
    except (OSError, ValueError):
        return False
    return content[-_DIGEST_BYTES:].tobytes() == _checksum(key, content[:-_DIGEST_BYTES])


def write_atomically(vectors: np.ndarray, path: Path, key: bytes) -> None:
    """Write a .npy file and, after the array, a checksum that np.load ignores. No reader sees an incomplete file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".partial-") as folder:
        partial = Path(folder, path.name)
        np.save(partial, vectors)
        checksum = _checksum(key, np.memmap(partial, np.uint8, "r"))
        with partial.open("ab") as file:
            file.write(checksum)
        os.replace(partial, path)
