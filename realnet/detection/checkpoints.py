"""The checkpoints of a class's detector."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from realnet.config import paths
from realnet.errors import UserError
from realnet.models import checkpoint

ReferenceName = Literal["padim", "nearest"]
REFERENCES: Mapping[ReferenceName, str] = {
    "padim": "PaDiM: a Gaussian a position, no training",
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
"""How a detector came to be: a checkpoint's choice, or a reference without training."""


def find_checkpoints(dataset: str, class_name: str, given: Path | None = None) -> dict[Protocol, Path]:
    """Return the file given, else the class's checkpoints that there are: the last, and the best on the test split.

    Raises:
        UserError: where there is no such file.
    """
    if given is not None:
        if not given.is_file():
            raise UserError(f"--checkpoint {given} does not exist; give a detector's file, or leave it out")
        return {"given": given}
    folder = paths.output(dataset, "realnet", "checkpoints", class_name)
    known: dict[Protocol, Path] = {"last": folder / paths.LAST, "best": folder / paths.BEST}
    return {protocol: path for protocol, path in known.items() if path.is_file()}


def missing_checkpoint(dataset: str, class_name: str) -> str:
    """Say that a class has no checkpoint, and which command makes it."""
    path = paths.output(dataset, "realnet", "checkpoints", class_name) / paths.LAST
    command = checkpoint.MADE_BY["realnet"].format(dataset=dataset, class_name=class_name)
    return f"{path} does not exist; make it with: {command}"
