"""Fit thresholds and display scale to normal images and new local anomalies, without test labels.

See docs/method.md, Calibration.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import with_config

from realnet.config import RealNetConfig
from realnet.data.images import Image
from realnet.data.index import Entry
from realnet.data.order import spread
from realnet.detection.examples import Examples, Measured
from realnet.detection.maps import in_use
from realnet.detection.runtimes import TorchRuntime
from realnet.detection.tiling import TileJudge
from realnet.metrics.curves import FloatArray, MaskArray, MetricUndefined, ScoreCurve, image_curve
from realnet.metrics.streaming import pixel_curve_of_images
from realnet.models.realnet import RealNet
from realnet.runtime.distributed import World

logger = logging.getLogger("realnet")

DISPLAY_QUANTILE = 0.95
FEWEST_HELD_OUT = 32
"""Fewer say too little of how high normal images score (docs/method.md, Calibration)."""


@with_config(extra="forbid", strict=True, allow_inf_nan=False)
@dataclass(frozen=True)
class Calibration:
    """The values that turn scores into verdicts and pictures (docs/method.md, Calibration).

    Attributes:
        image_threshold: an image score at or above it is a defect.
        pixel_threshold: an anomaly-map value at or above it is a defect.
        display_scale: the anomaly-map value that heatmaps show as hottest, in (0, 1].
        held_out: whether the normal images were held out from training.
        num_images: number of normal images used.
        num_anomalies: number of local anomalies used, or of photographs of defects.
        note: what a calibration on photographs shows (:mod:`realnet.detection.recalibration`); "" for that of training.
    """

    image_threshold: float
    pixel_threshold: float
    display_scale: float
    held_out: bool
    num_images: int
    num_anomalies: int
    note: str = ""

    def __str__(self) -> str:
        if self.note:
            return self.note
        which = "held-out" if self.held_out else "training"
        return f"calibrated on {self.num_images} {which} images and {self.num_anomalies} local anomalies on them"


def pixel_threshold(image_threshold: float | None, calibration: Calibration | None) -> float | None:
    """Return the pixel threshold that goes with an image threshold (docs/method.md, Calibration).

    With the calibrated image threshold it is the calibrated one; below and above it moves in proportion, so that 0 and
    1 (and what no score reaches) stay 0 and 1. Without a calibration it is the image threshold. None without one.
    """
    if image_threshold is None or calibration is None:
        return image_threshold
    middle, pixels = calibration.image_threshold, calibration.pixel_threshold
    if image_threshold == middle:
        return pixels
    if image_threshold < middle:
        return pixels * image_threshold / middle
    return 1 - (1 - pixels) * (1 - image_threshold) / (1 - middle) if image_threshold < 1 else 1.0


def holdout_share(config: RealNetConfig, number: int) -> float:
    """Return the share of a class's training images to hold out; ``number`` is how many it has."""
    given = config.calibration.holdout_fraction
    if given != "auto":
        return given
    if number >= 4 * FEWEST_HELD_OUT:
        return max(0.1, FEWEST_HELD_OUT / number)
    sees_statistics = config.features.normalise != "none" or (config.tiles is not None and config.tiles.context)
    return 0.1 if sees_statistics else 0.0


def split_holdout(entries: Sequence[Entry], fraction: float) -> tuple[list[Entry], list[Entry]]:
    """Split training images into those to train on and those to calibrate on.

    The images to calibrate on are evenly spread, and those of one group stay together. There is at least one image if
    the fraction is above 0 and there are two images (or groups) or more.
    """
    groups = list(dict.fromkeys(_group(entry) for entry in entries))
    number = min(len(groups) - 1, max(1, round(fraction * len(groups)))) if fraction > 0 else 0
    held = {groups[index] for index in spread(len(groups), number + 2)[1:-1]} if number > 0 else set()
    return (
        [entry for entry in entries if _group(entry) not in held],
        [entry for entry in entries if _group(entry) in held],
    )


