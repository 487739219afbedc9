"""What a folder holds, with what linked folders hold."""

import os
from pathlib import Path


def everything_below(folder: Path) -> list[Path]:
    """Return all files and folders below a folder, sorted; the links to folders are followed.

    A folder that is linked several times, or to a folder around it, is searched once, under its own path if it has one.
    """
    found: list[Path] = []
    searched: set[str] = set()
    places = [folder]
    for place in places:  # links are added at the end, so that a folder is found before the links to it
        for parent, folders, files in os.walk(place):
            if (path := os.path.realpath(parent)) in searched:
                folders.clear()
                continue
            searched.add(path)
            folders.sort()
            below = [Path(parent, name) for name in folders]
            found += (*below, *(Path(parent, name) for name in files))
            places += (path for path in below if path.is_symlink())
    return sorted(found)
