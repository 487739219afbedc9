"""Embeddings of prompt texts, cached on disk, for methods that predict from them, such as `jaxsel.gps`.

WordLlama needs `pip install "jaxsel[embeddings]"`, the models of sentence-transformers need
`pip install "jaxsel[sentence-transformers]"`, and an embedder of your own needs nothing more.

Reference: GPS, arXiv 2602.01970, which embeds prompts with WordLlama.
"""

import functools
import inspect
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxsel import _validate
from jaxsel.integrations._embedding_files import is_sound, key_of, write_atomically
from jaxsel.integrations._extras import extra, missing
from jaxsel.integrations.cache import cache_root
from jaxsel.integrations.folders import everything_below
from jaxsel.runtime.checkpoint.disk import local_path

_LOG_SECONDS = 10.0

Encode = Callable[[Sequence[str]], Float[np.ndarray, "b d"]]
Bar = Callable[..., Iterable[Any]]


class Embedder(NamedTuple):
    """A function from texts to vectors whose results may be cached.

    Attributes:
        name: Name of the model, its version and its settings, for the cache. Another model needs another name.
        encode: Function from a batch of texts to one vector per text. The vector of a text depends on that text alone.
    """

    name: str
    encode: Encode


def embed(
    texts: Sequence[str] | np.ndarray,
    *,
    embedder: Literal["wordllama"] | Embedder | Encode = "wordllama",
    batch_size: int = 1024,
    dtype: Literal["float32", "float16"] = "float32",
    cache: Path | Literal["default"] | None = "default",
    progress: bool | Bar = True,
) -> Float[np.ndarray, "N d"]:
    """Return one vector per text, as the embedder computes it: neither centred nor normalised.

    A text that occurs several times is embedded once. All vectors are in memory while they are computed. A cached
    result is a read-only memory map of its file. Each call verifies the checksum at the end of the file, in one pass
    over the file; damaged vectors are computed again. Where the folder cannot be written to, a warning says so, and the
    result is an array in memory.

    Args:
        texts: The texts. They may be empty strings where the embedder accepts them.
        embedder: "wordllama" for `wordllama()`, an `Embedder`, or a function. A function has no name, so its results
            are never cached.
        batch_size: Texts per call of the embedder.
        dtype: Type of the result; float16 halves memory and file size.
        cache: Folder of the cached embeddings. "default" is `cache_root()`; None turns the cache off.
        progress: Whether to show a progress bar of tqdm, of which a log gets a line every 10 seconds; or another
            function with the signature of `tqdm.tqdm`.

    Raises:
        ValueError: An argument is out of range, or `texts` is empty or holds something other than text. Or: the
            embedder returns a wrong shape, or numbers that `dtype` cannot hold.
        ImportError: WordLlama or tqdm is needed and not installed.
    """
    texts = _checked(texts)
    _validate.positive_integer(batch_size=batch_size)
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype is {dtype!r}; give 'float32' or 'float16'")
    name, encode = _named(embedder)
    if cache is None or name is None:
        return _compute(texts, encode, batch_size, dtype, progress)

    folder = cache_root() if cache == "default" else local_path(cache, "cache")
    key = key_of(texts, name, dtype)
    path = folder / f"embeddings-{key.hex()[:16]}.npy"
    if not is_sound(path, key):
        vectors = _compute(texts, encode, batch_size, dtype, progress)
        try:
            write_atomically(vectors, path, key)
        except OSError as error:  # the work of hours must not be lost
            cure = "give cache= a folder with space that you may write to"
            warnings.warn(f"the embeddings are not cached in {folder} ({error}); {cure}", stacklevel=2)
            return vectors
    return np.asarray(np.load(path, mmap_mode="r"))


def wordllama() -> Embedder:
    """Return WordLlama's packaged model with 256 numbers per text; it is loaded at first use, without any download.

    The vector of a text is the mean over its tokens, so word order is lost. Numbers are split into digits, so "12, 34"
    and "13, 24" share a vector. Only the empty text has no tokens; its vector is zero.

    Raises:
        ImportError: WordLlama is not installed.
    """
    return Embedder(f"wordllama {_version('wordllama', 'embeddings')} l2_supercat 256", _encode_with_wordllama)


def sentence_transformers(
    model: str, *, revision: str | None = None, device: str | None = None, batch_size: int = 32
) -> Embedder:
    """Return a model of the package sentence-transformers with its default settings; it is loaded at first use.

    For other settings, wrap the model in an `Embedder` of your own.

    Args:
        model: Name on the Hugging Face hub, or a local folder. A folder whose files change counts as another model.
        revision: Commit on the hub. Without it, the cache does not notice that a model on the hub has changed.
        device: Device such as "cuda". None: the package chooses.
        batch_size: Texts per forward pass on the device.

    Raises:
        ImportError: sentence-transformers is not installed.
    """
    version = _version("sentence-transformers", "sentence-transformers")

    @functools.cache
    def load() -> Any:
        from sentence_transformers import SentenceTransformer  # pyright: ignore[reportMissingImports]

        return SentenceTransformer(model, revision=revision, device=device)

    def encode(texts: Sequence[str]) -> np.ndarray:
        return load().encode(list(texts), batch_size=batch_size, convert_to_numpy=True, show_progress_bar=False)

    name = f"sentence-transformers {version} {json.dumps([model, revision, _files(Path(model))])}"
    return Embedder(name, encode)


