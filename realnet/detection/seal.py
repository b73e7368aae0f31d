"""The description that an exported network carries, with a checksum of all, which are read without a runtime.

So damage, a stranger's file and another detector's weights are known before a runtime opens them.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from html import unescape
from itertools import chain
from pathlib import Path
from typing import Any

from realnet.detection import onnx_file
from realnet.detection.onnx_file import METADATA
from realnet.detection.runtimes import import_extra
from realnet.errors import UserError

CHECKSUM = "checksum"
"""The key in the description; version 1.0 wrote none."""
IN_XML = re.compile(rb'<realnet value="([^"]*)"\s*/>')
"""The description in an OpenVINO model."""
PART = 2**20
"""Bytes read at a time."""


def write_onnx(path: Path, description: str) -> None:
    """Let an ONNX file carry a description."""
    onnx = import_extra("onnx")
    network = onnx.load(path)

    def save(text: str) -> None:
        onnx.helper.set_model_props(network, {METADATA: text})
        onnx.save(network, path)

    _write(path, description, save)


def write_openvino(network: Any, path: Path, description: str) -> None:
    """Write an OpenVINO model, ``.xml`` with a ``.bin`` beside it, with a description."""
    openvino = import_extra("openvino")

    def save(text: str) -> None:
        network.set_rt_info(text, METADATA)
        openvino.save_model(network, path, compress_to_fp16=False)

    _write(path, description, save)


def _write(path: Path, description: str, save: Callable[[str], None]) -> None:
    values = json.loads(description)
    values.pop(CHECKSUM, None)  # of the file that the description was read from
    save(_text(values))  # in the form that the checksum is of
    save(_text({**values, CHECKSUM: _checksum(path, values)}))


def _text(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=1, ensure_ascii=False)


def read_description(path: Path) -> str:
    """Return the description in an ONNX file or an OpenVINO model; "{}" of a stranger's.

    Raises:
        UserError: if the file is truncated or damaged, or is not the one that was exported.
    """
    weights = path.with_suffix(".bin")
    if path.suffix != ".onnx" and not weights.is_file():
        raise UserError(f"{weights} does not exist, which holds the weights of {path}; copy both files")
    try:
        text = onnx_file.description_of(path) if path.suffix == ".onnx" else _in_xml(path)
        values = json.loads(text or "{}")
        told = values.pop(CHECKSUM, None) if isinstance(values, dict) else None
    except ValueError as error:
        raise UserError(
            f"{path} is truncated or damaged ({error}); copy it again, or export the detector again"
        ) from error
    if told is not None and told != _checksum(path, values):
        files = path if path.suffix == ".onnx" else f"{path} or {weights.name}"
        raise UserError(f"{files} is damaged, or another detector's; copy it again, or export the detector again")
    return text or "{}"


def _in_xml(path: Path) -> str:
    data = path.read_bytes()
    if not data.rstrip().endswith(b"</net>"):
        raise ValueError("its end is missing")
    found = IN_XML.search(data)
    return unescape(found[1].decode()) if found else ""


def _checksum(path: Path, description: Mapping[str, Any]) -> str:
    """Return a SHA-256 of a description, and of the ONNX file or the OpenVINO model's two files without it."""
    found = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    parts = onnx_file.network_of(path) if path.suffix == ".onnx" else _openvino_parts(path)
    for part in parts:
        found.update(part)
    return found.hexdigest()


def _openvino_parts(path: Path) -> Iterator[bytes]:
    with path.with_suffix(".bin").open("rb") as weights:
        yield from chain([IN_XML.sub(b"", path.read_bytes())], iter(lambda: weights.read(PART), b""))
