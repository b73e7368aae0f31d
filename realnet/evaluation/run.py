"""Evaluate the checkpoints of a class: scores, metrics, verdicts, heatmaps and the class's report."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import numpy as np

from realnet.models import checkpoint
from realnet.runtime import distributed
from realnet.config import paths
from realnet.detection.calibration import Calibration
from realnet.config import RealNetConfig
from realnet.inspection.check import require_sound
from realnet.data.items import TestDataset
from realnet.data.index import Entry
from realnet.data.registry import OpenDataset
from realnet.detection.detector import Detector
from realnet.runtime.distributed import Process
from realnet.errors import UserError
from realnet.evaluation.scores import ClassScores, Curves, alike, curves_of, not_numbers, score_class, summarise
from realnet.metrics.curves import CurvePoints, ScoreCurve
from realnet.drawing.heatmaps import Display
from realnet.drawing.panels import heatmap_name
from realnet.reporting.pages import write_class_page, write_heatmaps
from realnet.evaluation.results import PROTOCOLS, REPORT, CheckpointResult, ClassResult, Drawn, ImageResult, Protocol, Source, Verdicts, read_class, read_earlier, write_class

logger = logging.getLogger("realnet")


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


def results_folder(dataset: str, class_name: str, given: Path | None = None) -> Path:
    """Return where a class's results go; a file given by hand leaves those of the class as they are."""
    folder = paths.output(dataset, "realnet", "vis", class_name)
    return folder if given is None else folder / "given"


def heatmaps_folder(folder: Path, protocol: Protocol) -> Path:
    """Return where under a class's results a checkpoint's heatmaps go."""
    return folder if protocol == "given" else folder / protocol


def missing_checkpoint(dataset: str, class_name: str) -> str:
    """Say that a class has no checkpoint, and which command makes it."""
    path = paths.output(dataset, "realnet", "checkpoints", class_name) / paths.LAST
    command = checkpoint.MADE_BY["realnet"].format(dataset=dataset, class_name=class_name)
    return f"{path} does not exist; make it with: {command}"


def assess_class(
    dataset: OpenDataset,
    class_name: str,
    checkpoints: Mapping[Protocol, Path],
    *,
    config: RealNetConfig,
    process: Process,
    folder: Path,
    resume: bool = False,
) -> ClassResult:
    """Evaluate a class by each checkpoint; write heatmaps, ``report.html`` and ``metrics.json`` under ``folder``.

    Args:
        dataset: whose class it is.
        class_name: likewise.
        checkpoints: at least one; the first in the order of ``PROTOCOLS`` is pictured in the report.
        config: of this machine and of the metrics; the networks are as the checkpoints say.
        process: this process; the first of several writes.
        folder: of the class's results.
        resume: keep the results that are there, if weights, settings, test images and masks are still the same.

    Raises:
        UserError: where a checkpoint, an image or a mask cannot be used.
    """
    with alike():
        require_sound(dataset, [class_name])
        test = dataset.index(class_name, write=False).test
        inputs = _inputs(dataset, test, checkpoints, config)
    kept = _kept(folder, inputs, test) if resume else None
    if not distributed.any_process(kept is None) and kept:
        logger.info("%s: results of %s kept: nothing has changed; --no-resume evaluates anew", class_name, kept.made)
        return kept
    if process.is_main:
        _remove_stale_heatmaps(folder, class_name, test)
    results: list[CheckpointResult] = []
    for protocol in reversed([protocol for protocol in PROTOCOLS if protocol in checkpoints]):
        path = checkpoints[protocol]
        # of each checkpoint's maps only those of the one at hand are in memory; the last are the pictured ones
        result, scores = _assess_checkpoint(dataset, class_name, protocol, path, config, process)
        results.insert(0, result)
        with alike():
            if process.is_main:
                description, place = f"{class_name}: heatmaps ({protocol})", heatmaps_folder(folder, protocol)
                write_heatmaps(scores, dataset.image_root, place, result.display, description)
    whole = ClassResult(
        dataset=dataset.name,
        class_name=class_name,
        made=datetime.now().astimezone().isoformat(" ", "minutes"),
        notes=tuple(_notes(scores)),
        checkpoints=tuple(results),
        settings=config.evaluation.model_dump(exclude={"batch_size"}),
        inputs=inputs,
    )
    with alike():
        if process.is_main:
            write_class_page(folder, whole, scores, dataset.image_root)
            write_class(folder, whole)
    return whole


def _inputs(
    dataset: OpenDataset, test: Sequence[Entry], checkpoints: Mapping[Protocol, Path], config: RealNetConfig
) -> str:
    """Return a digest of all that a class's results come from; files count by name, size and time."""
    names = [name for entry in test for name in (entry.filename, entry.maskname) if name]
    files = [*checkpoints.values(), *(dataset.image_root / name for name in names)]
    facts = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    whole = [config.model_dump(mode="json"), [asdict(entry) for entry in test], facts]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()


def _kept(folder: Path, inputs: str, test: Sequence[Entry]) -> ClassResult | None:
    """Return the results that are there, with report and all heatmaps, if they come from the same."""
    stored = read_class(folder)
    if stored is None or stored.inputs != inputs:
        return None
    heatmaps = [heatmap_name(entry.filename, entry.class_name) for entry in test]
    folders = [heatmaps_folder(folder, one.protocol) for one in stored.checkpoints]
    written = [folder / REPORT, *(place / name for place in folders for name in heatmaps)]
    return stored if all(path.is_file() for path in written) else None


