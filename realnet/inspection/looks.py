"""Look at many image files: whether each can be read, how large it is, and what it holds."""

import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from realnet.config import MaskRule
from realnet.data.headers import image_size
from realnet.data.images import Image, Mask, is_lossy, read_image, read_mask, read_pixels
from realnet.errors import UserError

NUM_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class Look:
    """What is known about a file.

    Attributes:
        size: (height, width); None if the file cannot be read.
        exists: whether the file exists.
        pixels: digest of the pixels; None if they were not decoded.
        share: of a decoded mask, the share of defect pixels.
        num_levels: of a decoded mask, the number of different values in it.
        is_lossy: whether a decoded mask is a JPEG.
    """

    size: tuple[int, int] | None
    exists: bool = True
    pixels: bytes | None = None
    share: float | None = None
    num_levels: int = 0
    is_lossy: bool = False


def look_at_images(files: Iterable[Path], *, decode: bool = False) -> dict[Path, Look]:
    """Look at image files, several at a time.

    Args:
        files: the files; repeated ones are looked at once.
        decode: decode each file, instead of reading only its header and end.
    """
    return _look_at_all(files, read_image if decode else None)


def look_at_masks(files: Iterable[Path], rule: MaskRule, *, decode: bool = False) -> dict[Path, Look]:
    """Look at mask files, of which the rule says what is a defect, several at a time; see ``look_at_images``."""
    looks = _look_at_all(files, partial(read_mask, rule=rule) if decode else None)
    if not decode:
        return looks
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        return dict(zip(looks, threads.map(_with_levels, looks, looks.values()), strict=True))


def _with_levels(path: Path, look: Look) -> Look:
    if look.size is None:
        return look
    brightest = read_pixels(path)[..., :3].max(axis=2)
    return replace(look, num_levels=int(np.count_nonzero(np.bincount(brightest.ravel()))), is_lossy=is_lossy(path))


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
    share = float(pixels.mean()) if pixels.dtype == np.bool_ else None
    return Look((height, width), pixels=_digest(pixels), share=share)


def _digest(pixels: Image | Mask) -> bytes:
    return hashlib.blake2b(pixels.tobytes() + repr(pixels.shape).encode()).digest()