def _group(entry: Entry) -> tuple[str, str]:
    """Return what an image is split by: its group, or else itself."""
    return ("group", entry.group) if entry.group else ("file", entry.filename)


def calibrate(
    model: RealNet,
    examples: Examples,
    *,
    config: RealNetConfig,
    world: World,
    held_out: bool,
    by_tiles: TileJudge | None = None,
    description: str = "calibration",
) -> Calibration | None:
    """Set the thresholds between normal images and local anomalies on them (docs/method.md, Calibration).

    The image threshold has the largest difference of true and false positive rate, the pixel threshold the best F1. The
    result depends only on the weights and the examples; torch's random state does not change.

    Args:
        model: in any mode, which is restored afterwards.
        examples: from :func:`draw_examples`.
        config: of the detector.
        world: this process, which calibrates alone, in the number format in which the detector is used.
        held_out: whether the normal images were held out from training; stored in the result.
        by_tiles: how photographs are judged; None: the model sees them whole.
        description: text of the progress bar.

    Returns:
        The calibration; None, with a warning, if there is nothing to tell apart (no anomaly fell on the object, or the
        network returns NaN).
    """
    torch_runtime = TorchRuntime(model, world.precision)

    def judge(images: Sequence[Image]) -> tuple[FloatArray, FloatArray]:
        if by_tiles is None:
            return torch_runtime.judge(images, config.evaluation.pool)
        found = [by_tiles.judge(image, torch_runtime) for image in images]
        return np.stack([one.anomaly_map for one in found]), np.array([one.score for one in found])

    with in_use(model):
        at_once = 1 if by_tiles else config.evaluation.batch_size
        maps, scores = examples.measure(judge, at_once, description, world)
    try:
        return _calibration(maps, scores, examples.masks, held_out=held_out)
    except MetricUndefined as error:
        logger.warning("WARNING: no calibration, so there are no verdicts without --threshold: %s", error)
        return None


def _calibration(maps: Measured, scores: Measured, masks: MaskArray, *, held_out: bool) -> Calibration:
    normal, anomalous = maps
    if not len(anomalous):
        raise MetricUndefined("no local anomaly fell on the object in these images")
    pixel_threshold = pixel_curve_of_images(lambda: _pixels(maps, masks)).f1_max.threshold
    scale = max(float(np.quantile(anomalous[masks], DISPLAY_QUANTILE)), pixel_threshold, 1e-6)
    return Calibration(
        image_threshold=_image_threshold(scores.normal, scores.anomalous),
        pixel_threshold=pixel_threshold,
        display_scale=min(scale, 1.0),
        held_out=held_out,
        num_images=len(normal),
        num_anomalies=len(anomalous),
    )


def _pixels(maps: Measured, masks: MaskArray) -> Iterator[tuple[FloatArray, NDArray[np.int32]]]:
    """Yield the map of each example, and 1 where there is an anomaly."""
    for values in maps.normal:
        yield values, np.zeros(values.shape, np.int32)
    for values, mask in zip(maps.anomalous, masks, strict=True):
        yield values, mask.astype(np.int32)


def _image_threshold(normal: FloatArray, anomalous: FloatArray) -> float:
    """Return the middle between the best threshold, which is an anomaly's score, and the next normal score below it."""
    scores = np.concatenate([normal, anomalous])
    best = _best_threshold(image_curve(scores, np.repeat([0, 1], [len(normal), len(anomalous)])))
    below = normal[normal < best]
    return float((best + below.max()) / 2) if len(below) else best


def _best_threshold(curve: ScoreCurve) -> float:
    """Return the threshold with the largest (true positive rate - false positive rate), the highest if several.

    F1 would not do here. With few held-out images, false alarms hardly count in it, and if the scores overlap, F1 is
    best when everything is called a defect.
    """
    gain = curve.true_positives / curve.num_defect - curve.false_positives / curve.num_normal
    return float(curve.thresholds[int(np.argmax(gain))])
