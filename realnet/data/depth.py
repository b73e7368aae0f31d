"""Find out how many bits the values of a dataset's 16-bit files use: cameras give 10, 12 or 14."""

import struct
from collections.abc import Sequence
from pathlib import Path

import cv2

from realnet.data.decoding import decode
from realnet.errors import UserError

DEPTHS = (8, 10, 12, 14, 16)
NUM_READ = 40
"""Most files that are decoded, evenly spread; the largest value of all counts."""
_PNG_DEPTH, _PNG_CHUNKS = 24, 33


def reading_facts(image_bits: int) -> dict[str, int]:
    """Return what a network must know of its images to read others alike; nothing where 16-bit files use all bits."""
    return {} if image_bits == 16 else {"image_bits": image_bits}


def find_bits(files: Sequence[Path]) -> tuple[int, int]:
    """Return how many bits 16-bit files use, and how many of the files that were looked at are such files.

    A PNG may say it (sBIT). Otherwise it is the smallest of ``DEPTHS`` that holds the largest value of all files; 16 if
    there are no such files. Files that cannot be read are left out.
    """
    step = max(1, -(-len(files) // NUM_READ))
    found = [bits for path in files[::step] if (bits := bits_of(path))]
    return (next(depth for depth in DEPTHS if depth >= max(found)) if found else 16), len(found)


def bits_of(path: Path) -> int | None:
    """Return how many bits the values of a 16-bit file use, as it says or by its largest value; None for any other."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
        if head.startswith(b"\x89PNG") and head[_PNG_DEPTH : _PNG_DEPTH + 1] != b"\x10":
            return None
        if head.startswith(b"\xff\xd8"):
            return None
        if (said := _said_by_png(head)) and said <= max(DEPTHS):  # more is damage
            return said
        pixels = decode(path, cv2.IMREAD_UNCHANGED)
    except (OSError, UserError):
        return None
    return max(1, int(pixels.max()).bit_length()) if pixels.dtype == "uint16" else None


def _said_by_png(head: bytes) -> int | None:
    """Return the largest number of significant bits that a PNG's sBIT names; None without it."""
    position = _PNG_CHUNKS
    while head.startswith(b"\x89PNG") and position + 8 <= len(head):
        length, kind = struct.unpack_from(">I4s", head, position)
        if kind == b"sBIT":
            return max(head[position + 8 : position + 8 + length], default=None)
        position += 12 + length
    return None
