"""Find the checkpoints of a class's detector."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from realnet.config import paths
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
