"""What a TIFF file says of its first page: how colours are stored, and whether more pages follow."""

import struct
from contextlib import suppress

PHOTOMETRIC, BITS, SAMPLES = 262, 258, 277
WHITE_IS_ZERO, RGB = 0, 2
COLOURS = {5: "CMYK colours", 6: "YCbCr colours", 8: "Lab colours", 9: "Lab colours", 10: "Lab colours"}
LAB = frozenset({8, 9, 10})
_SIZES = {1: 1, 3: 2, 4: 4}
"""Bytes of a value, by its type."""


def tags_of(data: bytes) -> dict[int, int]:
    """Return the first value of each tag of the first page; nothing for other files and damaged ones."""
    return _first_page(data)[0]


def has_pages(data: bytes) -> bool:
    """Tell whether a TIFF file holds several pages."""
    return bool(_first_page(data)[1])


def misread(data: bytes) -> str | None:
    """Return what a TIFF file holds that OpenCV reads as something else; None if there is nothing."""
    tags = tags_of(data)
    photometric = tags.get(PHOTOMETRIC)
    if photometric in LAB:
        return COLOURS[photometric]
    return "16-bit values of which 0 is white" if photometric == WHITE_IS_ZERO and tags.get(BITS, 1) > 8 else None


def has_transparency(data: bytes) -> bool:
    """Tell whether a TIFF file holds 8-bit colours with transparency, by which OpenCV multiplies the colours."""
    tags = tags_of(data)
    return tags.get(PHOTOMETRIC) == RGB and tags.get(SAMPLES) == 4 and tags.get(BITS) == 8


def _first_page(data: bytes) -> tuple[dict[int, int], int]:
    """Return the tags of the first page and the position of the next one; 0 if there is none."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    tags: dict[int, int] = {}
    with suppress(struct.error, OverflowError):  # damaged: positions beyond the end, or beyond 63 bits
        if order and struct.unpack_from(f"{order}H", data, 2)[0] in {42, 43}:
            is_big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
            offset, count, room = ("Q", "Q", 8) if is_big else ("I", "H", 4)
            (start,) = struct.unpack_from(f"{order}{offset}", data, 8 if is_big else 4)
            (number,) = struct.unpack_from(f"{order}{count}", data, start)
            start += struct.calcsize(count)
            for entry in range(start, start + number * (4 + 2 * room), 4 + 2 * room):
                tag, kind, length = struct.unpack_from(f"{order}HH{offset}", data, entry)
                size, place = _SIZES.get(kind, 0), entry + 4 + room
                if size * length > room:
                    (place,) = struct.unpack_from(f"{order}{offset}", data, place)
                if size:
                    tags[tag] = int.from_bytes(data[place : place + size], "little" if order == "<" else "big")
            return tags, struct.unpack_from(f"{order}{offset}", data, start + number * (4 + 2 * room))[0]
    return tags, 0
