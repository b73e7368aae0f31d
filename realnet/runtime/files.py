"""Files that others only ever see whole, and what is said where they cannot be written."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from realnet.errors import UserError


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Name the file or folder that the block writes where it cannot be written.

    Raises:
        UserError: such as for a full disk.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; free space there or choose another folder") from error


@contextmanager
def whole(path: Path, part: Path) -> Iterator[None]:
    """Have what the block writes as ``part`` take the name ``path``, whose folder is made; until then its file stays.

    Raises:
        UserError: where it cannot be written; nothing of the part is left.
    """
    try:
        with refusing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield
            part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink()


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """Open a text file that is :func:`whole` once the block has ended.

    Several processes, also of several machines, may write the same file: the last one's stays, whole. What UTF-8
    cannot write, as names of files that are not in it, is written with backslashes.

    Raises:
        UserError: where it cannot be written.
    """
    part = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.part")
    with whole(path, part), part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        yield file
