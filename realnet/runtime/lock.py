"""One run a folder: a lock that names its holder and ends with it."""

import errno
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path

from realnet.errors import UserError
from realnet.runtime import distributed
from realnet.runtime.distributed import World
from realnet.runtime.files import refusing, remove_parts

LOCK = ".lock"
"""Name of the file that a run holds. It names the holder; the lock itself is the system's, which ends it at a crash."""
TAKEN = {errno.EAGAIN, errno.EACCES, errno.EDEADLK}

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, 2**30, os.SEEK_SET)  # a byte beyond the record, which others may read
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # on NFS, the server keeps it


@contextmanager
def one_run(folder: Path, world: World) -> Iterator[None]:
    """Keep other runs out of a folder until the block ends, and remove what killed ones left half-written there.

    Raises:
        UserError: on all processes, if another run holds the folder; the message names its computer and process.
    """
    with ExitStack() as held:
        with distributed.refusing_together():
            if world.is_main:
                held.enter_context(locked(folder))
                remove_parts(folder)
        yield


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; it and its parents are made if they do not exist, and go again if they stay empty.

    Where the file system knows no locks, the record of a process that still runs, or may run on another computer, takes
    the lock's place.

    Raises:
        UserError: if another run holds the folder.
    """
    path = folder / LOCK
    with refusing(folder):
        made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(path)
    _held.add(descriptor)
    try:
        yield
    finally:
        _held.discard(descriptor)
        with suppress(OSError):
            path.unlink()
            for parent in made:
                parent.rmdir()
        os.close(descriptor)


def _acquire(path: Path) -> int:
    """Return the descriptor of the locked file at a path."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _take(path, descriptor)
            if _is_at(path, descriptor):
                record = {"host": socket.gethostname(), "pid": os.getpid(), "since": f"{datetime.now():%Y-%m-%d %H:%M}"}
                os.ftruncate(descriptor, 0)
                os.lseek(descriptor, 0, os.SEEK_SET)
                os.write(descriptor, json.dumps(record).encode())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder has just removed it: take the new one


def _take(path: Path, descriptor: int) -> None:
    repair = "wait until it ends, or end it"
    try:
        _lock(descriptor)
    except OSError as error:
        holder = _holder(path)
        if error.errno not in TAKEN:
            if not _may_run(holder):
                return
            repair += f"; if it has ended, delete {path}"
        host, pid, since = (holder.get(name, "?") for name in ("host", "pid", "since"))
        raise UserError(
            f"{path.parent} belongs to another run: process {pid} on {host}, since {since}; {repair}"
        ) from error


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _holder(path: Path) -> dict[str, object]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _may_run(holder: dict[str, object]) -> bool:
    """Tell whether the process that a record names may still run."""
    pid = holder.get("pid")
    if holder.get("host") != socket.gethostname() or not isinstance(pid, int) or sys.platform == "win32":
        return bool(holder)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


_held: set[int] = set()


def _leave_to_parent() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):  # a worker that outlives a killed run would keep its lock
    os.register_at_fork(after_in_child=_leave_to_parent)
