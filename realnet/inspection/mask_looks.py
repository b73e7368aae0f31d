"""Tell masks from photographs by their pixels."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from realnet.data.headers import image_size
from realnet.data.images import Image, read_image
from realnet.errors import UserError

NUM_THREADS = min(8, os.cpu_count() or 1)
PHOTOGRAPH_BYTES = 0.4
"""A PNG or a JPEG with more bytes per pixel is no mask; masks have under 0.1."""
HEADER_BYTES = 1000
FLAT_SHARE, SECOND_SHARE = 0.9, 0.5
"""Of a mask, the least share of the two most common colours, and of the second one in all but the first."""
TOLERANCE = 16
"""JPEG turns black and white into values this near."""


def find_mask_looks(files: Iterable[Path]) -> set[Path]:
    """Return the files that look like masks: nearly all of their pixels have one of two colours.

    Unreadable files are left out.
    """
    each = list(files)
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        return {path for path, found in zip(each, threads.map(looks_like_mask, each), strict=True) if found}


def looks_like_mask(path: Path) -> bool:
    """Tell whether nearly all pixels of a file have one of two colours; False if it cannot be read."""
    try:
        return may_be_mask(path, image_size(path)) and has_two_colours(read_image(path))
    except UserError:
        return False


def may_be_mask(path: Path, size: tuple[int, int]) -> bool:
    """Tell whether a file of an image of (height, width) is small enough for a mask."""
    is_packed = path.suffix.lower() in {".png", ".jpg", ".jpeg"}
    return not is_packed or path.stat().st_size <= HEADER_BYTES + PHOTOGRAPH_BYTES * size[0] * size[1]


def has_two_colours(pixels: Image) -> bool:
    """Tell whether nearly all pixels of an image have one of two colours."""
    near = np.where(pixels < TOLERANCE, 0, np.where(pixels > 255 - TOLERANCE, 255, pixels)).astype(np.uint32)
    counts = np.sort(np.unique(near @ np.array([65536, 256, 1], np.uint32), return_counts=True)[1])
    first, second, total = counts[-1], counts[-2] if len(counts) > 1 else 0, counts.sum()
    return bool(first + second >= FLAT_SHARE * total and second >= SECOND_SHARE * (total - first))
