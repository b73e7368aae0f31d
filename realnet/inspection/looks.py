"""Look at many image files: whether each can be read, how large it is, and what it holds."""

import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from realnet.data.headers import image_size
from realnet.data.images import Image, Mask, read_image, read_mask
from realnet.errors import UserError

NUM_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class Look:
    """What is known about a file.

    Attributes:
        size: (height, width); None if the file cannot be read.
        exists: whether the file exists.
        pixels: digest of the pixels; None if they were not decoded.
        is_blank: whether a decoded mask shows no defect.
    """

    size: tuple[int, int] | None
    exists: bool = True
    pixels: bytes | None = None
    is_blank: bool = False


def look_at_images(files: Iterable[Path], *, decode: bool = False) -> dict[Path, Look]:
    """Look at image files, several at a time.

    Args:
        files: the files; repeated ones are looked at once.
        decode: decode each file, instead of reading only its header and end.
    """
    return _look_at_all(files, read_image if decode else None)


def look_at_masks(files: Iterable[Path], *, decode: bool = False) -> dict[Path, Look]:
    """Look at mask files, several at a time; see ``look_at_images``."""
    return _look_at_all(files, read_mask if decode else None)


def _look_at_all(files: Iterable[Path], read: Callable[[Path], Image | Mask] | None) -> dict[Path, Look]:
    each = list(dict.fromkeys(files))
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        return dict(zip(each, threads.map(partial(_look_at, read), each), strict=True))


def _look_at(read: Callable[[Path], Image | Mask] | None, path: Path) -> Look:
    if not path.is_file():
        return Look(None, exists=False)
    try:
        if read is None:
            return Look(image_size(path))
        pixels = read(path)
    except UserError:
        return Look(None)
    height, width = pixels.shape[:2]
    return Look((height, width), pixels=_digest(pixels), is_blank=not pixels.any())


def _digest(pixels: Image | Mask) -> bytes:
    return hashlib.blake2b(pixels.tobytes() + repr(pixels.shape).encode()).digest()
