"""What an ONNX file says of itself, read without a runtime.

An ONNX file is a protocol buffer: a row of fields, each a tag (number and kind) and a value. The network is one field,
which is passed over; the metadata are fields of their own, of a key and a value.
"""

import io
import json
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
PART = 2**20
"""Bytes read at a time."""


def seconds_of(path: Path) -> dict[str, float]:
    """Return what an image took at the export, by the runtime's name; {} if the file does not say, or is damaged."""
    try:
        found = json.loads(description_of(path))["seconds"]
        return {str(name): float(value) for name, value in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def description_of(path: Path) -> str:
    """Return the description that a file carries; "" if it has none.

    Raises:
        ValueError: if the file ends within a field, or has one that no ONNX file has.
    """
    text, size = "", path.stat().st_size
    with path.open("rb") as file:
        for number, _, value, end in _fields(file):
            if end > size:
                raise ValueError("its end is missing")
            if number == METADATA_FIELD and end - value <= LONGEST_TEXT:
                file.seek(value)
                text = _value_of(file.read(end - value)) or text
    return text


def network_of(path: Path) -> Iterator[bytes]:
    """Yield all but the metadata, in parts; raises ValueError as :func:`description_of`."""
    with path.open("rb") as file:
        for number, start, _, end in _fields(file):
            if number != METADATA_FIELD:
                file.seek(start)
                while (left := end - file.tell()) > 0 and (part := file.read(min(left, PART))):
                    yield part


def _value_of(entry: bytes) -> str:
    """Return the value of an entry of the metadata if its key is ``METADATA``, else ""."""
    found = {number: entry[value:end] for number, _, value, end in _fields(io.BytesIO(entry))}
    return found[VALUE_FIELD].decode() if found.get(KEY_FIELD) == METADATA.encode() else ""


def _fields(file: BinaryIO) -> Iterator[tuple[int, int, int, int]]:
    """Yield each field's number, and where it, its value and the next field begin; the file may be moved meanwhile.

    Raises:
        ValueError: where the file ends within the beginning of a field, or a field is of an unknown kind.
    """
    start = 0
    while (tag := _number(file, at_end=0)) != 0:
        kind, value = tag % 8, file.tell()
        if kind == 0:
            _number(file)
            end = file.tell()
        elif kind in WIDTHS:
            end = value + WIDTHS[kind]
        elif kind == 2:
            length = _number(file)
            value = file.tell()
            end = value + length
        else:
            raise ValueError(f"a field of the unknown kind {kind}")
        yield tag // 8, start, value, end
        file.seek(end)
        start = end


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
