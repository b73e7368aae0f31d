"""Decode image files with OpenCV; say of one that cannot be read what is wrong with it."""

import io
import logging
import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from realnet.data.tiff import COLOURS, PHOTOMETRIC, has_pages, has_transparency, misread, tags_of
from realnet.errors import UserError

logger = logging.getLogger("realnet")

cv2.setNumThreads(1)  # worker processes already load the many small items in parallel
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # our own errors name unreadable files
warnings.filterwarnings("ignore", category=PILImage.DecompressionBombWarning)  # OpenCV decodes; PIL reads headers

_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
"""In a JPEG's coded data: any marker but the stuffing and the restarts, which belong to the data."""
_END = 0xD9
ORIENTATION = 0x0112
"""The EXIF tag that says how a camera was held."""
_TURNS: Mapping[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: np.fliplr,
    3: partial(np.rot90, k=2),
    4: np.flipud,
    5: partial(np.swapaxes, axis1=0, axis2=1),
    6: partial(np.rot90, k=-1),
    7: lambda values: np.rot90(values, 2).swapaxes(0, 1),
    8: np.rot90,
}
NO_RANGE = (
    "{name} holds {dtype} values, of which nobody knows the range; convert it to 8 or 16 bits, such as with "
    "cv2.imwrite(name, (255 * (x - low) / (high - low)).astype('uint8'))"
)


def decode(source: Path | bytes, flags: int) -> NDArray[Any]:
    """Return the pixels of an image, (H, W) or (H, W, C) in OpenCV's order, as its flags ask for them.

    They are rotated according to the file's EXIF orientation, whatever the flags. Of a file with several pages, the
    first is taken; the first such file in a folder is named in a warning.

    Args:
        source: path of the image's file, or the file's bytes.
        flags: OpenCV's ``IMREAD_`` flags.

    Raises:
        UserError: if the file is missing, unreadable or truncated, or holds values without a known range or
            colours that OpenCV misreads; names it.
    """
    data = source if isinstance(source, bytes) else _read(source)
    pixels = None if misread(data) else _try(data, flags)
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        raise UserError(_reason("the photograph" if isinstance(source, bytes) else str(source), data))
    if flags == cv2.IMREAD_UNCHANGED:
        pixels = _upright(pixels, data)
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
    with suppress(PILImage.DecompressionBombError):
        if has_transparency(data):
            return _with_transparency(data, flags)
    with suppress(cv2.error):  # for example, more than 2^30 pixels
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    return None


def _with_transparency(data: bytes, flags: int) -> NDArray[Any] | None:
    """Return the pixels of a TIFF with transparency; None if they cannot be decoded."""
    with suppress(Exception), PILImage.open(io.BytesIO(data)) as image:  # PIL raises many kinds of errors
        if flags == cv2.IMREAD_UNCHANGED and image.mode in {"RGBA", "RGBa"}:
            return cv2.cvtColor(np.asarray(image.convert("RGBA")), cv2.COLOR_RGBA2BGRA)
        plain = image.convert("RGBA") if image.mode == "RGBa" else image
        return cv2.cvtColor(np.asarray(plain.convert("RGB")), cv2.COLOR_RGB2BGR)
    return None


def _upright(pixels: NDArray[Any], data: bytes) -> NDArray[Any]:
    """Rotate pixels that OpenCV was asked to leave unchanged; of TIFF, they are rotated all the same."""
    orientation = 1
    if not tags_of(data):
        with suppress(Exception), PILImage.open(io.BytesIO(data)) as image:  # PIL raises many kinds of errors
            orientation = image.getexif().get(ORIENTATION, 1)
    return np.ascontiguousarray(_TURNS.get(orientation, lambda values: values)(pixels))


def _reason(name: str, data: bytes) -> str:
    """Return why an image cannot be used, and what to do."""
    if held := misread(data):
        return f"{name} is a TIFF with {held}, which OpenCV misreads; convert it to PNG, or to RGB or black-is-0"
    pixels = _try(data, cv2.IMREAD_UNCHANGED)
    if pixels is not None:
        return NO_RANGE.format(name=name, dtype=pixels.dtype)
    if data[4:8] == b"ftyp" and data[8:11] in {b"hei", b"mif", b"hev"}:
        return f"{name} is a HEIC photograph, which OpenCV cannot read; convert it to JPEG or PNG"
    if held := COLOURS.get(tags_of(data).get(PHOTOMETRIC, -1)):
        return f"{name} is a TIFF with {held} that OpenCV cannot read; convert it to PNG"
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
