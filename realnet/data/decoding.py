"""Decode image files with OpenCV; say of one that cannot be read what is wrong with it."""

import logging
import re
import struct
import warnings
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from realnet.errors import UserError

logger = logging.getLogger("realnet")

cv2.setNumThreads(1)  # worker processes already load the many small items in parallel
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # our own errors name unreadable files
warnings.filterwarnings("ignore", category=PILImage.DecompressionBombWarning)  # OpenCV decodes; PIL reads headers

_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
"""In a JPEG's coded data: any marker but the stuffing and the restarts, which belong to the data."""
_END = 0xD9
NO_RANGE = (
    "{name} holds {dtype} values, of which nobody knows the range; convert it to 8 or 16 bits, such as with "
    "cv2.imwrite(name, (255 * (x - low) / (high - low)).astype('uint8'))"
)


def decode(source: Path | bytes, flags: int) -> NDArray[Any]:
    """Return the pixels of an image, (H, W) or (H, W, C) in OpenCV's order, as its flags ask for them.

    Of a file with several pages, the first; the first such file in a folder is named in a warning.

    Args:
        source: path of the image's file, or the file's bytes.
        flags: OpenCV's ``IMREAD_`` flags.

    Raises:
        UserError: if the file is missing, unreadable or truncated, or holds values without a known range; names it.
    """
    data = source if isinstance(source, bytes) else _read(source)
    pixels = _try(data, flags)
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        raise UserError(_reason("the photograph" if isinstance(source, bytes) else str(source), data))
    if isinstance(source, Path) and has_pages(data):
        _warn_of_pages(source.parent, source.name)
    return pixels


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read the image {path}: {error.strerror}; check the path and its permissions"
        ) from error


def is_truncated(data: bytes) -> bool:
    """Tell whether a JPEG or PNG lacks its end; OpenCV's decoder judges other formats.

    What follows the end, such as the video of a phone's photograph, does not count.
    """
    if data.startswith(b"\xff\xd8"):
        return not _has_end_of_jpeg(data)
    return data.startswith(b"\x89PNG") and not _has_end_of_png(data)


def has_pages(data: bytes) -> bool:
    """Tell whether a TIFF file holds several pages."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        return False
    with suppress(struct.error):
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (number,) = struct.unpack_from(f"{order}H", data, start)
        return bool(struct.unpack_from(f"{order}I", data, start + 2 + 12 * number)[0])
    return False


def _has_end_of_jpeg(data: bytes) -> bool:
    """Follow the segments by their lengths, and coded data to its next marker, until the end mark."""
    position = 2
    while match := _MARKER.search(data, position):
        marker, position = data[match.end() - 1], match.end()
        if marker == _END:
            return True
        if position + 2 > len(data):
            return False
        position += int.from_bytes(data[position : position + 2], "big")
    return False


def _has_end_of_png(data: bytes) -> bool:
    position = 8
    while position + 12 <= len(data):
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        position += 12 + length
        if kind == b"IEND":
            return position <= len(data)
    return False


def _try(data: bytes, flags: int) -> NDArray[Any] | None:
    """Return the pixels; None if they cannot be decoded."""
    if not data or is_truncated(data):  # some OpenCV versions silently fill the missing part with grey
        return None
    with suppress(cv2.error):  # for example, more than 2^30 pixels
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    return None


def _reason(name: str, data: bytes) -> str:
    """Return why an image cannot be used, and what to do."""
    pixels = _try(data, cv2.IMREAD_UNCHANGED)
    if pixels is not None:
        return NO_RANGE.format(name=name, dtype=pixels.dtype)
    if data[4:8] == b"ftyp" and data[8:11] in {b"hei", b"mif", b"hev"}:
        return f"{name} is a HEIC photograph, which OpenCV cannot read; convert it to JPEG or PNG"
    return (
        f"{name} ({len(data)} bytes) is truncated, or not an image that OpenCV can read (2^30 pixels at most); "
        "replace the file or remove it"
    )


@lru_cache(maxsize=1)
def _warned() -> list[Path]:
    return []


def _warn_of_pages(folder: Path, name: str) -> None:
    """Name the first file with several pages of each folder, once."""
    if folder not in _warned():
        _warned().append(folder)
        logger.warning("WARNING: %s has several pages; of such files, only the first page is used", folder / name)
