"""An evaluation's pictures: the report pages, and one heatmap file for each test image."""

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NoReturn
from urllib.parse import quote

import cv2
import numpy as np

from realnet.drawing import heatmaps as visuals
from realnet.data.images import read_image, resize_image, resize_mask, write_image
from realnet.data.index import IMAGE_SUFFIXES
from realnet.evaluation.scores import ClassScores
from realnet.metrics.curves import CurvePoints, FloatArray
from realnet.runtime.progress import bar
from realnet.drawing.heatmaps import Display
from realnet.reporting.gallery import Item, Pictures
from realnet.reporting.report import ClassReport, ReportData, write_report
from realnet.evaluation.results import PROTOCOLS, REPORT, ClassResult, Drawn, ImageResult
from realnet.reporting.tables import f1_text, tables

SMALLEST_SIDE = 256
"""Smaller heatmaps are enlarged, so that captions fit and details show."""
LONGEST_NAME = 255
"""Bytes that file systems take."""


def write_heatmaps(scores: ClassScores, image_root: Path, folder: Path, display: Display, description: str) -> None:
    """Write image, mask and anomaly map with outline of each test image, side by side, at the detector's input size.

    Args:
        scores: of a class.
        image_root: what the entries' filenames are relative to.
        folder: takes one file for each image, by its path within the class: ``test/hole/003.png``.
        display: thresholds and scale.
        description: names the progress bar.

    Raises:
        UserError: where an image cannot be read or a heatmap not be written.
    """
    for number, entry in enumerate(bar(scores.entries, total=len(scores.entries), description=description)):
        score, kind = float(scores.image_scores[number]), entry.kind
        picture = heatmap_panel(
            read_image(image_root / entry.filename),
            scores.anomaly_maps[number],
            display=display,
            size=display_size(scores.anomaly_maps.shape[1:], smallest=SMALLEST_SIDE),
            mask=scores.masks[number] if scores.has_mask[number] else None,
            title=f"{kind}, {verdict_title(score, display.threshold)}",
        )
        write_image(folder / heatmap_name(entry.filename, entry.class_name), picture)


def heatmap_panel(
    image: visuals.Picture,
    anomaly_map: FloatArray,
    *,
    display: Display,
    size: tuple[int, int],
    mask: np.ndarray | None = None,
    title: str = "",
) -> visuals.Picture:
    """Draw ``visuals.panel`` with all its parts resized to ``size`` (height, width)."""
    return visuals.panel(
        resize_image(image, size),
        np.asarray(cv2.resize(anomaly_map, size[::-1], interpolation=cv2.INTER_LINEAR), np.float32),
        scale=display.scale,
        threshold=display.pixel_threshold,
        mask=None if mask is None else resize_mask(mask, size),
        title=title,
    )


def display_size(size: Sequence[int], *, smallest: int = 0, largest: int = 2**31) -> tuple[int, int]:
    """Return (height, width) in the same proportions with the longer side between ``smallest`` and ``largest``."""
    longer = max(size)
    factor = min(max(longer, smallest), largest) / longer
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def heatmap_name(filename: str, class_name: str = "") -> PurePosixPath:
    """Return the heatmap's path for an image's: the same, without the class's folder, and as PNG.

    Another ending is kept inside the name, and so is that of a PNG whose name would then be another image's: neither
    ``003.jpg`` and ``003.png`` meet, nor do ``003.jpg`` and ``003.jpg.png``. A name that would be too long is cut, and
    told from others by a digest.
    """
    path = PurePosixPath(filename)
    inside = path.relative_to(class_name) if class_name in map(str, path.parents) else path
    is_plain = inside.suffix.lower() == ".png" and PurePosixPath(inside.stem).suffix.lower() not in IMAGE_SUFFIXES
    name = inside.name if is_plain else f"{inside.name}.png"
    whole = os.fsencode(name)
    if len(whole) > LONGEST_NAME:
        name = f"{whole[:200].decode(errors='ignore')}-{hashlib.sha256(whole).hexdigest()[:16]}.png"
    return inside.with_name(name)


def verdict_title(score: float, threshold: float | None) -> str:
    """Say a score and its verdict in a few characters."""
    if threshold is None:
        return f"score {score:.4f}"
    return f"{score:.4f} >= {threshold:.4f}: defect" if score >= threshold else f"{score:.4f} < {threshold:.4f}: normal"


def write_class_page(folder: Path, result: ClassResult, scores: ClassScores, image_root: Path) -> None:
    """Write a class's report with its gallery; ``scores`` are those of the result's first checkpoint."""
    images = result.checkpoints[0].images
    items = [_item(image, partial(_pictures, scores, image_root, number)) for number, image in enumerate(images)]
    _write(folder, [result], [_class_report(result, items)], classes=())


def write_dataset_page(folder: Path, results: Sequence[ClassResult], classes: Sequence[str]) -> None:
    """Write the report of several classes, with links to their pages; ``classes`` are all those of the dataset."""
    reports = [
        _class_report(
            result,
            [_item(image, _not_shown) for image in result.checkpoints[0].images],
            gallery_page=quote(os.fsencode(f"{result.class_name}/{REPORT}")),
        )
        for result in results
    ]
    _write(folder, results, reports, classes=classes)


def _write(
    folder: Path, results: Sequence[ClassResult], reports: Sequence[ClassReport], *, classes: Sequence[str]
) -> None:
    missing = [name for name in classes if name not in {result.class_name for result in results}]
    data = ReportData(
        dataset=results[0].dataset,
        tables=tables(results, classes),
        classes=reports,
        notes=[
            f"evaluated {max(result.made for result in results)}",
            *([f"without results: {', '.join(missing)}"] if missing else []),
        ],
    )
    write_report(folder / REPORT, data)


def _class_report(result: ClassResult, items: Sequence[Item], *, gallery_page: str | None = None) -> ClassReport:
    first = result.checkpoints[0]
    note = ". ".join(filter(None, [first.threshold_note, f1_text(first), *result.notes]))
    curves = {name: _points(drawn) for name, drawn in first.curves.items()}
    return ClassReport(
        class_name=result.class_name,
        checkpoint=first.checkpoint,
        protocol=PROTOCOLS[first.protocol],
        items=items,
        display=first.display,
        threshold_note=note,
        image_roc=curves.get("image_roc"),
        pixel_roc=curves.get("pixel_roc"),
        pro=curves.get("pro"),
        fpr_limit=first.fpr_limit,
        gallery_page=gallery_page,
    )


def _item(image: ImageResult, load: Callable[[], Pictures]) -> Item:
    return Item(image.filename, image.kind, image.is_defect, image.score, load)


def _pictures(scores: ClassScores, image_root: Path, number: int) -> Pictures:
    image = read_image(image_root / scores.entries[number].filename)
    mask = scores.masks[number] if scores.has_mask[number] else None
    return Pictures(image, scores.anomaly_maps[number], mask)


def _not_shown() -> NoReturn:
    raise AssertionError("a page that links to the galleries shows no images itself")


def _points(drawn: Drawn) -> CurvePoints:
    return CurvePoints(np.array(drawn[0]), np.array(drawn[1]))