def _remove_stale_heatmaps(folder: Path, class_name: str, test: Sequence[Entry]) -> None:
    """Remove the heatmaps that the evaluation before this one wrote of images that are tested no longer."""
    earlier, tested = read_earlier(folder), {entry.filename for entry in test}
    for one in earlier.checkpoints if earlier else ():
        stale = [heatmap_name(image.filename, class_name) for image in one.images if image.filename not in tested]
        for name in stale:
            (heatmaps_folder(folder, one.protocol) / name).unlink(missing_ok=True)


def _assess_checkpoint(
    dataset: OpenDataset, class_name: str, protocol: Protocol, path: Path, config: RealNetConfig, process: Process
) -> tuple[CheckpointResult, ClassScores]:
    modified_ns = path.stat().st_mtime_ns  # before it is read: a file that is written meanwhile is another one
    with alike():
        detector = Detector.load(
            path, device=process.device, config=config, dataset=dataset.name, class_name=class_name
        )
        entries = dataset.index(class_name).test
    scores = score_class(
        detector.model,
        TestDataset(entries, dataset.image_root, image_size=detector.config.image_size),
        config=detector.config.evaluation,
        runtime=config.runtime,
        precision=detector.precision,
        process=process,
        description=f"{class_name}: {path.name}",
    )
    curves, fpr_limit = curves_of(scores), config.evaluation.aupro_fpr_limit
    display, note = _display(detector.calibration, scores, curves)
    result = CheckpointResult(
        protocol=protocol,
        checkpoint=str(path),
        modified_ns=modified_ns,
        step=detector.facts.get("step"),
        metrics=summarise(curves, fpr_limit=fpr_limit),
        calibration=detector.calibration,
        display=display,
        threshold_note=note,
        verdicts=_verdicts(scores, curves, display.threshold, "calibrated" if detector.calibration else "test labels"),
        images=tuple(
            ImageResult(filename=entry.filename, kind=entry.kind, is_defect=bool(entry.label), score=float(score))
            for entry, score in zip(entries, scores.image_scores, strict=True)
        ),
        curves=dict(_drawn_curves(curves, fpr_limit)),
        fpr_limit=fpr_limit,
    )
    return result, scores


def _display(calibration: Calibration | None, scores: ClassScores, curves: Curves) -> tuple[Display, str]:
    """Return what verdicts and pictures are measured by, and where it comes from."""
    if broken := not_numbers(scores):
        return Display(None, None, 1.0), broken
    if calibration is not None:
        display = Display(calibration.image_threshold, calibration.pixel_threshold, calibration.display_scale)
        return display, f"Thresholds {calibration}: no test label was used"
    image, pixel = (
        curve.f1_max.threshold if isinstance(curve, ScoreCurve) else None for curve in (curves.image, curves.pixel)
    )
    note = "No calibration for these settings is stored: thresholds picked on the test labels, for the best F1"
    return Display(image, pixel, 1.0), note


def _verdicts(scores: ClassScores, curves: Curves, threshold: float | None, source: Source) -> Verdicts | None:
    if threshold is None:
        return None
    is_found, is_defect = scores.image_scores >= threshold, scores.labels == 1
    found, missed, alarms = (
        int(np.count_nonzero(which)) for which in (is_found & is_defect, ~is_found & is_defect, is_found & ~is_defect)
    )
    best = curves.image.f1_max if isinstance(curves.image, ScoreCurve) else None
    return Verdicts(
        threshold=threshold,
        source=source,
        missed=missed,
        false_alarms=alarms,
        f1=2 * found / (2 * found + missed + alarms) if best else None,
        best_f1=best.value if best else None,
        best_threshold=best.threshold if best else None,
    )


def _drawn_curves(curves: Curves, fpr_limit: float) -> Iterator[tuple[str, Drawn]]:
    if isinstance(curves.image, ScoreCurve):
        yield "image_roc", _drawn(curves.image.roc_points())
    if isinstance(curves.pixel, ScoreCurve):
        yield "pixel_roc", _drawn(curves.pixel.roc_points())
        yield "pro", _drawn(curves.pixel.pro_points(fpr_limit))


def _drawn(points: CurvePoints) -> Drawn:
    x, y = (tuple(float(value) for value in values.round(5)) for values in points)
    return x, y


def _notes(scores: ClassScores) -> Iterator[str]:
    """Yield what a reader must know to judge the numbers."""
    without = int(np.count_nonzero(~scores.has_mask))
    if without and scores.masks.any():
        yield f"{without} defect images without a mask are left out of the metrics of pixels"
    vanished = np.flatnonzero(scores.has_mask & (scores.labels == 1) & ~scores.masks.any(axis=(1, 2)))
    if len(vanished):
        height, width = scores.masks.shape[1:]
        yield (
            f"{len(vanished)} masks show no defect at {height}x{width} pixels, such as "
            f"{scores.entries[vanished[0]].maskname}: the metrics of pixels take these images for normal"
        )
