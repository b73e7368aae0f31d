"""What scripts say instead of a traceback."""

import errno
import re
from collections.abc import Callable, Iterable
from typing import TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class UserError(Exception):
    """Say what is wrong with the user's input, with the value received, and how to repair it.

    Scripts print the message without a traceback and exit with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class Stopped(Exception):
    """A signal has ended the work early: it is saved, and the text says how to go on. Scripts exit with code 0."""


def for_each(function: Callable[[ItemT], ResultT], items: Iterable[ItemT]) -> list[ResultT]:
    """Return what the function makes of each item.

    Raises:
        UserError: where it refuses some: all refusals in one message, equal ones once.
    """
    results: list[ResultT] = []
    refusals: list[str] = []
    for item in items:
        try:
            results.append(function(item))
        except UserError as error:
            refusals.append(str(error))
    if refusals:
        raise UserError("\n".join(dict.fromkeys(refusals)))
    return results


_OF_THE_DISK = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO),
    *(errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
}
_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|ALLOC_FAILED")


def advice_on(error: Exception) -> str | None:
    """Say what this computer lacks, and what helps, where an error comes of that; None: it is another one."""
    if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
        where = error.filename or "a file cannot be written"
        return f"{where}: {error.strerror}; free space there, check its permissions, or choose another folder"
    if isinstance(error, RuntimeError) and "shared memory" in str(error):
        return (
            f"the workers that load images lack shared memory ({str(error).splitlines()[-1]}); give the container "
            "more, such as by docker run --shm-size=8g, or set runtime.num_workers=0"
        )
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _OF_MEMORY.search(str(error))):
        reason = ". ".join((str(error) or type(error).__name__).splitlines()[0].split(". ")[:2])
        return (
            f"there is not enough memory ({reason}). Make the batches smaller (train.batch_size, with "
            "train.accumulation so much larger; evaluation.batch_size; of sample.py batch_size), or set "
            "runtime.activation_checkpointing=true or runtime.precision=bf16; --dry-run states the need"
        )
    return None


def message_of(error: UserError) -> str:
    """Return the message alone; a worker of a DataLoader hands its errors on wrapped in a traceback."""
    return str(error).rpartition(f"{UserError.__module__}.{UserError.__name__}: ")[2]


def printable(text: str) -> str:
    """Return the text with backslashes for what UTF-8 cannot write, as of file names that are not in it."""
    return text.encode(errors="backslashreplace").decode()
