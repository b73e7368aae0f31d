"""Evaluate a checkpoint on its class's test split: metrics, verdicts and curves (docs/method.md, Evaluation)."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from realnet.config import RealNetConfig
from realnet.data.registry import OpenDataset
from realnet.detection.calibration import Calibration
from realnet.detection.checkpoints import Protocol, ReferenceName
from realnet.detection.detector import Detector
from realnet.detection.loading import read_stored, trained_on
from realnet.detection.one_class import STATISTICS
from realnet.drawing.heatmaps import Display
from realnet.errors import UserError
from realnet.evaluation.comparison import chosen_by, made_with
from realnet.evaluation.files import TestFiles
from realnet.evaluation.references import ReferenceMaker, score_reference
from realnet.evaluation.results import (
    CheckpointResult,
    Drawn,
    ImageResult,
    Source,
    Verdicts,
)
from realnet.evaluation.scores import ClassScores, Curves, curves_of, not_numbers, score_split, summarise
from realnet.evaluation.split import TestSplit
from realnet.metrics.curves import CurvePoints, ScoreCurve
from realnet.models.checkpoint import Checkpoint
from realnet.runtime import distributed
from realnet.runtime.contents import checksums
from realnet.runtime.distributed import World

logger = logging.getLogger("realnet")


class TestSplits:
    """A class's test images, decoded once for each input size of its checkpoints."""

    __test__ = False  # a class whose name pytest would collect

    def __init__(self, dataset: OpenDataset, class_name: str, config: RealNetConfig, world: World) -> None:
        self.dataset, self.class_name = dataset, class_name
        self._config, self._world = config, world
        self._by_size: dict[tuple[int, int], TestSplit] = {}

    def at(self, image_size: tuple[int, int]) -> TestSplit:
        """Return the test split at an input size (H, W)."""
        if image_size not in self._by_size:
            files = TestFiles(
                self.dataset.index(self.class_name).test,
                self.dataset.image_root,
                image_size,
                mask_rule=self.dataset.config.masks,
                mask_resize=self._config.evaluation.mask_resize,
                image_bits=self.dataset.config.image_bits,
                with_pictures=True,
            )
            self._by_size[image_size] = TestSplit(files, runtime=self._config.runtime, world=self._world)
        return self._by_size[image_size]


def evaluate_checkpoint(
    protocol: Protocol, path: Path, splits: "TestSplits", *, config: RealNetConfig, world: World, folder: Path
) -> tuple[CheckpointResult, ClassScores]:
    """Score a class's test split with one checkpoint, and compute its metrics (docs/method.md, Evaluation).

    Args:
        protocol: how the checkpoint was chosen.
        path: path of the checkpoint.
        splits: the class's test images.
        config: settings of this machine and of the metrics; the checkpoint holds those of the network.
        world: this process.
        folder: of the results, where checksums are kept.

    Raises:
        UserError: on all processes, if the checkpoint, an image or a mask cannot be used, or if the checkpoint was
            trained on a test image.
    """
    # taken before reading: a file that changes meanwhile counts as another
    modified_ns, (checksum,) = path.stat().st_mtime_ns, checksums([path], folder)
    with distributed.refusing_together():
        stored = read_stored(path, mapped=True)
        _require_unseen(stored, path, splits, folder)
        detector = Detector.load(
            path, precision=world.precision, config=config, dataset=splits.dataset.name, class_name=splits.class_name
        )
    scores = scores_of(detector, splits, path.name)
    file = _File(
        str(path), modified_ns, stored.facts.get("step"), checksum, made_with(stored, protocol), chosen_by(stored)
    )
    fpr_limit = config.evaluation.aupro_fpr_limit
    return _summed_up(protocol, scores, file, fpr_limit=fpr_limit, calibration=detector.calibration), scores


def scores_of(detector: Detector, splits: TestSplits, what: str) -> ClassScores:
    """Return a detector's scores of the test images; ``what`` describes it beside the progress."""
    return score_split(
        detector.model,
        splits.at(detector.config.image_size),
        config=detector.config.evaluation,
        precision=detector.precision,
        by_tiles=detector.by_tiles,
        description=f"{splits.class_name}: {what}",
    )


def note_on_unknown_class(
    path: Path, splits: TestSplits, scores: ClassScores, *, config: RealNetConfig, world: World
) -> Iterator[str]:
    """Yield what a unified detector makes of a class's test images where it is not told their class, if it can judge.

    Args:
        path: path of the checkpoint.
        splits: the class's test images.
        scores: by the detector that knows the class.
        config: as for :func:`evaluate_checkpoint`.
        world: this process.
    """
    facts = read_stored(path, mapped=True).facts
    if not (calibration := facts.get("calibration")):
        return
    if STATISTICS in facts:
        detector = Detector.load(path, precision=world.precision, config=config)
        scores = scores_of(detector, splits, f"{path.name}, class unknown")
    threshold, is_defect = calibration["image_threshold"], scores.labels == 1
    is_found, image = scores.image_scores >= threshold, curves_of(scores).image
    auroc = f", image AUROC {image.auroc:.4f}" if isinstance(image, ScoreCurve) else ""
    yield (
        f"of unknown class (threshold {threshold:.4g}): {np.count_nonzero(~is_found & is_defect)} of {is_defect.sum()} "
        f"defects missed, {np.count_nonzero(is_found & ~is_defect)} false alarms on {(~is_defect).sum()} normal "
        f"images{auroc}"
    )


