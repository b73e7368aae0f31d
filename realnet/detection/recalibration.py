"""Set a finished detector's thresholds anew on photographs, without training (docs/method.md, Calibration)."""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from realnet.config import EvaluationConfig
from realnet.detection import bundle
from realnet.detection.calibration import Calibration, pixel_threshold
from realnet.detection.card import make_card
from realnet.detection.loading import read_stored, trained_on
from realnet.detection.runtimes import READERS
from realnet.errors import UserError
from realnet.metrics.intervals import Rate, images_needed, percent
from realnet.models import checkpoint
from realnet.models.checkpoint import Checkpoint

logger = logging.getLogger("realnet")

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Recalibration:
    """A new image threshold, and what the photographs show of it.

    Attributes:
        threshold: a score at or above it is a defect.
        false_alarms: the good photographs that are called defects.
        recall: the defective ones that are; None if there are none.
        asked: what the threshold was chosen for, such as "at most 1 % false alarms".
        missing: good photographs without a false alarm that it would take to promise that; 0 if these are enough.
    """

    threshold: float
    false_alarms: Rate
    recall: Rate | None
    asked: str
    missing: int

    def facts(self) -> dict[str, Any]:
        """Return plain values for the detector's file."""
        return {**asdict(self), "made": date.today().isoformat()}

    def __str__(self) -> str:
        found = f"; defects found: {self.recall}" if self.recall else ""
        return f"set for {self.asked}; false alarms on good photographs: {self.false_alarms}{found}"


def choose_threshold(
    good: Scores,
    defects: Scores | None = None,
    *,
    max_false_alarm: float | None = None,
    min_recall: float | None = None,
) -> Recalibration:
    """Choose an image threshold by scores of photographs.

    Args:
        good: scores of good photographs that the detector was not trained on, at least one.
        defects: scores of defective ones.
        max_false_alarm: the lowest threshold that calls at most this share of ``good`` defects.
        min_recall: the highest threshold that finds at least this share of ``defects``; instead of the other.

    Raises:
        UserError: if there are no photographs to choose by.
    """
    if min_recall is not None:
        if defects is None or not len(defects):
            raise UserError("--min_recall needs photographs of defects; give them as --defects")
        wanted = max(1, math.ceil(min_recall * len(defects) - 1e-9))
        threshold = float(np.sort(defects)[::-1][wanted - 1])
        return _judged(threshold, good, defects, asked=f"at least {percent(min_recall)} of the defects found")
    rate = 0.01 if max_false_alarm is None else max_false_alarm
    allowed = min(math.floor(rate * len(good) + 1e-9), len(good) - 1)
    threshold = float(np.nextafter(np.sort(good)[::-1][allowed], np.inf))  # above the first score that may not alarm
    is_certain = rate in {0, 1} or Rate.of(allowed, len(good)).high <= rate
    missing = 0 if is_certain else images_needed(rate)
    return _judged(threshold, good, defects, asked=f"at most {percent(rate)} false alarms", missing=missing)


def _judged(threshold: float, good: Scores, defects: Scores | None, *, asked: str, missing: int = 0) -> Recalibration:
    alarms, found = (
        None if scores is None else Rate.of(int(np.count_nonzero(scores >= threshold)), len(scores))
        for scores in (good, defects)
    )
    assert alarms is not None
    return Recalibration(threshold, alarms, found, asked, missing)


def calibration_at(
    chosen: Recalibration, earlier: Calibration | None, peaks: Sequence[float], scores: Scores
) -> Calibration:
    """Return the calibration with a new image threshold.

    The pixel threshold moves with the image threshold; without an earlier calibration, it lies above every pixel of the
    good photographs that are judged normal.

    Args:
        chosen: the new image threshold.
        earlier: the calibration so far; None if there is none.
        peaks: the largest value of each good photograph's anomaly map.
        scores: the good photographs' image scores.
    """
    pixels = pixel_threshold(chosen.threshold, earlier)
    if earlier is None or pixels is None:
        normal = [peak for peak, score in zip(peaks, scores, strict=True) if score < chosen.threshold]
        pixels = float(np.nextafter(np.float32(max(normal, default=chosen.threshold)), np.float32(np.inf)))
    return Calibration(
        image_threshold=chosen.threshold,
        pixel_threshold=pixels,
        display_scale=min(max(earlier.display_scale if earlier else 0.0, pixels, 1e-6), 1.0),
        held_out=True,
        num_images=chosen.false_alarms.number,
        num_anomalies=chosen.recall.number if chosen.recall else 0,
        note=str(chosen),
    )


def read_storable(path: Path) -> Checkpoint:
    """Read a detector whose file can take other thresholds.

    Raises:
        UserError: for ONNX, OpenVINO and published files, which cannot, and as :func:`read_stored`.
    """
    if path.suffix in READERS:
        raise UserError(f"{path} keeps its thresholds; calibrate the checkpoint or the bundle, and export it again")
    stored = read_stored(path)
    if stored.config is None:
        raise UserError(f"{path} is a published checkpoint, which stores no thresholds; export it as a bundle first")
    return stored


def require_unseen(stored: Checkpoint, root: Path, files: Sequence[str]) -> None:
    """Check that a detector was trained on none of some good photographs, by their contents.

    Raises:
        UserError: names those that it was. Detectors of earlier versions cannot tell, which is warned of.
    """
    if "training_images" not in stored.facts:
        logger.warning(
            "WARNING: the detector does not say which images it was trained on (an earlier version made it); give none "
            "of them as --good, or the threshold comes out too low"
        )
        return
    seen = [path.relative_to(root).as_posix() for path in trained_on(stored, [root / file for file in files], root)]
    if seen:
        number = "1 photograph" if len(seen) == 1 else f"{len(seen)} photographs"
        raise UserError(
            f"--good holds {number} that the detector was trained on: {', '.join(seen[:5])}{', …' * (len(seen) > 5)}. "
            "What it has seen scores lower than what is new, so the threshold would come out too low; leave "
            f"{'it' if len(seen) == 1 else 'them'} out"
        )


def recalibrated(
    stored: Checkpoint,
    calibration: Calibration,
    chosen: Recalibration,
    evaluation: EvaluationConfig,
    class_name: str | None = None,
) -> Checkpoint:
    """Return a stored detector with other thresholds, and with the settings of the scores that they were set by.

    The thresholds of a unified detector are those of a class, or without ``class_name`` those for any.

    Raises:
        UserError: for a unified detector and another score pool: its other thresholds are of the stored one.
    """
    facts = {**stored.facts, "recalibration": chosen.facts()}
    by_class = facts.get("calibrations", {})
    pool = EvaluationConfig.model_validate((stored.config or {}).get("evaluation", {})).pool
    if by_class and evaluation.pool != pool:
        raise UserError(
            f"evaluation.score_pool {evaluation.pool}: the detector has thresholds for {', '.join(by_class)}, all by "
            f"{pool}; leave evaluation.score_pool out"
        )
    if class_name in by_class:
        facts["calibrations"] = {**by_class, class_name: asdict(calibration)}
    else:
        facts["calibration"] = asdict(calibration)
    config = {**(stored.config or {}), "evaluation": evaluation.model_dump(mode="json")}
    return replace(stored, facts=facts, config=config)


def store(changed: Checkpoint, output: Path, *, as_bundle: bool) -> None:
    """Write a detector and its card, which shows no results: they were those of other thresholds.

    Raises:
        UserError: if the file cannot be written.
    """
    card = make_card(changed, output)
    if as_bundle:
        bundle.write(output, changed, texts=card.texts() if card else None)
        return
    checkpoint.save(output, changed)
    if card:
        card.write(output)
