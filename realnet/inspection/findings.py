"""Findings: the kinds of problems that a dataset can have, and their report."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from realnet.errors import printable


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
        title: name of such findings, in the plural.
        repair: how to repair them; ``{dataset}`` stands for the name of the dataset.
        is_fatal: whether training and evaluation would fail or mislead.
    """

    title: str
    repair: str
    is_fatal: bool = True


@dataclass(frozen=True)
class Finding:
    """A problem: its kind, and its place, usually a file."""

    kind: Kind
    where: str


REINDEX = "python prepare_data.py index --dataset {dataset}"

ABSENT = Kind("classes without images for training", "add the images, or correct dataset.yaml")
MOVED = Kind(
    "classes of which no file exists",
    "if they were moved, correct image_root in experiments/{dataset}/dataset.yaml; else restore them",
)
MISSING = Kind("files that the index names but that do not exist", f"restore them, or rebuild the index: {REINDEX}")
UNREADABLE = Kind("unreadable or truncated files", f"replace them, or remove them and run: {REINDEX}")
MASK_SIZE = Kind("masks that differ in size from their images (height x width)", "give both the same size")
ORPHAN = Kind("masks without an image", "add test/<kind>/<image> for each, or remove the mask")
LEAK = Kind("test images that are also in the training set", f"remove one of the two, then run: {REINDEX}")

NORMAL_AND_DEFECT = Kind(
    "normal training images that are also defects to train on", f"remove one of the two, then run: {REINDEX}"
)

DUPLICATE = Kind("images that occur twice in a split", "they count twice; remove one of the two", is_fatal=False)
UNMASKED = Kind("classes with masks for only some defects", "pixel metrics leave the others out", is_fatal=False)
EMPTY_MASK = Kind("masks that show no defect", "draw the defect, or move the image to the good ones", is_fatal=False)
OUTDATED = Kind("images that the index does not list", f"add them to it: {REINDEX}", is_fatal=False)
IGNORED = Kind("folders with unused images", "only images in train/good and test/<kind> are used", is_fatal=False)
LARGE_MASK = Kind(
    "masks that cover over half of their image", "if they are inverted, correct masks in dataset.yaml", is_fatal=False
)
JPEG_MASK = Kind(
    "masks in JPEG, whose edges hold specks", "set masks: {{above: 127}} in dataset.yaml, or store PNG", is_fatal=False
)
GREY_MASK = Kind(
    "masks with more than two values",
    "where grey is the seam of a drawing, set masks: {{above: 127}} in dataset.yaml; numbers of kinds are fine",
    is_fatal=False,
)
VIEWS = Kind(
    "parts of which some images are trained on and others tested on",
    "their test scores are too good: move all images of a part to one side",
    is_fatal=False,
)
DEPTH = Kind(
    "16-bit images that use other bits than dataset.yaml says",
    "set image_bits there, and train anew what was trained",
    is_fatal=False,
)
PAGES = Kind("files with several pages", "only the first page is used", is_fatal=False)
MASK_LIKE = Kind("training images that look like masks", "remove those that are, and run: " + REINDEX, is_fatal=False)
NO_SOURCES = Kind("anomaly types in the config without images", "each line says how to get them", is_fatal=False)


def fatal(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that make a dataset unusable."""
    return [finding for finding in findings if finding.kind.is_fatal]


def report(findings: Sequence[Finding], dataset: str, *, limit: int | None = None) -> str:
    """Return a text that lists the findings by kind, fatal kinds first, each kind with its repair.

    Args:
        findings: the findings, in any order.
        dataset: name of the dataset.
        limit: most lines per kind; None shows all.
    """
    kinds = sorted(dict.fromkeys(finding.kind for finding in findings), key=lambda kind: not kind.is_fatal)
    blocks = [_block(kind, [f.where for f in findings if f.kind == kind], dataset, limit) for kind in kinds]
    return printable("\n".join(blocks))


def _block(kind: Kind, places: Sequence[str], dataset: str, limit: int | None) -> str:
    shown, quoted = list(places[:limit]), shlex.quote(dataset)
    hidden = len(places) - len(shown)
    more = [f"… and {hidden} more; python prepare_data.py check --dataset {quoted} lists all"] if hidden else []
    warning = "" if kind.is_fatal else "warning: "
    head = f"{warning}{kind.title}: {len(places)}; {kind.repair.format(dataset=quoted)}"
    return "\n  ".join([head, *shown, *more])
