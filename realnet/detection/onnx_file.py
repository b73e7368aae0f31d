"""What an ONNX file says of itself, read without a runtime.

An ONNX file is a protocol buffer: a row of fields, each a tag (number and kind) and a value. The network is one field,
which is passed over; the metadata are fields of their own, of a key and a value.
"""

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

METADATA = "realnet"
"""The key under which an exported network carries its description."""
METADATA_FIELD, KEY_FIELD, VALUE_FIELD = 14, 1, 2
"""Numbers of the fields: of the metadata in the file, and of key and value in these."""
WIDTHS = {1: 8, 5: 4}
"""Bytes of the values of a fixed width, by their kind; 0 is a number of varying width, 2 a number of bytes."""
LONGEST_TEXT = 2**26
"""Bytes; what is longer is a network, or damaged."""


def seconds_of(path: Path) -> dict[str, float]:
    """Return what an image took at the export, by the runtime's name; {} if the file does not say, or is damaged."""
    try:
        found = json.loads(_description(path))["seconds"]
        return {str(name): float(value) for name, value in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _description(path: Path) -> str:
    with path.open("rb") as file:
        for number, entry in _texts(file):
            if number == METADATA_FIELD:
                found = dict(_texts(io.BytesIO(entry)))
                if found.get(KEY_FIELD) == METADATA.encode():
                    return found[VALUE_FIELD].decode()
    return ""


def _texts(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield number and bytes of the fields that hold any; raises ValueError where the file ends within a field."""
    while (tag := _number(file, at_end=0)) != 0:
        kind = tag % 8
        if kind == 0:
            _number(file)
            continue
        if kind != 2 and kind not in WIDTHS:
            raise ValueError(f"a field of the unknown kind {kind}")
        length = WIDTHS.get(kind) or _number(file)
        if kind == 2 and length <= LONGEST_TEXT and tag // 8 in {METADATA_FIELD, KEY_FIELD, VALUE_FIELD}:
            yield tag // 8, file.read(length)
        else:
            file.seek(length, os.SEEK_CUR)


def _number(file: BinaryIO, at_end: int | None = None) -> int:
    """Read a number of varying width: seven bits a byte, the lowest first; the eighth says that more follow."""
    value, shift = 0, 0
    while shift < 64 and (byte := file.read(1)):
        value |= (byte[0] & 127) << shift
        shift += 7
        if byte[0] < 128:
            return value
    if at_end is None or shift:
        raise ValueError("a number is too long, or the file ends within it")
    return at_end
