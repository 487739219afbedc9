"""Prompt texts as vectors for the amortised predictor, kept on disk after the first time.

Reference: GPS, arXiv 2602.01970, which embeds prompts with WordLlama.
"""

import functools
import hashlib
import inspect
import json
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from rl.cache import cache_root
from rl.progress import bar

_FORMAT = 1  # raise it when the same texts and embedder would give another file
_DIGEST_BYTES = 32

Encode = Callable[[Sequence[str]], Float[np.ndarray, "b d"]]


class Embedder(NamedTuple):
    """A function from texts to vectors whose results may be cached.

    Attributes:
        name: stands for the model, its version and its settings in the cache: another model needs another name.
        encode: a batch of texts to one vector a text; a text's vector depends on that text alone.
    """

    name: str
    encode: Encode


def embed(
    texts: Sequence[str],
    *,
    embedder: Literal["wordllama"] | Embedder | Encode = "wordllama",
    batch_size: int = 1024,
    dtype: Literal["float32", "float16"] = "float32",
    cache: Path | Literal["default"] | None = "default",
    progress: bool = True,
) -> Float[np.ndarray, "N d"]:
    """One vector a text, as the embedder gives it: neither centred nor normalised.

    Texts that repeat are embedded once. While they are computed, all vectors are in memory; a cached result is a
    read-only view of its file, of which the system loads the pages in use. A file is trusted when the checksum
    at its end fits, which takes one pass over it; any other is computed again.

    Args:
        texts: may be empty strings, where the embedder takes them.
        embedder: "wordllama" for `wordllama()`; a plain function has no name, so it is never cached.
        batch_size: texts a call of the embedder.
        dtype: of the result; float16 halves memory and file.
        cache: the folder of finished embeddings; "default" is `cache_root()`, None turns the cache off.
        progress: show a progress bar while embedding.

    Raises:
        ValueError: an argument is out of range, `texts` is empty or holds something other than text, or the
            embedder returns another shape or numbers that `dtype` cannot hold.
        ImportError: WordLlama is not installed.
    """
    texts = _checked(texts)
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}; give an integer of at least 1")
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype is {dtype!r}; give 'float32' or 'float16'")
    if isinstance(embedder, str) and embedder == "wordllama":
        embedder = wordllama()
    if isinstance(embedder, Embedder):
        name, encode = embedder
    elif callable(embedder):
        name, encode = None, embedder
    else:
        raise ValueError(f"embedder is {embedder!r}; give 'wordllama', an Embedder or a function of texts")
    if cache is None or name is None:
        return _compute(texts, encode, batch_size, dtype, progress)

    folder = cache_root() if cache == "default" else Path(cache)
    key = _key(texts, name, dtype)
    path = folder / f"embeddings-{key.hex()[:16]}.npy"
    if not _is_sound(path, key):
        folder.mkdir(parents=True, exist_ok=True)
        _write_atomically(_compute(texts, encode, batch_size, dtype, progress), path, key)
    return np.asarray(np.load(path, mmap_mode="r"))


def wordllama() -> Embedder:
    """WordLlama's packaged model, 256 numbers a text, loaded at first use and without any download.

    A text's vector is the mean over its tokens, so word order is lost, and as numbers are split into digits,
    "12, 34" and "13, 24" share a vector. A text without tokens, the empty one, is the zero vector.

    Raises:
        ImportError: WordLlama is not installed.
    """
    return Embedder(f"wordllama {_version('wordllama', extra='rl')} l2_supercat 256", _encode_with_wordllama)


def sentence_transformers(
    model: str, *, revision: str | None = None, device: str | None = None, batch_size: int = 32
) -> Embedder:
    """A model of the package sentence-transformers with its own defaults, loaded at first use.

    For other settings, wrap the model in an `Embedder` of your own.

    Args:
        model: on the Hugging Face hub, or a local folder; a folder whose files change is another model.
        revision: commit on the hub; without it, the cache does not notice that a model on the hub has changed.
        device: such as "cuda"; the package chooses when None.
        batch_size: texts at once on the device.

    Raises:
        ImportError: the package is not installed.
    """
    version = _version("sentence-transformers", extra="sentence-transformers")

    @functools.cache
    def load() -> Any:
        from sentence_transformers import SentenceTransformer  # pyright: ignore[reportMissingImports]

        return SentenceTransformer(model, revision=revision, device=device)

    def encode(texts: Sequence[str]) -> np.ndarray:
        return load().encode(list(texts), batch_size=batch_size, convert_to_numpy=True, show_progress_bar=False)

    name = f"sentence-transformers {version} {json.dumps([model, revision, _files(Path(model))])}"
    return Embedder(name, encode)


