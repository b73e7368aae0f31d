"""Checksums of files' contents; a file is read again only when its inode, size or times change."""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path

from realnet.errors import UserError
from realnet.runtime.files import whole
from realnet.runtime.threads import NUM_THREADS

STORE = ".checksums.json"
"""Name of the file in which the runs of a folder keep the checksums of what they read."""
MARK_DIGITS = 12
PACKAGES = Path(__file__).resolve().parents[2]


def stamp(path: Path) -> tuple[int, int, int, int] | None:
    """Return what changes when a file is written or replaced: inode, size and times; None for a lost file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def checksums(files: Iterable[Path], folder: Path) -> list[str]:
    """Return a checksum of each file's content, 32 hexadecimal digits; "" for a file that cannot be read.

    Args:
        files: the files.
        folder: of a run, where earlier runs may have kept checksums; :func:`keep` keeps the new ones.
    """
    asked = {f"{path}": repr(stamp(path)) for path in files}
    stored = {**_read(folder / STORE), **_new.get(folder, {})}
    fresh = [name for name, now in asked.items() if stored.get(name, ("", ""))[0] != now]
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        made = zip(fresh, threads.map(_checksum, fresh), strict=True)
        found = {name: (asked[name], value) for name, value in made}
    _new.setdefault(folder, {}).update(found)
    return [{**stored, **found}[name][1] for name in asked]


def digest(files: Iterable[Path], folder: Path) -> str:
    """Return one checksum of the contents of several files in their order; see :func:`checksums`."""
    return _hash(" ".join(checksums(files, folder)).encode())


def marks(files: Iterable[Path], folder: Path) -> list[str]:
    """Return the beginnings of :func:`checksums`, enough to recognise a file by; "" for one that cannot be read."""
    return [value[:MARK_DIGITS] for value in checksums(files, folder)]


def keep(folder: Path) -> None:
    """Keep the checksums of a folder's run for later ones, once the run has begun; where they cannot be written, none.

    Call this on the main process.
    """
    if new := _new.pop(folder, {}):
        with suppress(UserError), whole(folder / STORE) as part:
            part.write_text(json.dumps({**_read(folder / STORE), **new}), encoding="utf-8")


_new: dict[Path, dict[str, tuple[str, str]]] = {}
"""The checksums that are not yet kept, by folder and file."""


@cache
def code() -> str:
    """Return a checksum of the program itself."""
    sources = sorted(path for name in ("realnet", "guided_diffusion") for path in (PACKAGES / name).rglob("*.py"))
    return _hash(b"".join(path.read_bytes() for path in sources))


def _read(path: Path) -> dict[str, tuple[str, str]]:
    try:
        return {name: (before, value) for name, (before, value) in json.loads(path.read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _checksum(name: str) -> str:
    try:
        with Path(name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:32]
    except OSError:
        return ""


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
