"""Write the pages of an evaluation, and one heatmap file per test image."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote

import numpy as np

from realnet.config import paths
from realnet.data.images import write_image
from realnet.detection.card import Card
from realnet.detection.checkpoints import PROTOCOLS
from realnet.drawing.heatmaps import Display
from realnet.drawing.panels import heatmap_name, heatmap_panel, panel_size, verdict_title
from realnet.evaluation.results import REPORT, ClassResult, Drawn, ImageResult
from realnet.evaluation.scores import ClassScores
from realnet.evaluation.seeds import SEEDS_REPORT
from realnet.evaluation.split import Pictures
from realnet.metrics.curves import CurvePoints
from realnet.reporting.gallery import Item, Views
from realnet.reporting.report import ClassReport, ReportData, write_report
from realnet.reporting.tables import f1_text, tables
from realnet.runtime.progress import bar
from realnet.runtime.threads import NUM_THREADS
from realnet.sdas.readiness import HealthHistory, recorded


def write_heatmaps(scores: ClassScores, pictures: Pictures, folder: Path, display: Display, description: str) -> None:
    """Write a panel for each test image: image, mask and outlined anomaly map (docs/method.md, Heatmaps).

    Args:
        scores: scores of a class.
        pictures: pictures of the same images.
        folder: gets one file per image, at the image's path within the class: ``test/hole/003.png``.
        display: thresholds and colour scale.
        description: names the progress bar.

    Raises:
        UserError: if a heatmap cannot be written.
    """

    def write(number: int) -> None:
        entry = scores.entries[number]
        panel = heatmap_panel(
            pictures.panels[number],
            scores.anomaly_maps[number],
            display=display,
            size=panel_size(scores.image_size),
            mask=scores.masks[number] if scores.has_mask[number] else None,
            title=f"{entry.kind}, {verdict_title(float(scores.image_scores[number]), display.threshold)}",
        )
        write_image(folder / heatmap_name(entry.filename, entry.class_name), panel)

    number = len(scores.entries)
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        for _ in bar(threads.map(write, range(number)), total=number, description=description):
            pass


def write_class_page(
    folder: Path, result: ClassResult, scores: ClassScores, pictures: Pictures, card: Card | None = None
) -> None:
    """Write a class's report with its gallery; ``scores`` and ``card`` are of the result's first checkpoint."""
    images = result.checkpoints[0].images
    items = [_item(image, partial(_views, scores, pictures, number)) for number, image in enumerate(images)]
    _write(folder, [result], [_class_report(result, items, card=card)], classes=())


def write_dataset_page(
    folder: Path, results: Sequence[ClassResult], classes: Sequence[str], cards: Sequence[Card | None] = ()
) -> None:
    """Write the report of several classes, or of the detectors of several seeds, with links to their pages.

    Args:
        folder: of the dataset's results.
        results: the results.
        classes: all classes of the dataset.
        cards: model cards to show, of each result's first checkpoint.
    """
    reports = [
        _class_report(
            result,
            [_item(image, _not_shown) for image in result.checkpoints[0].images],
            gallery_page=quote(os.fsencode(result.subject.place / REPORT)),
            card=card,
        )
        for result, card in zip_longest(results, cards)
    ]
    weights = paths.output(results[0].dataset, "diffusion", "checkpoints") / paths.LAST
    name = SEEDS_REPORT if results[0].seed is not None else REPORT
    _write(folder, results, reports, classes=classes, name=name, health=recorded(weights))


def _write(
    folder: Path,
    results: Sequence[ClassResult],
    reports: Sequence[ClassReport],
    *,
    classes: Sequence[str],
    name: str = REPORT,
    health: HealthHistory = (),
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
        health=health,
    )
    write_report(folder / name, data)


def _class_report(
    result: ClassResult, items: Sequence[Item], *, gallery_page: str | None = None, card: Card | None = None
) -> ClassReport:
    first = result.checkpoints[0]
    note = ". ".join(filter(None, [first.threshold_note, f1_text(first), *result.notes]))
    curves = {name: _points(drawn) for name, drawn in first.curves.items()}
    return ClassReport(
        class_name=str(result.subject),
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
        card=card,
    )


def _item(image: ImageResult, load: Callable[[], Views]) -> Item:
    return Item(image.filename, image.kind, image.is_defect, image.score, load)


def _views(scores: ClassScores, pictures: Pictures, number: int) -> Views:
    mask = scores.masks[number] if scores.has_mask[number] else None
    return Views(pictures.thumbnail(number), scores.anomaly_maps[number], mask)


def _not_shown() -> NoReturn:
    raise AssertionError("a page that links to the galleries shows no images itself")


def _points(drawn: Drawn) -> CurvePoints:
    return CurvePoints(np.array(drawn[0]), np.array(drawn[1]))
