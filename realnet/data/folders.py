"""List folders and image files in natural order; told apart by name, and where that says nothing by content."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from realnet.data.formats import is_image


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Return a sorting key that puts ``2.png`` before ``10.png``."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]


def path_key(file: str) -> list[list[tuple[int, int, str]]]:
    """Return a sorting key of paths: folder by folder, each in natural order."""
    return [natural_key(part) for part in PurePosixPath(file).parts]


def folders_in(path: Path) -> list[str]:
    """Return the names of the visible folders in a folder, in natural order; none if it does not exist."""
    return _sorted(entry.name for entry in _scan(path) if entry.is_dir())


def images_in(path: Path) -> list[str]:
    """Return the names of the visible image files directly in a folder, in natural order; none if it does not exist."""
    return _sorted(entry.name for entry in _scan(path) if entry.is_file() and is_image(path / entry.name))


def files_below(folder: Path) -> list[str]:
    """Return the paths of all visible files in and below a folder, in natural order.

    Links are followed, unless they lead back to a folder above; one that leads nowhere counts as a file.
    """
    found: list[str] = []
    folders: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while folders:
        below, above = folders.pop()
        stat = (folder / below).stat()
        own = (stat.st_dev, stat.st_ino)
        for entry in () if own in above else _scan(folder / below):
            if entry.is_dir():
                folders.append((f"{below}{entry.name}/", above | {own}))
            elif entry.is_file() or entry.is_symlink():
                found.append(f"{below}{entry.name}")
    return sorted(found, key=path_key)


def _scan(path: Path) -> Sequence[os.DirEntry[str]]:
    """Return the visible files and folders in a folder; none if it does not exist."""
    if not path.is_dir():
        return []
    with os.scandir(path) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


def _sorted(names: Iterable[str]) -> list[str]:
    return sorted(names, key=natural_key)
