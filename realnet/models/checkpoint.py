"""Checkpoint files: written atomically, read without running code, refused by name when they do not fit."""

import hashlib
import os
import platform
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from realnet.errors import UserError

Kind = Literal["diffusion", "classifier", "realnet", "training state"]

MADE_BY = {
    "diffusion": "python train_diffusion.py --dataset {dataset}",
    "classifier": "python train_classifier.py --dataset {dataset}",
    "realnet": "python train_realnet.py --dataset {dataset} --class_name {class_name}",
}


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a network and where they come from.

    Attributes:
        kind: which network; recognised by its tensors in files of the published formats.
        state_dict: tensors by their published names.
        dataset, classes, class_name, config: None in files of the published formats.
        facts: further plain values (step, metrics, calibration, health, backbone …).
    """

    kind: Kind
    state_dict: Mapping[str, Tensor]
    dataset: str | None = None
    classes: tuple[str, ...] | None = None
    class_name: str | None = None
    config: Mapping[str, Any] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def versions() -> dict[str, str]:
    """Return the versions that a run's numbers depend on."""
    return {"python": platform.python_version(), "torch": str(torch.__version__)}


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write the weights for use; see :func:`write`."""
    values = {
        "kind": checkpoint.kind,
        "dataset": checkpoint.dataset,
        "classes": list(checkpoint.classes or ()),
        "class_name": checkpoint.class_name,
        "config": dict(checkpoint.config or {}),
        "facts": dict(checkpoint.facts),
        "versions": versions(),
        "state_dict": {key: value.detach().contiguous() for key, value in checkpoint.state_dict.items()},
    }
    write(path, values)


def write(path: Path, values: Mapping[str, Any], *, keep_previous: bool = False) -> None:
    """Write tensors and plain values: to a temporary file, synced, renamed; a reader never sees a part of it.

    Args:
        path: where to.
        values: what.
        keep_previous: keep the file that was there as ``<path>.previous``, unless it is truncated.

    Raises:
        UserError: where the disk is full or not writable; the file that was there is intact.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save(dict(values), file)
            file.flush()
            os.fsync(file.fileno())
        if keep_previous and zipfile.is_zipfile(path):
            path.replace(previous(path))
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            temporary.unlink()
        raise UserError(
            f"could not write {path} ({error}); free some disk space, or choose a folder that is yours: "
            "what was there is intact"
        ) from error
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the renaming last through a power cut, where the file system knows how."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def previous(path: Path) -> Path:
    """Return where :func:`write` keeps the file before this one."""
    return path.with_name(f"{path.name}.previous")


def is_whole(path: Path) -> bool:
    """Tell whether a file is there and can be read."""
    try:
        read(path)
    except UserError:
        return False
    return True


def read(path: Path) -> dict[str, Any]:
    """Read a file of tensors and plain values, mapped into memory, without running code from it.

    Raises:
        UserError: where the file is absent, no checkpoint, truncated, or holds more than data.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    is_mappable = zipfile.is_zipfile(path)  # files from before torch 1.6 are not
    try:
        with torch.serialization.safe_globals(_data_types()):
            values = torch.load(path, map_location="cpu", weights_only=True, mmap=is_mappable)
    except Exception as error:  # torch raises many kinds for what is not its own file
        asked = re.search(r"(?i:global:?) (?:GLOBAL )?([\w.]+)", str(error))
        if asked:
            raise UserError(
                f"{path} is refused: it holds code ({asked[1]}), not only weights; get the file from a source you trust"
            ) from error
        reason = str(error).splitlines()[0].split(". ")[0] if str(error) and is_mappable else "not a file of torch.save"
        raise UserError(f"{path} is no complete checkpoint ({reason}); make it or download it again") from error
    return values if isinstance(values, dict) else {"value": values}


def _data_types() -> list[Any]:
    """Return what a file may ask for beside tensors and Python's plain types: EasyDict, as a plain one, and numbers."""
    scalar = np.float64().__reduce__()[0]  # how NumPy pickles a number; the module's name is the version's
    numbers = [type(np.dtype(code)) for code in ("f2", "f4", "f8", "i4", "i8", "?")]
    return [
        (OrderedDict, "easydict.EasyDict"),
        np.dtype,
        *numbers,
        (scalar, "numpy._core.multiarray.scalar"),
        (scalar, "numpy.core.multiarray.scalar"),
    ]


