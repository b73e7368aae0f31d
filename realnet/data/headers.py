"""Read an image's size without decoding it, and check that its file is complete: microseconds, not milliseconds."""

import os
from pathlib import Path
from typing import BinaryIO, cast

from PIL import Image as PILImage
from PIL.ImageFile import ImageFile

from realnet.data.decoding import ORIENTATION
from realnet.data.images import read_image

FORMATS = ("JPEG", "PNG", "BMP")
TAIL_BYTES = 65_536
FIRST_TURNED = 5
"""EXIF orientations from here on swap height and width."""


def image_size(path: Path) -> tuple[int, int]:
    """Return the (height, width) that ``read_image`` or ``read_mask`` would give.

    For JPEG, PNG and BMP, this reads only the header and the end of the file, so damage in between goes unnoticed.
    Files of other formats are decoded.

    Raises:
        UserError: if the file is missing, unreadable or truncated; the message names it.
    """
    found = _size_in_header(path)
    if found is not None:
        return found
    height, width = read_image(path).shape[:2]
    return height, width


def _size_in_header(path: Path) -> tuple[int, int] | None:
    """Return (height, width), or None if only decoding the file can tell."""
    try:
        with path.open("rb") as file, PILImage.open(file, formats=FORMATS) as image:
            is_turned = image.format == "JPEG" and image.getexif().get(ORIENTATION, 1) >= FIRST_TURNED
            may_be_turned = image.format != "JPEG" and "exif" in image.info
            if may_be_turned or not _is_whole(file, image):
                return None
            return (image.width, image.height) if is_turned else (image.height, image.width)
    except Exception:  # PIL raises many kinds of errors; decoding the file gives a clear one
        return None


def _is_whole(file: BinaryIO, image: ImageFile) -> bool:
    """Tell whether the file certainly holds everything that its header announces."""
    num_bytes = os.fstat(file.fileno()).st_size
    file.seek(max(0, num_bytes - TAIL_BYTES))
    tail = file.read()
    if image.format == "JPEG":
        return tail.rfind(b"\xff\xd9") > tail.rfind(b"\xff\xda")  # the end mark follows the last scan
    if image.format == "PNG":
        return b"IEND" in tail[-4096:]
    if image.format == "BMP" and image.tile[0][0] == "raw":
        _, stride, _ = cast(tuple[str, int, int], image.tile[0][3])
        return num_bytes >= image.tile[0][2] + stride * image.height
    return False
