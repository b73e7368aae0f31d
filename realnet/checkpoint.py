"""Checkpoint files: written atomically, read without running code, refused by name when they do not fit."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from easydict import EasyDict
from numpy import dtype as numpy_dtype
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
        keep_previous: keep the file that was there as ``<path>.previous``.

    Raises:
        UserError: where the disk is full or not writable; the file that was there is intact.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as file:
            torch.save(dict(values), file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"could not write {path} ({error}); free some disk space: what was there is intact") from error
    if keep_previous and path.exists():
        path.replace(previous(path))
    temporary.replace(path)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def previous(path: Path) -> Path:
    """Return where :func:`write` keeps the file before this one."""
    return path.with_name(f"{path.name}.previous")


def read(path: Path) -> dict[str, Any]:
    """Read a file of tensors and plain values, mapped into memory, without running code from it.

    Raises:
        UserError: where the file is absent, no checkpoint, truncated, or holds more than data.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    with torch.serialization.safe_globals(_data_types()):
        try:
            return _plain(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
        except Exception as error:  # torch raises many kinds for what is not its own file
            reason = str(error).splitlines()[0][:200]
            if "mmap" in reason:  # files from before torch 1.6
                return _plain(torch.load(path, map_location="cpu", weights_only=True))
            if "Unsupported" in str(error) or "GLOBAL" in str(error):
                raise UserError(f"{path} is refused: it holds code, not only weights ({reason})") from error
            raise UserError(f"{path} is no complete checkpoint ({reason}); make it or download it again") from error


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


def load_into(
    module: nn.Module, state: Mapping[str, Tensor], source: str, *, may_differ: Sequence[str] = ()
) -> list[str]:
    """Load a state dict strictly.

    Args:
        module: takes the tensors.
        state: by the module's own names.
        source: named in errors.
        may_differ: names (or prefixes) of tensors that stay at their initialisation where shapes differ.

    Returns:
        The names that stay at their initialisation.

    Raises:
        UserError: lists the tensors that are missing, extra or of another shape.
    """
    wanted = module.state_dict()
    kept = [
        k
        for k, v in wanted.items()
        if k.startswith(tuple(may_differ)) and (k not in state or state[k].shape != v.shape)
    ]
    problems = [f"missing: {key} {tuple(wanted[key].shape)}" for key in wanted if key not in state and key not in kept]
    problems += [f"extra: {key} {tuple(value.shape)}" for key, value in state.items() if key not in wanted]
    problems += [
        f"shape: {key} {tuple(state[key].shape)}, needed {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in state and key not in kept and state[key].shape != value.shape
    ]
    if problems:
        listed = problems[:20] + ([f"… and {len(problems) - 20} more"] if len(problems) > 20 else [])
        raise UserError("\n  ".join([f"{source} does not fit the network that the config describes:", *listed]))
    module.load_state_dict({key: value for key, value in state.items() if key not in kept}, strict=False)
    return kept


def _data_types() -> list[Any]:
    """Return what a file may hold beside tensors and Python's plain types: EasyDict and NumPy's numbers."""
    from numpy._core.multiarray import scalar
    from numpy.dtypes import Float32DType, Float64DType, Int64DType

    return [
        EasyDict,
        (EasyDict, "easydict.EasyDict"),
        scalar,
        (scalar, "numpy.core.multiarray.scalar"),
        numpy_dtype,
        Float32DType,
        Float64DType,
        Int64DType,
    ]


def _plain(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {"value": value}


def _parse(values: dict[str, Any], path: Path) -> Checkpoint:
    if "kind" in values and "state_dict" in values:
        return Checkpoint(
            kind=values["kind"],
            state_dict=values["state_dict"],
            dataset=values["dataset"],
            classes=tuple(values["classes"]),
            class_name=values["class_name"],
            config=values["config"],
            facts=values["facts"],
        )
    stored = values.get("state_dict", values)
    state = {key.removeprefix("module."): value for key, value in stored.items() if isinstance(value, Tensor)}
    facts: dict[str, Any] = {key: values[key] for key in ("epoch", "loss", "best_metric") if key in values}
    return Checkpoint(kind=_recognise(state, values, path), state_dict=state, facts=facts)


def _recognise(state: Mapping[str, Tensor], values: Mapping[str, Any], path: Path) -> Kind:
    marks: dict[str, Kind] = {
        "rrs.": "realnet",
        "out.2.positional_embedding": "classifier",
        "output_blocks.": "diffusion",
    }
    for prefix, kind in marks.items():
        if any(key.startswith(prefix) for key in state):
            return kind
    if "kind" in values:
        return values["kind"]
    raise UserError(
        f"{path} holds no network of this project: its first keys are {', '.join(list(values)[:3]) or 'none'}"
    )
