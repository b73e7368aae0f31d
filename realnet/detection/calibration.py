"""Fit thresholds and display scale to normal images and new local anomalies, without test labels.

See docs/method.md, Calibration.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pydantic import with_config
from torch import Tensor

from realnet.anomalies.probes import draw_probe
from realnet.anomalies.synthesis import AnomalySynthesizer
from realnet.config import Foreground, RealNetConfig
from realnet.data.images import Image, normalise, read_image, resize_image
from realnet.data.index import Entry
from realnet.detection.maps import anomaly_maps
from realnet.metrics.curves import FloatArray, MaskArray, MetricUndefined, ScoreCurve, image_curve, pixel_curve
from realnet.models.realnet import RealNet
from realnet.runtime.distributed import World
from realnet.runtime.progress import stoppable_bar
from realnet.runtime.randomness import generator

logger = logging.getLogger("realnet")

CALIBRATION_EPOCH = 2**31 - 1
"""Anomalies are drawn from this epoch and the ones before it, which training never reaches, so they are new."""
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
    return 0.0 if config.features.normalise == "none" else 0.1


def split_holdout(entries: Sequence[Entry], fraction: float) -> tuple[list[Entry], list[Entry]]:
    """Split training images into those to train on and those to calibrate on.

    The images to calibrate on are evenly spread, and those of one group stay together. There is at least one image if
    the fraction is above 0 and there are two images (or groups) or more.
    """
    groups = list(dict.fromkeys(_group(entry) for entry in entries))
    number = min(len(groups) - 1, max(1, round(fraction * len(groups)))) if fraction > 0 else 0
    held = {groups[index] for index in _spread(len(groups), number + 2)[1:-1]} if number > 0 else set()
    return (
        [entry for entry in entries if _group(entry) not in held],
        [entry for entry in entries if _group(entry) in held],
    )


def _group(entry: Entry) -> tuple[str, str]:
    """Return what an image is split by: its group, or else itself."""
    return ("group", entry.group) if entry.group else ("file", entry.filename)


@dataclass(frozen=True)
class Examples:
    """Normal images and local anomalies on them, uint8 RGB (H, W, 3), to calibrate a trained detector on.

    Attributes:
        normal: at the detector's input size.
        anomalous: likewise.
        masks: (N, H, W) bool, of the anomalous ones.
    """

    normal: Sequence[Image]
    anomalous: Sequence[Image]
    masks: MaskArray

    def measure(
        self, of_batch: Callable[[Tensor], tuple[FloatArray, ...]], batch_size: int, description: str, world: World
    ) -> tuple["Measured", ...]:
        """Apply a function of images (B, 3, H, W) to all examples, batch by batch; return each of its results."""
        pictures = [*self.normal, *self.anomalous]
        batches = [pictures[start : start + batch_size] for start in range(0, len(pictures), batch_size)]
        shown = stoppable_bar(batches, description, world)
        found = [of_batch(torch.stack([normalise(image) for image in batch])) for batch in shown]
        whole = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return tuple(Measured(values[: len(self.normal)], values[len(self.normal) :]) for values in whole)


class Measured(NamedTuple):
    """A result for each normal and for each anomalous example."""

    normal: FloatArray
    anomalous: FloatArray


def draw_examples(
    entries: Sequence[Entry],
    image_root: Path,
    synthesizer: AnomalySynthesizer,
    config: RealNetConfig,
    *,
    image_bits: int = 16,
) -> Examples:
    """Read normal images and draw new local anomalies on them, reproducibly from the seed.

    Args:
        entries: normal images; at most ``calibration.num_anomalies`` of them are used, evenly spread.
        image_root: the folder that the entries' file names are relative to.
        synthesizer: makes the anomalies.
        config: of the detector.
        image_bits: bits that 16-bit values use.
    """
    number = config.calibration.num_anomalies
    used = [entries[index] for index in _spread(len(entries), min(len(entries), number))]
    images = [resize_image(read_image(image_root / entry.filename, image_bits), config.image_size) for entry in used]
    drawn = [
        synthesizer.synthesize(images[i % len(images)], rng, only_anomalous=True)
        for i, rng in enumerate(_generators("calibration", config, config.seed, len(images)))
    ]
    anomalies = [anomaly for anomaly in drawn if anomaly.mask.any()]
    masks = np.array([anomaly.mask for anomaly in anomalies])
    return Examples(images, [anomaly.image for anomaly in anomalies], masks)


def draw_probes(examples: Examples, foreground: Foreground, config: RealNetConfig) -> Examples:
    """Draw anomalies that no detector is trained on onto the same normal images, reproducibly from the seed."""
    drawn = [
        draw_probe(examples.normal[i % len(examples.normal)], foreground, rng)
        for i, rng in enumerate(_generators("probes", config, config.seed + 1, config.calibration.num_anomalies))
    ]
    found = [(image, mask) for image, mask in drawn if mask.any()]
    return Examples(examples.normal, [image for image, _ in found], np.array([mask for _, mask in found]))


def calibrate(
    model: RealNet,
    examples: Examples,
    *,
    config: RealNetConfig,
    world: World,
    held_out: bool,
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
        description: text of the progress bar.

    Returns:
        The calibration; None, with a warning, if there is nothing to tell apart (no anomaly fell on the object, or the
        network returns NaN).
    """
    was_training = model.training
    model.eval()
    try:
        maps, scores = examples.measure(
            lambda batch: anomaly_maps(model, batch, world.precision).scored(config.evaluation.pool),
            config.evaluation.batch_size,
            description,
            world,
        )
    finally:
        model.train(was_training)
    try:
        return _calibration(maps, scores, examples.masks, held_out=held_out)
    except MetricUndefined as error:
        logger.warning("WARNING: no calibration, so there are no verdicts without --threshold: %s", error)
        return None


def _generators(purpose: str, config: RealNetConfig, seed: int, num_images: int) -> Iterator[np.random.Generator]:
    """Yield a generator for each anomaly to calibrate on."""
    for number in range(config.calibration.num_anomalies):
        again, index = divmod(number, num_images)
        yield generator(purpose, seed, CALIBRATION_EPOCH - again, index, draws=config.draws)


def _spread(length: int, number: int) -> list[int]:
    """Return ``number`` indexes into ``length`` items, evenly spread from first to last."""
    return [int(index) for index in np.linspace(0, length - 1, number).round()]


def _calibration(maps: Measured, scores: Measured, masks: MaskArray, *, held_out: bool) -> Calibration:
    normal, anomalous = maps
    if not len(anomalous):
        raise MetricUndefined("no local anomaly fell on the object in these images")
    truth = np.concatenate([np.zeros(normal.shape, bool), masks])
    pixel_threshold = pixel_curve(np.concatenate([normal, anomalous]), truth).f1_max.threshold
    scale = max(float(np.quantile(anomalous[masks], DISPLAY_QUANTILE)), pixel_threshold, 1e-6)
    return Calibration(
        image_threshold=_image_threshold(scores.normal[:, 0], scores.anomalous[:, 0]),
        pixel_threshold=pixel_threshold,
        display_scale=min(scale, 1.0),
        held_out=held_out,
        num_images=len(normal),
        num_anomalies=len(anomalous),
    )


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
