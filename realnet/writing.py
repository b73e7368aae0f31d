"""Text files that others only ever see whole."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from realnet.errors import UserError


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """Open a file, with its folder, that takes its name once the block has ended; until then what was there stays.

    Several processes, also of several machines, may write the same file: the last one's stays, whole. What UTF-8
    cannot write, as names of files that are not in it, is written with backslashes.

    Raises:
        UserError: where it cannot be written.
    """
    part = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            yield file
        part.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; free space there or choose another folder") from error
    finally:
        with suppress(OSError):
            part.unlink()
