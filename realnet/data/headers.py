"""The size of an image without decoding it, and whether its file is whole: microseconds instead of milliseconds."""

import os
from pathlib import Path
from typing import BinaryIO, cast

from PIL import Image as PILImage
from PIL.ImageFile import ImageFile

from realnet.data.images import read_image

FORMATS = ("JPEG", "PNG", "BMP")
TAIL_BYTES = 65_536
ORIENTATION, FIRST_TURNED = 0x0112, 5  # EXIF: orientations from 5 on swap height and width


def image_size(path: Path) -> tuple[int, int]:
    """Return the (height, width) that reading an image or a mask would give.

    Of JPEG, PNG and BMP the header is read and the file's end looked at; damage in between shows only when the file
    is decoded, as those of other formats are here.

    Raises:
        UserError: where the file is missing, unreadable or truncated; names it.
    """
    found = _size_in_header(path)
    if found is not None:
        return found
    height, width = read_image(path).shape[:2]
    return height, width


def _size_in_header(path: Path) -> tuple[int, int] | None:
    """Return None wherever only a decoder can tell."""
    try:
        with path.open("rb") as file, PILImage.open(file, formats=FORMATS) as image:
            is_turned = image.format == "JPEG" and image.getexif().get(ORIENTATION, 1) >= FIRST_TURNED
            may_be_turned = image.format != "JPEG" and "exif" in image.info
            if may_be_turned or not _is_whole(file, image):
                return None
            return (image.width, image.height) if is_turned else (image.height, image.width)
    except Exception:  # PIL raises errors of many kinds; the decoder then finds the words
        return None


def _is_whole(file: BinaryIO, image: ImageFile) -> bool:
    """Tell whether the file surely holds all that its header announces."""
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
