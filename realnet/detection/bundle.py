"""Bundles: a detector as one file without code, a zip of safetensors and JSON (docs/bundle.md)."""

import lzma
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as tensor_bytes
from torch import Tensor

from realnet.detection import description
from realnet.errors import UserError
from realnet.models.checkpoint import Checkpoint
from realnet.runtime.files import whole

SUFFIX = ".realnet"
DESCRIPTION, WEIGHTS = "realnet.json", "weights.safetensors"
Storage = Literal["float32", "bfloat16"]
ZIP_ERRORS = (zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError, RuntimeError, ValueError)
"""What ``zipfile`` raises for archives that are damaged, encrypted, or compressed in ways that it does not know."""
ZIP_MARK = b"PK\x03\x04"


def write(path: Path, detector: Checkpoint, *, texts: Mapping[str, str] | None = None) -> None:
    """Write a bundle; an existing file is replaced at the end.

    Args:
        path: the file.
        detector: all that the bundle holds, the backbone's weights too unless they are to stay outside.
        texts: further files of the bundle, for people, by name.

    Raises:
        UserError: if the file cannot be written.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in detector.state_dict.items()}
    is_rounded = any(value.dtype == torch.bfloat16 for value in tensors.values())
    storage: Storage = "bfloat16" if is_rounded else "float32"
    with whole(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as file:
        file.writestr(DESCRIPTION, description.describe(detector, storage=storage))
        for name, text in (texts or {}).items():
            file.writestr(name, text)
        file.writestr(WEIGHTS, tensor_bytes(tensors))


def is_bundle(path: Path) -> bool:
    """Tell whether a file is a bundle, or by its name should be one."""
    if path.suffix == SUFFIX:
        return True
    try:
        with zipfile.ZipFile(path) as file:
            return DESCRIPTION in file.namelist()
    except ZIP_ERRORS:
        return False


def read(path: Path) -> Checkpoint:
    """Read a bundle.

    Raises:
        UserError: if it is none, is truncated or damaged, or has a newer version; names the file.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; make it with: python export_realnet.py --format bundle")
    try:
        with zipfile.ZipFile(path) as file:
            stored = description.parse(_member(file, DESCRIPTION, path), path)
            weights = _member(file, WEIGHTS, path)
    except ZIP_ERRORS as error:
        raise _unreadable(path, error) from error
    try:
        return replace(stored, state_dict=parse_tensors(weights))
    except SafetensorError as error:
        raise _unreadable(path, error) from error


def rounded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with the weights of layers in bfloat16; statistics, biases and indexes stay as they are."""
    return {
        name: value.to(torch.bfloat16) if name.endswith(".weight") and value.ndim >= 2 else value
        for name, value in state.items()
    }


def _member(file: zipfile.ZipFile, name: str, path: Path) -> bytes:
    if name not in file.namelist():
        raise UserError(f"{path} is no bundle: it holds no {name}; export the detector again")
    return file.read(name)


def _unreadable(path: Path, error: Exception) -> UserError:
    with path.open("rb") as start:
        is_part = start.read(len(ZIP_MARK)) == ZIP_MARK
    reason = f"is truncated or damaged ({error}); copy it" if is_part else "is no bundle; export the detector"
    return UserError(f"{path} {reason} again")