def load(path: Path, *, kind: Kind, dataset: str | None = None, class_name: str | None = None) -> Checkpoint:
    """Read weights in this project's format or a published one.

    Args:
        path: the file.
        kind: what it must hold.
        dataset: the dataset it must be of, where the file says; None: any.
        class_name: the same of the class.

    Raises:
        UserError: where the file is absent (names the command that makes it) or of another kind, dataset or class.
    """
    if not path.is_file():
        command = MADE_BY[kind].format(dataset=dataset or "DATASET", class_name=class_name or "CLASS")
        raise UserError(f"{path} does not exist; make it with: {command}")
    checkpoint = _parse(read(path), path)
    for what, wanted, found in (
        ("kind", kind, checkpoint.kind),
        ("dataset", dataset, checkpoint.dataset),
        ("class", class_name, checkpoint.class_name),
    ):
        if wanted is not None and found is not None and wanted != found:
            raise UserError(f"{path} is of {what} {found!r}, but {wanted!r} is needed; give the right file")
    return checkpoint


def checksum(state: Mapping[str, Tensor]) -> str:
    """Return a SHA-256 over names and bytes of tensors, in the order of the names."""
    digest = hashlib.sha256()
    for key, value in sorted(state.items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_into(
    module: nn.Module, state: Mapping[str, Tensor], source: str, *, may_differ: Sequence[str] = ()
) -> list[str]:
    """Load a state dict strictly.

    Args:
        module: takes copies of the tensors; on the meta device, where it has no memory of its own, the tensors.
        state: by the module's own names.
        source: named in errors.
        may_differ: names (or prefixes) of tensors that stay at their initialisation where shapes differ.

    Returns:
        The names that stay at their initialisation.

    Raises:
        UserError: lists the tensors that are missing, extra or of another shape.
    """
    wanted, heads = module.state_dict(), tuple(may_differ)
    kept = [k for k, v in wanted.items() if k.startswith(heads) and (k not in state or state[k].shape != v.shape)]
    problems = _misfits({key: value for key, value in wanted.items() if key not in kept}, state, kept)
    if problems:
        listed = problems[:20] + ([f"… and {len(problems) - 20} more"] if len(problems) > 20 else [])
        raise UserError("\n  ".join([f"{source} does not fit the network that the config describes:", *listed]))
    taken = {key: value for key, value in state.items() if key not in kept}
    is_empty = any(value.is_meta for value in wanted.values())
    if is_empty:
        taken = {key: value.to(wanted[key].dtype) for key, value in taken.items()}
    module.load_state_dict(taken, strict=False, assign=is_empty)
    return kept


def _misfits(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], kept: Sequence[str]) -> list[str]:
    missing = [f"missing: {key} {tuple(value.shape)}" for key, value in wanted.items() if key not in state]
    extra = [f"extra: {k} {tuple(v.shape)}" for k, v in state.items() if k not in wanted and k not in kept]
    shapes = [
        f"shape: {key} {tuple(state[key].shape)}, needed {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
    return [*missing, *extra, *shapes]


def _parse(values: dict[str, Any], path: Path) -> Checkpoint:
    stored = values.get("state_dict", values)
    if not isinstance(stored, Mapping):
        raise UserError(f"{path} holds no weights: its state_dict is of type {type(stored).__name__}")
    state = {str(key): value for key, value in stored.items() if isinstance(value, Tensor)}
    if "kind" in values and "state_dict" in values:
        return Checkpoint(
            kind=values["kind"],
            state_dict=state,
            dataset=values.get("dataset"),
            classes=tuple(values.get("classes") or ()),
            class_name=values.get("class_name"),
            config=values.get("config"),
            facts=values.get("facts") or {},
        )
    state = {key.removeprefix("module."): value for key, value in state.items()}  # DistributedDataParallel's
    facts: dict[str, Any] = {}
    for key in values.keys() & {"epoch", "loss", "best_metric"}:
        facts[key] = values[key].item() if isinstance(values[key], np.generic) else values[key]
    return Checkpoint(kind=_recognise(state, values, path), state_dict=state, facts=facts)


MARKS: dict[str, Kind] = {"rrs.": "realnet", "out.2.positional_embedding": "classifier", "output_blocks.": "diffusion"}
"""What a kind's tensors, and no other's, begin with."""


def _recognise(state: Mapping[str, Tensor], values: Mapping[str, Any], path: Path) -> Kind:
    for prefix, kind in MARKS.items():
        if any(key.startswith(prefix) for key in state):
            return kind
    if "kind" in values:
        return values["kind"]
    keys = ", ".join(map(str, list(values)[:3])) or "none"
    raise UserError(f"{path} holds no network of this project: its first keys are {keys}; give another file")
