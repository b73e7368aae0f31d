"""Find the checkpoints of a class's detector."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from realnet import config
from realnet.config import paths
from realnet.data.folders import natural_key
from realnet.data.registry import UNIFIED, is_unified, open_dataset
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


@dataclass(frozen=True)
class Subject:
    """A class and the detector that judges it: its own or the unified one; with a seed, one of several of these."""

    class_name: str
    seed: int | None = None
    is_unified: bool = False

    @property
    def detector(self) -> str:
        """Return the name of the detector: the class's, or ``unified``."""
        return UNIFIED if self.is_unified else self.class_name

    @property
    def title(self) -> str:
        """Return the class's name, which says so if the detector is the unified one."""
        return f"{self.class_name} ({UNIFIED})" if self.is_unified else self.class_name

    @property
    def place(self) -> PurePosixPath:
        """Return the folder of its results, relative to that of the dataset's."""
        seed = "" if self.seed is None else paths.seed_folder(self.seed)
        return PurePosixPath(UNIFIED if self.is_unified else "", self.class_name, seed)

    def checkpoints(self, dataset: str) -> Path:
        """Return the folder of its checkpoints."""
        return paths.output(dataset, "realnet", "checkpoints", self.detector, self.seed)

    def __str__(self) -> str:
        return self.title if self.seed is None else f"{self.title}, seed {self.seed}"


def find_checkpoints(dataset: str, subject: Subject, given: Path | None = None) -> dict[Protocol, Path]:
    """Return the given file, else the detector's existing checkpoints: last, and best on the test split.

    Raises:
        UserError: if the given file does not exist.
    """
    if given is not None:
        if not given.is_file():
            raise UserError(f"--checkpoint {given} does not exist; give a detector's file, or leave --checkpoint out")
        return {"given": given}
    folder = subject.checkpoints(dataset)
    known: dict[Protocol, Path] = {"last": folder / paths.LAST, "best": folder / paths.BEST}
    return {protocol: path for protocol, path in known.items() if path.is_file() and not _is_of_all(path, subject)}


def _is_of_all(path: Path, subject: Subject) -> bool:
    """Tell whether a file is of the detector of all classes, from before its name became that of a class."""
    is_own = subject.detector == UNIFIED and not subject.is_unified
    return is_own and bool(checkpoint.load(path, kind="realnet", mapped=True).facts.get("classes"))


def missing_checkpoint(dataset: str, subject: Subject) -> str:
    """Return the error message for a detector without checkpoint, with the command that makes one."""
    path = subject.checkpoints(dataset) / paths.LAST
    command = checkpoint.command_that_makes("realnet", dataset, subject.detector)
    if path.is_file():
        return (
            f"{path} is the detector of all classes, of before {dataset} had a class {UNIFIED}; move its folder "
            f"elsewhere, and make the class's own with: {command}"
        )
    if subject.seed is not None:
        return f"{path} does not exist; make it with: {command} --seeds {subject.seed}"
    others = sorted(path.parent.glob(f"seed_*/{paths.LAST}"), key=lambda file: natural_key(str(file)))
    there = f" (there are detectors of seeds: --detector {others[0]}, or evaluation with --seeds)" if others else ""
    return f"{path} does not exist{there}; make it with: {command}"


def choose_detector(dataset: str, wanted: Sequence[str], given: Path | None = None) -> tuple[str, Path]:
    """Return the class and its checkpoint: the given one, else the last, else the best on the test split.

    Args:
        dataset: name of the dataset.
        wanted: one class, ``unified``, or ``all`` if only one is trained.
        given: path of a checkpoint; None looks for one.

    Raises:
        UserError: if the flags do not name a single class, or if it has no checkpoint.
    """
    classes = config.load_dataset(dataset).classes or ()
    with suppress(UserError):  # to predict, no image of the dataset need be here
        classes = open_dataset(dataset).classes

    def subject_of(name: str) -> Subject:
        return Subject(name, is_unified=is_unified(name, classes))

    folders = paths.output(dataset, "realnet", "checkpoints").glob("*")
    trained = sorted(
        (folder.name for folder in folders if find_checkpoints(dataset, subject_of(folder.name))), key=natural_key
    )
    names = trained if list(wanted) == ["all"] else list(wanted)
    if len(names) != 1:
        known = ", ".join(trained) or "none yet"
        raise UserError(f"this takes the detector of one class; name it with --class_name (trained: {known})")
    if classes and names[0] not in classes and not is_unified(names[0], classes):
        raise UserError(f"{dataset} has no class {names[0]!r}; its classes: {', '.join(classes)}")
    found = find_checkpoints(dataset, subject_of(names[0]), given)
    if not found:
        raise UserError(missing_checkpoint(dataset, subject_of(names[0])))
    return names[0], next(iter(found.values()))
