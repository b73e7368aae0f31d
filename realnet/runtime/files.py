"""Write files that readers only ever see whole, and name those that cannot be written."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

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
        raise UserError(f"cannot write {path}: {error.strerror}; free space there or choose another folder") from error


@contextmanager
def whole(path: Path, part: Path) -> Iterator[None]:
    """Rename ``part``, which the block writes, to ``path`` when the block ends; make the folder first.

    Until then, an existing file at ``path`` stays as it is.

    Raises:
        UserError: if the file cannot be written; ``part`` is removed.
    """
    try:
        with refusing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield
            part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink()


def part_of(path: Path) -> Path:
    """Return the path at which this process alone writes a file that is to take its place at ``path``."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.part")


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """Open a text file for writing; it takes its place at ``path`` when the block ends (:func:`whole`).

    Several processes, even on several machines, may write the same file: the last one to finish replaces the others.
    What UTF-8 cannot encode, such as parts of some file names, is written with backslashes.

    Raises:
        UserError: if the file cannot be written.
    """
    part = part_of(path)
    with whole(path, part), part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        yield file
