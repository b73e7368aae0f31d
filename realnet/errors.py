"""Errors that scripts report in plain words instead of a traceback."""

import errno
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class UserError(Exception):
    """An error in the user's input; the message shows the value received and says how to repair it.

    Scripts print the message without a traceback and exit with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(as_called_here(message)))


class Stopped(Exception):
    """A signal ended the work early. The work is saved, and the message says how to resume it; scripts exit with 0."""


def for_each(function: Callable[[ItemT], ResultT], items: Iterable[ItemT]) -> list[ResultT]:
    """Return the function's result for each item.

    Raises:
        UserError: if the function refuses any item; the message holds every refusal once.
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
_OF_A_DISPLAY = re.compile(r"lib(GL|EGL|gthread|glib|SM|X\w+)\b[\w.-]*: cannot open shared object")
_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|ALLOC_FAILED")


def advice_on(error: Exception) -> str | None:
    """Return what this computer lacks and what helps, if that caused the error; None for any other error."""
    if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
        where = error.filename or "a file cannot be written"
        return f"{where}: {error.strerror}; free space there, check its permissions, or choose another folder"
    if isinstance(error, ImportError) and _OF_A_DISPLAY.search(str(error)):
        return (
            f"OpenCV cannot be imported, because this computer lacks a display library ({error}); install it: apt "
            "install libgl1 libglib2.0-0, or take OpenCV without displays: pip uninstall opencv-python, then pip "
            "install opencv-python-headless"
        )
    if isinstance(error, RuntimeError) and "shared memory" in str(error):
        return (
            f"the workers that load images lack shared memory ({str(error).splitlines()[-1]}); give the container "
            "more (docker run --shm-size=8g), or set runtime.num_workers=0"
        )
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _OF_MEMORY.search(str(error))):
        reason = ". ".join((str(error) or type(error).__name__).splitlines()[0].split(". ")[:2])
        return (
            f"there is not enough memory ({reason}). Make the batches smaller (train.batch_size, with a larger "
            "train.accumulation to make up for it; evaluation.batch_size; batch_size for sample.py), or set "
            "runtime.activation_checkpointing=true or runtime.precision=bf16; --dry-run shows how much is needed"
        )
    return None


def message_of(error: UserError) -> str:
    """Return the message alone, without the traceback that a DataLoader's worker puts around it."""
    return str(error).rpartition(f"{UserError.__module__}.{UserError.__name__}: ")[2].rstrip()


VERBS: Mapping[str, str] = {
    "prepare_data": "prepare",
    "train_diffusion": "train-diffusion",
    "train_classifier": "train-classifier",
    "sample": "sample",
    "train_realnet": "train",
    "evaluation_realnet": "evaluate",
    "predict_realnet": "predict",
    "synthesize": "synthesize",
    "calibrate_realnet": "calibrate",
    "export_realnet": "export",
    "serve_realnet": "serve",
}
"""The scripts of a checkout, and the verbs of the installed command ``realnet`` that are the same commands."""
_IS_CHECKOUT = (Path(__file__).parents[1] / "train_realnet.py").is_file()


def as_called_here(text: str) -> str:
    """Return a text that calls commands as they are called here: by scripts in a checkout, elsewhere by verbs."""
    if _IS_CHECKOUT:
        return text
    return re.sub(rf"python ({'|'.join(VERBS)})\.py", lambda found: f"realnet {VERBS[found[1]]}", text)


def printable(text: str) -> str:
    """Return the text with backslashes for what UTF-8 cannot encode, such as parts of some file names."""
    return text.encode(errors="backslashreplace").decode()
