"""What can be wrong with a dataset: the kinds of findings, and their report."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from realnet.errors import printable


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
        title: what they are, in the plural.
        repair: what to do about them; ``{dataset}`` stands for its name.
        is_fatal: whether training and evaluation would fail or mislead.
    """

    title: str
    repair: str
    is_fatal: bool = True


@dataclass(frozen=True)
class Finding:
    """Something that is wrong: its kind, and where, most often a file."""

    kind: Kind
    where: str


REINDEX = "python prepare_data.py index --dataset {dataset}"

ABSENT = Kind("classes without images for training", "put the images there, or correct dataset.yaml")
MISSING = Kind("files that the index names and that do not exist", f"put them back, or index what is there: {REINDEX}")
UNREADABLE = Kind("unreadable or truncated files", f"replace them, or remove them and run: {REINDEX}")
MASK_SIZE = Kind("masks of another size than their images (height x width)", "give both the same size")
ORPHAN = Kind("masks without an image", "add test/<kind>/<image> for each, or remove the mask")
LEAK = Kind("test images that are also in the training set", f"remove one of the two, then run: {REINDEX}")

DUPLICATE = Kind("images that are in a split twice", "they count twice; remove one of the two", is_fatal=False)
UNMASKED = Kind("classes with masks for some defects only", "pixel metrics leave the others out", is_fatal=False)
EMPTY_MASK = Kind("masks that show no defect", "draw the defect, or move the image to the good ones", is_fatal=False)
OUTDATED = Kind("images that are newer than the index", f"take them in: {REINDEX}", is_fatal=False)
IGNORED = Kind("folders whose images nothing uses", "only train/good and test/<kind> count", is_fatal=False)
NO_SOURCES = Kind("anomaly types that training needs and that have no images yet", "see each line", is_fatal=False)


def fatal(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that keep a dataset from being used."""
    return [finding for finding in findings if finding.kind.is_fatal]


def report(findings: Sequence[Finding], dataset: str, *, limit: int | None = None) -> str:
    """Return the findings kind by kind, the fatal ones first, each kind with its repair.

    Args:
        findings: in any order.
        dataset: its name.
        limit: lines of a kind; None: all.
    """
    kinds = sorted(dict.fromkeys(finding.kind for finding in findings), key=lambda kind: not kind.is_fatal)
    blocks = [_block(kind, [f.where for f in findings if f.kind == kind], dataset, limit) for kind in kinds]
    return printable("\n".join(blocks))


def _block(kind: Kind, places: Sequence[str], dataset: str, limit: int | None) -> str:
    shown = list(places[:limit])
    hidden = len(places) - len(shown)
    more = [f"… and {hidden} more; python prepare_data.py check --dataset {dataset} lists all"] if hidden else []
    warning = "" if kind.is_fatal else "warning: "
    head = f"{warning}{kind.title}: {len(places)}; {kind.repair.format(dataset=dataset)}"
    return "\n  ".join([head, *shown, *more])