def concatenated(*embedders: Literal["wordllama"] | Embedder | Encode) -> Embedder | Encode:
    """Return an embedder that joins the vectors of several embedders, one after the other, to one vector per text.

    The parts are not scaled. `adaptive` scales every coordinate to variance 1 over the pool, so the scale of a part
    has no effect. `gps` first divides each vector by its Euclidean norm, so a part of large norm changes the others. If
    one of the embedders is a plain function, so is the result, and it is never cached.

    Args:
        *embedders: "wordllama", an `Embedder` or a function, as for `embed`.

    Raises:
        ValueError: There is no embedder, or one is of another kind.
        ImportError: WordLlama is needed and not installed.
    """
    if not embedders:
        raise ValueError("embedders is empty; give at least one embedder")
    names, functions = zip(*map(_named, embedders), strict=True)

    def encode(texts: Sequence[str]) -> np.ndarray:
        return np.concatenate([_checked_block(np.asarray(part(texts)), len(texts)) for part in functions], 1)

    return encode if None in names else Embedder(f"concatenated {json.dumps(names)}", encode)


def _named(embedder: Literal["wordllama"] | Embedder | Encode) -> tuple[str | None, Encode]:
    if isinstance(embedder, str) and embedder == "wordllama":
        return wordllama()
    if isinstance(embedder, Embedder):
        return embedder
    if callable(embedder):
        return None, embedder
    raise ValueError(f"embedder is {embedder!r}; give 'wordllama', an Embedder or a function of texts")


def _checked(texts: Sequence[str] | np.ndarray) -> list[str]:
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
            raise ValueError(f"texts[{row}] is {text!r:.80}, which UTF-8 cannot hold; drop lone surrogates") from error
    return texts


def _compute(texts: list[str], encode: Encode, batch_size: int, dtype: str, progress: bool | Bar) -> np.ndarray:
    places: dict[str, int] = {}
    place = np.array([places.setdefault(text, len(places)) for text in texts])
    unique = list(places)
    vectors = np.empty((len(unique), 0), dtype)
    for start in _bar(progress)(range(0, len(unique), batch_size), desc="embeddings", unit="batch"):
        batch = unique[start : start + batch_size]
        block = _checked_block(np.asarray(encode(batch)), len(batch))
        if start == 0:
            vectors = np.empty((len(unique), block.shape[1]), dtype)
        if block.shape[1] != vectors.shape[1]:
            raise ValueError(
                f"embedder returned {block.shape[1]} numbers per text after {vectors.shape[1]}; return one length"
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


def _bar(progress: bool | Bar) -> Bar:
    if progress is False:
        return lambda items, **_: items
    if progress is True:
        with extra("embeddings"):
            from tqdm import tqdm
        seen = sys.stderr.isatty() or "ipykernel" in sys.modules  # a log gets a line now and then
        return tqdm if seen else functools.partial(tqdm, mininterval=_LOG_SECONDS, maxinterval=_LOG_SECONDS)
    return progress


def _checked_block(block: np.ndarray, size: int) -> np.ndarray:
    if block.dtype.kind not in "fiu":
        raise ValueError(f"embedder returned type {block.dtype}; return numbers")
    if block.ndim != 2 or len(block) != size or not block.size:
        raise ValueError(f"embedder returned shape {block.shape}; return [{size}, d], one vector per text")
    return block


def _version(package: str, extra: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError as error:
        raise missing(package, extra) from error


def _files(folder: Path) -> list[tuple[str, int, int]]:
    """Return name, size in bytes and time of change in nanoseconds for every file."""
    stats = {str(path.relative_to(folder)): path.stat() for path in everything_below(folder) if path.is_file()}
    return sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items())


@functools.cache
def _load_wordllama() -> Any:
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)  # otherwise the import makes the whole program log at INFO
    try:
        from wordllama import WordLlama
    finally:
        root.removeHandler(handler)
    # Release 0.4.0 finds the weights in its own package, but the tokeniser only if that package is given as the cache.
    package = Path(inspect.getfile(WordLlama)).parent
    model = WordLlama.load(config="l2_supercat", dim=256, cache_dir=package, disable_download=True)
    model.tokenizer.no_padding()
    return model


def _encode_with_wordllama(texts: Sequence[str]) -> np.ndarray:
    """Return the same bits as WordLlama's own `embed`, without padding every text to the longest."""
    model = _load_wordllama()
    vectors = np.zeros((len(texts), model.embedding.shape[1]), np.float32)
    encodings = model.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    for vector, encoding in zip(vectors, encodings, strict=True):
        if encoding.ids:
            model.embedding[encoding.ids].mean(0, out=vector)
    return vectors
