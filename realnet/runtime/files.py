"""Write files that readers only ever see whole, and name those that cannot be written."""

import csv
import io
import math
import os
import re
import socket
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from realnet.errors import UserError


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Turn the block's ``OSError`` into a message that names the file or folder that it writes.

    Raises:
        UserError: if it cannot be written, for example because the disk is full.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; free space there, check its permissions, or choose another folder"
        ) from error


def read_text(path: Path, repair: str = "check its permissions, or move it elsewhere") -> str:
    """Return the text of a file, without a byte-order mark.

    Args:
        path: the file.
        repair: what to do if it cannot be read; ends the message.

    Raises:
        UserError: if it cannot be read, or is not UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"cannot read {path}: {reason}; {repair}") from error


def read_table(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """Return the rows of a CSV file, which has these columns, and perhaps others.

    Raises:
        UserError: if it cannot be read, or a row lacks one of the columns.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path), newline="")))
    except csv.Error as error:
        raise UserError(f"cannot read {path}: {error}; move it elsewhere") from error
    for number, row in enumerate(rows, 1):
        if lacking := [name for name in columns if row.get(name) is None]:
            raise UserError(
                f"{path}, row {number} has no {' and no '.join(lacking)}; expected the columns {', '.join(columns)}"
            )
    return rows


def is_zip(path: Path) -> bool:
    """Tell whether a file is a zip archive, as those of torch are; False if it does not exist or its end is damaged."""
    with suppress(zipfile.BadZipFile):
        return zipfile.is_zipfile(path)
    return False


def part_of(path: Path) -> Path:
    """Return where this process, and no other, writes a file before it takes its place at ``path``."""
    return path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.part")


def remove_parts(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder; no process may write there meanwhile."""
    for part in folder.glob(".*.part"):
        if re.fullmatch(r"\..+\..+-\d+\.part", part.name):
            part.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Sync a folder so that a renaming survives a power cut, if the file system supports that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a path to write; the file takes its place at ``path`` when the block ends. Make the folder first.

    Until then, an existing file at ``path`` stays as it is. Several processes, even on several machines, may write the
    same file: the last one to finish replaces the others.

    Raises:
        UserError: if the file cannot be written; no part of it stays.
    """
    part = part_of(path)
    try:
        with refusing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield part
            part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink()


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """Open a text file for writing; it takes its place at ``path`` when the block ends (:func:`whole`).

    What UTF-8 cannot encode, such as parts of some file names, is written with backslashes.

    Raises:
        UserError: if the file cannot be written.
    """
    with whole(path) as part, part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        yield file


def scratch(shape: tuple[int, ...], dtype: DTypeLike = np.uint8) -> NDArray[Any]:
    """Return zeros in a temporary file, which disappears with the process; in memory where there is no room."""
    if 0 in shape or not hasattr(os, "posix_fallocate"):
        return np.zeros(shape, dtype)
    try:
        with tempfile.TemporaryFile() as file:
            # a full disk shows here, not as a bus error later
            os.posix_fallocate(file.fileno(), 0, math.prod(shape) * np.dtype(dtype).itemsize)
            return np.memmap(file, dtype, "r+", shape=shape)
    except OSError:
        return np.zeros(shape, dtype)
