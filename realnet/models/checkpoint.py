"""Checkpoint files: written atomically, read without running code, checked before use."""

import hashlib
import os
import platform
import re
import shlex
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

import realnet
from realnet.errors import UserError
from realnet.runtime.files import is_zip, part_of, sync_folder

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
        kind: which network; for files in a published format, recognised by the tensors' names.
        state_dict: tensors by their published names.
        dataset, classes, class_name, config: None for files in a published format.
        facts: further plain values (step, metrics, calibration, health, backbone …).
    """

    kind: Kind
    state_dict: Mapping[str, Tensor]
    dataset: str | None = None
    classes: tuple[str, ...] | None = None
    class_name: str | None = None
    config: Mapping[str, Any] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def command_that_makes(kind: Kind, dataset: str | None = None, class_name: str | None = None) -> str:
    """Return the command that makes a checkpoint, ready for a shell."""
    names = {"dataset": shlex.quote(dataset or "DATASET"), "class_name": shlex.quote(class_name or "CLASS")}
    return MADE_BY[kind].format_map(names)


def versions() -> dict[str, str]:
    """Return the versions of this project, Python, torch and timm, which results depend on."""
    packages = {"torch": str(torch.__version__), "timm": metadata.version("timm")}
    return {"realnet": realnet.__version__, "python": platform.python_version(), **packages}


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint file; see :func:`write`."""
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
    """Write tensors and plain values to a file atomically: a reader never sees a part of it.

    The values go to a temporary file, which is synced to disk and then renamed.

    Args:
        path: the file.
        values: tensors and plain values by name.
        keep_previous: keep the existing file as ``<path>.previous``, unless it is truncated.

    Raises:
        UserError: if the disk is full or not writable; the existing file is intact.
    """
    temporary = part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save(dict(values), file)
            file.flush()
            os.fsync(file.fileno())
        if keep_previous and is_zip(path):
            path.replace(previous(path))
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            temporary.unlink()
        raise UserError(
            f"could not write {path} ({error}); free some disk space, or choose a folder that you can write to; "
            "the previous file is intact"
        ) from error
    sync_folder(path.parent)


def previous(path: Path) -> Path:
    """Return the path at which :func:`write` keeps the previous file."""
    return path.with_name(f"{path.name}.previous")


def is_whole(path: Path) -> bool:
    """Tell whether a file exists and can be read."""
    try:
        read(path, mapped=True)
    except UserError:
        return False
    return True


def read(path: Path, *, mapped: bool = False) -> dict[str, Any]:
    """Read a file of tensors and plain values without running code from it.

    Args:
        path: the file.
        mapped: read tensors only when they are used. They change, or end the process, if the file is overwritten: copy
            them, and drop them before anything writes the file.

    Raises:
        UserError: if the file is missing, truncated, no checkpoint, or contains code.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    is_archive = is_zip(path)  # files written before torch 1.6 are not, and cannot be mapped
    try:
        with torch.serialization.safe_globals(_data_types()):
            values = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and is_archive)
    except Exception as error:  # torch raises many types for files that are not its own
        asked = re.search(r"(?i:global:?) (?:GLOBAL )?([\w.]+)", str(error))
        if asked:
            raise UserError(
                f"{path} is refused: it holds code ({asked[1]}), not only weights; get the file from a source you trust"
            ) from error
        reason = str(error).splitlines()[0].split(". ")[0] if str(error) and is_archive else "not a file of torch.save"
        raise UserError(f"{path} is not a complete checkpoint ({reason}); make it or download it again") from error
    return values if isinstance(values, dict) else {"value": values}


def _data_types() -> list[Any]:
    """Return the types that a file may hold beside tensors and plain values: EasyDict, read as a dict, and numbers."""
    scalar = np.float64().__reduce__()[0]  # how NumPy pickles a number; its module depends on the version
    numbers = [type(np.dtype(code)) for code in ("f2", "f4", "f8", "i4", "i8", "?")]
    return [
        (OrderedDict, "easydict.EasyDict"),
        np.dtype,
        *numbers,
        (scalar, "numpy._core.multiarray.scalar"),
        (scalar, "numpy.core.multiarray.scalar"),
    ]


def load(
    path: Path, *, kind: Kind, dataset: str | None = None, class_name: str | None = None, mapped: bool = False
) -> Checkpoint:
    """Read a checkpoint in this project's format or a published one.

    Args:
        path: the file.
        kind: the network that it must hold.
        dataset: the dataset that it must belong to, if the file names one; None accepts any.
        class_name: the class that it must belong to, likewise.
        mapped: as for :func:`read`.

    Raises:
        UserError: if the file is missing (the message names the command that creates it) or of another kind, dataset
            or class.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; make it with: {command_that_makes(kind, dataset, class_name)}")
    checkpoint = _parse(read(path, mapped=mapped), path)
    require_match(checkpoint, path, kind=kind, dataset=dataset, class_name=class_name)
    return checkpoint


def require_match(
    checkpoint: Checkpoint, path: Path, *, kind: Kind, dataset: str | None = None, class_name: str | None = None
) -> None:
    """Refuse a checkpoint of another kind, dataset or class, as :func:`load` does; a unified one is of all its classes.

    Raises:
        UserError: names what differs.
    """
    if class_name in checkpoint.facts.get("classes", ()):
        class_name = None
    for what, wanted, found in (
        ("kind", kind, checkpoint.kind),
        ("dataset", dataset, checkpoint.dataset),
        ("class", class_name, checkpoint.class_name),
    ):
        if wanted is not None and found is not None and wanted != found:
            raise UserError(f"{path} is of {what} {found!r}, but {wanted!r} is needed; give the right file")


def checksum(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the names and bytes of tensors, sorted by name."""
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
        module: receives copies of the tensors; on the meta device, the tensors themselves, which must not be mapped.
        state: tensors by the module's names.
        source: what error messages call the state dict.
        may_differ: names (or prefixes) of tensors that keep their initial values if they are missing or of another
            shape.

    Returns:
        The names of the tensors that keep their initial values.

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
        taken = {key: value.to(wanted[key].dtype).contiguous() for key, value in taken.items()}
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
        raise UserError(f"{path} holds no weights: its state_dict is a {type(stored).__name__}; give another file")
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
"""A prefix that only tensors of this kind of network have."""


def _recognise(state: Mapping[str, Tensor], values: Mapping[str, Any], path: Path) -> Kind:
    for prefix, kind in MARKS.items():
        if any(key.startswith(prefix) for key in state):
            return kind
    if "kind" in values:
        return values["kind"]
    keys = ", ".join(map(str, list(values)[:3])) or "none"
    raise UserError(f"{path} holds no network of this project: its first keys are {keys}; give another file")