def _checked(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str):
        raise ValueError(f"texts is the string {texts!r:.80}; give a sequence of strings")
    texts = list(texts)
    if not texts:
        raise ValueError("texts is empty; give at least one text")
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"texts[{row}] is {text!r:.80}; give strings")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"texts[{row}] is {text!r:.80}, which UTF-8 cannot hold; repair its surrogates") from error
    return texts


def _compute(texts: list[str], encode: Encode, batch_size: int, dtype: str, progress: bool) -> np.ndarray:
    places: dict[str, int] = {}
    place = np.array([places.setdefault(text, len(places)) for text in texts])
    unique = list(places)
    vectors = np.empty((len(unique), 0), dtype)
    for start in bar(range(0, len(unique), batch_size), desc="embeddings", unit="batch", disable=not progress):
        batch = unique[start : start + batch_size]
        block = np.asarray(encode(batch))
        if block.dtype.kind not in "fiu":
            raise ValueError(f"embedder returned type {block.dtype}; return numbers")
        if block.ndim != 2 or len(block) != len(batch) or not block.size:
            raise ValueError(f"embedder returned shape {block.shape}; return [{len(batch)}, d], one vector a text")
        if start == 0:
            vectors = np.empty((len(unique), block.shape[1]), dtype)
        if block.shape[1] != vectors.shape[1]:
            raise ValueError(
                f"embedder returned {block.shape[1]} numbers a text after {vectors.shape[1]}; keep to one d"
            )
        stored = vectors[start : start + len(batch)]
        with np.errstate(over="ignore"):
            stored[:] = block
        wrong = np.argwhere(~np.isfinite(stored))
        if len(wrong):
            i, j = wrong[0]
            row = texts.index(batch[i])
            raise ValueError(f"embedder returned {block[i, j]} for texts[{row}]; return finite numbers within {dtype}")
    return vectors if len(unique) == len(texts) else vectors[place]


def _key(texts: list[str], name: str, dtype: str) -> bytes:
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


def _is_sound(path: Path, key: bytes) -> bool:
    """Whether the file exists and ends in the checksum of the key and of all that stands before."""
    try:
        content = np.memmap(path, np.uint8, "r")
    except (OSError, ValueError):
        return False
    return content[-_DIGEST_BYTES:].tobytes() == _checksum(key, content[:-_DIGEST_BYTES])


def _write_atomically(vectors: np.ndarray, path: Path, key: bytes) -> None:
    """A .npy file with the checksum behind the array, where np.load does not look; a reader sees all of it or none."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".partial-") as folder:
        partial = Path(folder, path.name)
        np.save(partial, vectors)
        checksum = _checksum(key, np.memmap(partial, np.uint8, "r"))
        with partial.open("ab") as file:
            file.write(checksum)
        os.replace(partial, path)


def _version(package: str, *, extra: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError as error:
        raise ImportError(f"{package} is not installed; pip install 'jaxsel[{extra}]'") from error


def _files(folder: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of every file."""
    stats = {str(path.relative_to(folder)): path.stat() for path in folder.rglob("*") if path.is_file()}
    return sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items())


@functools.cache
def _load_wordllama() -> Any:
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)  # else the import has the whole program log at INFO
    try:
        from wordllama import WordLlama
    finally:
        root.removeHandler(handler)
    # Of its own package, 0.4.0 finds the weights; the tokeniser it finds only if told that this is a cache.
    package = Path(inspect.getfile(WordLlama)).parent
    model = WordLlama.load(config="l2_supercat", dim=256, cache_dir=package, disable_download=True)
    model.tokenizer.no_padding()
    return model


def _encode_with_wordllama(texts: Sequence[str]) -> np.ndarray:
    """The bits of WordLlama's own `embed`, which pads every text to the longest."""
    model = _load_wordllama()
    vectors = np.zeros((len(texts), model.embedding.shape[1]), np.float32)
    encodings = model.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    for vector, encoding in zip(vectors, encodings, strict=True):
        if encoding.ids:
            model.embedding[encoding.ids].mean(0, out=vector)
    return vectors