def _require_unseen(stored: Checkpoint, path: Path, splits: TestSplits, folder: Path) -> None:
    dataset = splits.dataset
    files = [dataset.image_root / entry.filename for entry in dataset.index(splits.class_name, write=False).test]
    seen = trained_on(stored, files, folder)
    if seen:
        raise UserError(
            f"{path} was trained on {len(seen)} of the test images, such as {seen[0]}, so its results would be too "
            "good; train it anew, with --no-resume, or take these out of the test split"
        )


def evaluate_reference(
    name: ReferenceName, maker: ReferenceMaker, splits: "TestSplits", *, world: World
) -> tuple[CheckpointResult, ClassScores]:
    """Fit a reference to a class's training images, score its test split, and compute its metrics.

    Raises:
        UserError: on all processes, if an image or a mask cannot be used.
    """
    with distributed.refusing_together():
        reference = maker.fit(name)
    settings = maker.config.evaluation
    split = splits.at(maker.config.image_size)
    scores = score_reference(reference, split, world=world, config=settings)
    return _summed_up(name, scores, _File("", 0, None, "", {}, {}), fpr_limit=settings.aupro_fpr_limit), scores


class _File(NamedTuple):
    """A checkpoint's path, time, step, checksum, and how it was made; a reference has none."""

    path: str
    modified_ns: int
    step: int | None
    checksum: str
    made_with: dict[str, str]
    chosen: dict[str, str]


def _summed_up(
    protocol: Protocol, scores: ClassScores, file: _File, *, fpr_limit: float, calibration: Calibration | None = None
) -> CheckpointResult:
    curves = curves_of(scores)
    display, note = _display(calibration, scores, curves)
    return CheckpointResult(
        protocol=protocol,
        checkpoint=file.path,
        modified_ns=file.modified_ns,
        checksum=file.checksum,
        made_with=file.made_with,
        chosen=file.chosen,
        step=file.step,
        metrics=summarise(curves, fpr_limit=fpr_limit),
        calibration=calibration,
        display=display,
        threshold_note=note,
        verdicts=_verdicts(scores, curves, display.threshold, "calibrated" if calibration else "test labels"),
        images=tuple(
            ImageResult(filename=entry.filename, kind=entry.kind, is_defect=bool(entry.label), score=float(score))
            for entry, score in zip(scores.entries, scores.image_scores, strict=True)
        ),
        curves=dict(_drawn_curves(curves, fpr_limit)),
        fpr_limit=fpr_limit,
    )


def _display(calibration: Calibration | None, scores: ClassScores, curves: Curves) -> tuple[Display, str]:
    """Return the thresholds and the colour scale, and a note on where they come from."""
    if broken := not_numbers(scores):
        return Display(None, None, 1.0), broken
    if calibration is not None:
        display = Display(calibration.image_threshold, calibration.pixel_threshold, calibration.display_scale)
        return display, f"Thresholds {calibration}: no test label was used"
    image, pixel = (
        curve.f1_max.threshold if isinstance(curve, ScoreCurve) else None for curve in (curves.image, curves.pixel)
    )
    note = "No calibration for these settings is stored: thresholds picked on the test labels for the best F1"
    hottest = max(float(scores.anomaly_maps.max(initial=0.0)), 1.0)  # maps of references may exceed 1
    return Display(image, pixel, hottest), note


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


def notes_on(scores: ClassScores) -> Iterator[str]:
    """Yield what a reader must know to judge the numbers."""
    without = int(np.count_nonzero(~scores.has_mask))
    if without and scores.masks.any():
        yield f"{without} defect images without a mask are left out of the pixel metrics"
    height, width = scores.masks.shape[1:]
    if scores.region_counts is not None and scores.regions_in_file is None:
        own, kept, seen = (int(number) for number in scores.region_counts.sum(axis=0))
        if kept < own or seen > kept:
            fate = [f"{own - kept} vanish"] * (kept < own) + [f"{kept} are {seen} pieces"] * (seen > kept)
            yield (
                f"of {own} regions in the masks {' and '.join(fate)} at {height}x{width} pixels; "
                "evaluation.mask_resize=regions keeps each one whole, evaluation.resolution=file takes them as they are"
            )
    vanished = np.flatnonzero(scores.has_mask & (scores.labels == 1) & ~scores.masks.any(axis=(1, 2)))
    if len(vanished) and scores.regions_in_file is None:
        yield (
            f"{len(vanished)} masks show no defect at {height}x{width} pixels, such as "
            f"{scores.entries[vanished[0]].maskname}: the pixel metrics treat these images as normal"
        )
