"""Look at many image files: whether each can be read, how large it is, and what it holds."""

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from realnet.config import MaskRule
from realnet.data.headers import image_size
from realnet.data.images import Image, Mask, defects_in, is_lossy, read_image, read_mask_values
from realnet.errors import UserError
from realnet.inspection.mask_looks import NUM_THREADS, has_two_colours, may_be_mask


@dataclass(frozen=True)
class Look:
    """What is known about a file.

    Attributes:
        size: (height, width); None if the file cannot be read.
        exists: whether the file exists.
        pixels: digest of the pixels; None if they were not decoded.
        is_mask_like: whether a decoded image looks like a mask.
        share: of a decoded mask, the share of defect pixels.
        num_levels: of a decoded mask, the number of different values in it.
        is_lossy: whether a decoded mask is a JPEG.
    """

    size: tuple[int, int] | None
    exists: bool = True
    pixels: bytes | None = None
    is_mask_like: bool = False
    share: float | None = None
    num_levels: int = 0
    is_lossy: bool = False


def look_at_images(files: Iterable[Path], *, decode: bool = False) -> dict[Path, Look]:
    """Look at image files, several at a time.

    Args:
        files: the files; repeated ones are looked at once.
        decode: decode each file, instead of reading only its header and end.
    """
    return _look_at_all(files, _look_at_image if decode else _look_at_header)


def look_at_masks(files: Iterable[Path], rule: MaskRule, *, decode: bool = False) -> dict[Path, Look]:
    """Look at mask files, of which the rule says what is a defect, several at a time; see ``look_at_images``."""
    return _look_at_all(files, partial(_look_at_mask, rule) if decode else _look_at_header)


def _look_at_all(files: Iterable[Path], look_at: Callable[[Path], Look]) -> dict[Path, Look]:
    def look(path: Path) -> Look:
        try:
            return look_at(path) if path.is_file() else Look(None, exists=False)
        except UserError:
            return Look(None)

    each = list(dict.fromkeys(files))
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        return dict(zip(each, threads.map(look, each), strict=True))


def _look_at_header(path: Path) -> Look:
    return Look(image_size(path))


def _look_at_image(path: Path) -> Look:
    pixels = read_image(path)
    height, width = pixels.shape[:2]
    is_mask_like = may_be_mask(path, (height, width)) and has_two_colours(pixels)
    return Look((height, width), pixels=_digest(pixels), is_mask_like=is_mask_like)


def _look_at_mask(rule: MaskRule, path: Path) -> Look:
    values = read_mask_values(path, rule)
    mask, brightest = defects_in(values, rule), values[..., :3].max(axis=2)
    return Look(
        (mask.shape[0], mask.shape[1]),
        pixels=_digest(mask),
        share=float(mask.mean()),
        num_levels=int(np.count_nonzero(np.bincount(brightest.ravel()))),
        is_lossy=is_lossy(path),
    )


def _digest(pixels: Image | Mask) -> bytes:
    return hashlib.blake2b(pixels.tobytes() + repr(pixels.shape).encode()).digest()
