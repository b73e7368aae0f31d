"""Find the checkpoints of a class's detector."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from realnet import config
from realnet.config import paths
from realnet.data.folders import natural_key
from realnet.errors import UserError
from realnet.models import checkpoint

ReferenceName = Literal["padim", "nearest"]
REFERENCES: Mapping[ReferenceName, str] = {
    "padim": "PaDiM: a Gaussian at each position, no training",
    "nearest": "PatchCore: nearest normal features, no training",
}
Protocol = Literal["last", "best", "given", "padim", "nearest"]
PROTOCOLS: Mapping[Protocol, str] = {
    "last": "last step: no test data used",
    "best": "best on the test split, as published",
    "given": "the file given by --checkpoint",
    "padim": REFERENCES["padim"],
    "nearest": REFERENCES["nearest"],
}
"""Where the results of a detector come from: the choice of its checkpoint, or a reference without training."""


def find_checkpoints(dataset: str, class_name: str, given: Path | None = None) -> dict[Protocol, Path]:
    """Return the given file, else the class's existing checkpoints: last, and best on the test split.

    Raises:
        UserError: if the given file does not exist.
    """
    if given is not None:
        if not given.is_file():
            raise UserError(f"--checkpoint {given} does not exist; give a detector's file, or leave --checkpoint out")
        return {"given": given}
    folder = paths.output(dataset, "realnet", "checkpoints", class_name)
    known: dict[Protocol, Path] = {"last": folder / paths.LAST, "best": folder / paths.BEST}
    return {protocol: path for protocol, path in known.items() if path.is_file()}


def missing_checkpoint(dataset: str, class_name: str) -> str:
    """Return the error message for a class without checkpoint, with the command that makes one."""
    path = paths.output(dataset, "realnet", "checkpoints", class_name) / paths.LAST
    command = checkpoint.command_that_makes("realnet", dataset, class_name)
    return f"{path} does not exist; make it with: {command}"


def choose_detector(dataset: str, wanted: Sequence[str], given: Path | None = None) -> tuple[str, Path]:
    """Return the class and its checkpoint: the given one, else the last, else the best on the test split.

    Args:
        dataset: name of the dataset.
        wanted: one class, or ``all`` if only one is trained.
        given: path of a checkpoint; None looks for one.

    Raises:
        UserError: if the flags do not name a single class, or if it has no checkpoint.
    """
    classes = config.load_dataset(dataset).classes
    folders = paths.output(dataset, "realnet", "checkpoints").glob("*")
    trained = sorted((folder.name for folder in folders if find_checkpoints(dataset, folder.name)), key=natural_key)
    names = trained if list(wanted) == ["all"] else list(wanted)
    if len(names) != 1:
        known = ", ".join(trained) or "none yet"
        raise UserError(f"this takes the detector of one class; name it with --class_name (trained: {known})")
    if classes and names[0] not in classes:
        raise UserError(f"{dataset} has no class {names[0]!r}; its classes: {', '.join(classes)}")
    found = find_checkpoints(dataset, names[0], given)
    if not found:
        raise UserError(missing_checkpoint(dataset, names[0]))
    return names[0], next(iter(found.values()))
