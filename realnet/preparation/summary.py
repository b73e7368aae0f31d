"""Summarise a dataset in a table, class by class."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from realnet.data.index import ClassIndex
from realnet.inspection.looks import look_at_images
from realnet.runtime.progress import bar

HEADINGS = ("class", "train", "test good", "test defects", "masks", "height x width")


@dataclass(frozen=True)
class ClassSummary:
    """Image counts of a class.

    Attributes:
        class_name: its name.
        train: number of normal training images.
        real: number of defects to train on.
        good: number of normal test images.
        defects: number of test images per kind of defect.
        masks: number of defect images with a mask.
        sizes: number of images per (height, width); None counts the unreadable ones.
    """

    class_name: str
    train: int
    real: int
    good: int
    defects: Mapping[str, int]
    masks: int
    sizes: Mapping[tuple[int, int] | None, int]


def summarise_class(class_name: str, index: ClassIndex, image_root: Path) -> ClassSummary:
    """Count a class's images, and read their sizes from the file headers."""
    looks = look_at_images(image_root / entry.filename for entry in index.all)
    defects = [entry for entry in index.test if entry.label]
    return ClassSummary(
        class_name=class_name,
        train=len(index.train),
        real=len(index.real),
        good=len(index.test) - len(defects),
        defects=Counter(entry.kind for entry in defects),
        masks=sum(entry.maskname is not None for entry in defects),
        sizes=Counter(look.size for look in looks.values()),
    )


def summary_table(indexes: Mapping[str, ClassIndex], image_root: Path) -> str:
    """Return a table with a line per class and, if there are several, a line of their sums."""
    progress = bar(indexes.items(), total=len(indexes), description="image sizes")
    summaries = [summarise_class(name, index, image_root) for name, index in progress]
    rows = [HEADINGS, *map(_row, summaries)]
    if len(summaries) > 1:
        rows.append(_row(_sum(summaries)))
    return "\n".join(_aligned(rows))


def _row(summary: ClassSummary) -> Sequence[str]:
    kinds = ", ".join(f"{kind} {count}" for kind, count in summary.defects.items())
    total = sum(summary.defects.values())
    defects = f"{total} ({kinds})" if len(summary.defects) > 1 else kinds or "0"
    train = f"{summary.train} + {summary.real} defects" if summary.real else str(summary.train)
    numbers = (train, str(summary.good), defects, str(summary.masks))
    return (summary.class_name, *numbers, _sizes(summary.sizes))


def _sizes(sizes: Mapping[tuple[int, int] | None, int]) -> str:
    known = sorted(size for size in sizes if size is not None)
    texts = [f"{height}x{width}" for height, width in known]
    shown = texts if len(texts) <= 2 else [f"{texts[0]} … {texts[-1]} ({len(texts)} sizes)"]
    return ", ".join([*shown, *([f"{sizes[None]} unreadable"] if None in sizes else [])])


def _sum(summaries: Sequence[ClassSummary]) -> ClassSummary:
    defects = sum(sum(one.defects.values()) for one in summaries)
    return ClassSummary(
        class_name="all",
        train=sum(one.train for one in summaries),
        real=sum(one.real for one in summaries),
        good=sum(one.good for one in summaries),
        defects={"all kinds": defects} if defects else {},
        masks=sum(one.masks for one in summaries),
        sizes=_add(one.sizes for one in summaries),
    )


def _add(counts: Iterable[Mapping[tuple[int, int] | None, int]]) -> Counter[tuple[int, int] | None]:
    total: Counter[tuple[int, int] | None] = Counter()
    for each in counts:
        total.update(each)
    return total


def _aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            text.rjust(width) if text.isdigit() and column else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
