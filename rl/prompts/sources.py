"""The files of a data set: one file, several files, a folder, or a data set on the Hugging Face hub."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rl.prompts.files import FORMATS, Source, format_of

_File = TypeVar("_File")
Sources = str | Path | Sequence[str | Path]
# Files that `save_to_disk` of the `datasets` library writes beside the rows.
_NOT_ROWS = {"dataset_info.json", "dataset_dict.json", "dataset_infos.json", "state.json"}
# Files that `map`, `shuffle` and other methods write beside the rows of a saved data set.
_CACHE = re.compile(r"cache-[0-9a-f]+.*\.arrow")
_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test", "eval": "test"}
_SPLITS |= {"evaluation": "test", "validation": "validation", "valid": "validation", "val": "validation"}
_SPLITS |= {"dev": "validation"}


def find_sources(source: Sources, *, split: str | None = None, config: str | None = None) -> list[Source]:
    """Return the files of a data set, sorted by name.

    Args:
        source: A file, several files, a folder, or the name of a data set on the hub. Of a folder, every readable file
            below it counts, except hidden ones.
        split: The split to read, for a folder or a data set on the hub. A file of a folder belongs to the split that
            its name or its folder's name says: train, validation or test. If no name says train, the others are train.
        config: The configuration of a data set on the hub; refused for a file or a folder.

    Raises:
        ValueError: There are no such files. Or: they belong to several splits, and `split` names none of them. Or:
            `config` is given for a file or a folder.
    """
    if not isinstance(source, str | Path):
        if not source:
            raise ValueError("source names no file; give at least one")
        return [found for one in source for found in find_sources(one, split=split, config=config)]
    path = Path(source).expanduser()
    if config is not None and path.exists():
        cure = "give the folder of that configuration, or no config"
        raise ValueError(f"config is {config!r}, and source is {path}, which is not on the hub; {cure}")
    if path.is_file():
        if split is not None:
            raise ValueError(f"split is {split!r}, and source is the file {path}; give a folder, or no split")
        return [Source(str(path), str(path))]
    if path.is_dir():
        return _of_split(_folder_splits(path), split, str(path))
    name = str(source)
    if is_path(source):
        raise ValueError(f"source is {name!r}, where there is no file and no folder; give an existing path")
    return _from_hub(name, split, config)


def is_path(source: str | Path) -> bool:
    """Return whether this names a file or a folder, which may be missing, and not a data set on the hub."""
    name = str(source)
    looks_so = format_of(name) is not None or name.startswith((".", "/", "~")) or name.count("/") > 1
    return isinstance(source, Path) or looks_so or Path(source).expanduser().exists()


def _folder_splits(folder: Path) -> dict[str, list[Source]]:
    from jaxsel.integrations.folders import everything_below  # imports JAX, which --help does not need

    splits: dict[str, list[Source]] = {}
    for path in everything_below(folder):
        inside = path.relative_to(folder)
        if not path.is_file() or _is_no_data(path) or any(part.startswith(".") for part in inside.parts):
            continue
        if format_of(path.name):
            splits.setdefault(_split_of(inside), []).append(Source(str(path), str(path)))
    if not splits:
        raise ValueError(f"source is {folder}, which holds no file of {', '.join(FORMATS)}; give another folder")
    unnamed = "" if "train" in splits else "train"
    return {split or unnamed: files for split, files in splits.items()}


def _is_no_data(path: Path) -> bool:
    """Return whether the `datasets` library wrote a file beside the rows of a data set."""
    is_cache = _CACHE.fullmatch(path.name) and any((path.parent / name).exists() for name in _NOT_ROWS)
    return path.name in _NOT_ROWS or bool(is_cache)


def _split_of(path: Path) -> str:
    """Return the split that the words of a file's name say, or else of its folders' names; "" if there is none."""
    for part in reversed(path.parts):
        for word in re.split("[^a-z]+", part.lower()):
            if word in _SPLITS:
                return _SPLITS[word]
    return ""


def _from_hub(name: str, split: str | None, config: str | None) -> list[Source]:
    """Return the files of a data set on the hub, downloaded to the cache of the `datasets` library."""
    from datasets import DownloadManager, load_dataset_builder
    from datasets.exceptions import DatasetNotFoundError

    try:
        builder: Any = load_dataset_builder(name, config)
    except DatasetNotFoundError as error:
        raise ValueError(f"source is {name!r}, neither a path nor a data set on the hub ({error})") from None
    except ConnectionError as error:
        raise ValueError(f"source is {name!r}, which is no path, and the hub does not answer ({error})") from None
    splits = {str(own): list(map(str, urls)) for own, urls in (builder.config.data_files or {}).items()}
    urls = _of_split(splits, split, name) if splits else []
    unreadable = [url for url in urls if format_of(url) is None]
    if unreadable or not urls:
        found = unreadable[0] if unreadable else "no files"
        raise ValueError(f"source is {name!r}, which holds {found}; give a data set of {', '.join(FORMATS)}")
    manager = DownloadManager(dataset_name=name)
    return [Source(url, str(manager.download(url))) for url in urls]  # one after the other keeps the order


def _of_split(splits: Mapping[str, list[_File]], split: str | None, name: str) -> list[_File]:
    names = list(splits)
    if split is None:
        if len(splits) > 1:
            raise ValueError(f"split is None, and {name} holds the splits {names}; name one of them")
        return next(iter(splits.values()))
    wanted = split if split in splits else _SPLITS.get(split, split)
    if wanted not in splits:
        raise ValueError(f"split is {split!r}, and {name} holds the splits {names}; name one of them")
    return splits[wanted]
