"""Score a class's test split and compute its metrics (docs/method.md, Evaluation)."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from realnet.config import EvaluationConfig
from realnet.data.index import Entry
from realnet.data.regions import Regions, label_regions
from realnet.detection.maps import DIVERGED, anomaly_maps, in_use
from realnet.detection.runtimes import TorchRuntime
from realnet.detection.tiling import TileJudge
from realnet.evaluation.split import TestSplit, interleave
from realnet.metrics.curves import MetricUndefined, ScoreCurve, image_curve, pixel_curve
from realnet.metrics.streaming import pixel_curve_of_images
from realnet.models.realnet import RealNet
from realnet.runtime import distributed
from realnet.runtime.files import scratch
from realnet.runtime.precision import Precision

logger = logging.getLogger("realnet")

METRICS = ("image_auroc", "pixel_auroc", "aupro", "image_ap", "pixel_ap", "image_f1_max", "pixel_f1_max")

PIXELS_AT_ONCE = 2**29
"""Bytes of maps beyond which the curve of pixels is built image by image, which takes longer and gives the same."""


@dataclass(frozen=True)
class ClassScores:
    """A detector's scores for a test split, and the truth.

    Attributes:
        entries: the N test images, in the order of the arrays.
        anomaly_maps: (N, H, W) float32 in [0, 1].
        image_scores: (N,), see ``metrics.image_score``.
        labels: (N,) in {0, 1}.
        masks: (N, H, W) bool; all False where ``has_mask`` is False.
        has_mask: (N,) bool, whether the truth of the pixels is known: normal images, and defects with a mask.
        regions: (N, H, W) numbers of the masks' regions, from 1; None where those that the masks show count.
        region_counts: (N, 3), what became of each mask's regions (``RegionCounts``); None if nobody counted.
        regions_in_file: returns the regions (h, w) of the n-th image's mask at the file's own size; None where pixel
            metrics count the pixels of the maps.
    """

    entries: Sequence[Entry]
    anomaly_maps: NDArray[np.float32]
    image_scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_]
    has_mask: NDArray[np.bool_]
    regions: NDArray[np.uint16] | None = None
    region_counts: NDArray[np.int64] | None = None
    regions_in_file: Callable[[int], Regions] | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        """Return the (H, W) of the maps."""
        _, height, width = self.anomaly_maps.shape
        return height, width

    def by_class(self) -> list["ClassScores"]:
        """Return the scores of each class among the images; these, if there is only one."""
        classes = list(dict.fromkeys(entry.class_name for entry in self.entries))
        if len(classes) < 2:
            return [self]
        names = np.array([entry.class_name for entry in self.entries])
        return [self._of(np.flatnonzero(names == name)) for name in classes]

    def _of(self, numbers: NDArray[np.int64]) -> "ClassScores":
        in_file = self.regions_in_file
        return ClassScores(
            entries=[self.entries[number] for number in numbers],
            anomaly_maps=self.anomaly_maps[numbers],
            image_scores=self.image_scores[numbers],
            labels=self.labels[numbers],
            masks=self.masks[numbers],
            has_mask=self.has_mask[numbers],
            regions=None if self.regions is None else self.regions[numbers],
            region_counts=None if self.region_counts is None else self.region_counts[numbers],
            regions_in_file=in_file and (lambda place: in_file(int(numbers[place]))),
        )


@dataclass(frozen=True)
class Metric:
    """A metric's value in [0, 1], or the reason why there is none."""

    value: float | None
    reason: str | None = None

    def __str__(self) -> str:
        return "–" if self.value is None else f"{self.value:.4f}"


@dataclass(frozen=True)
class Undefined:
    """A curve that the data do not define, and the reason."""

    reason: str


@dataclass(frozen=True)
class Curves:
    """The curves from which every metric of a class is computed."""

    image: ScoreCurve | Undefined
    pixel: ScoreCurve | Undefined


def score_split(
    model: RealNet,
    split: TestSplit,
    *,
    config: EvaluationConfig,
    precision: Precision,
    by_tiles: TileJudge | None = None,
    description: str = "",
) -> ClassScores:
    """Score a test split (docs/method.md, Evaluation).

    Several processes share the images, and each gets the whole result.

    Args:
        model: the network; its mode (train or eval) is restored afterwards.
        split: the images and their truth.
        config: batch size and pooling window of the image score.
        precision: the number format to compute in.
        by_tiles: how images are judged tile by tile; None: the network sees them whole.
        description: names the progress bar; "" shows none.

    Raises:
        UserError: on all processes, if an image or a mask cannot be used.
    """
    maps, scores = scratch((split.num_own, *split.image_size), np.float32), np.zeros((split.num_own, 1))
    with in_use(model), distributed.refusing_together():
        for part, its_maps, its_scores in _judged(model, split, config, precision, by_tiles, description):
            maps[part], scores[part] = its_maps, its_scores
    whole, whole_scores = (interleave(distributed.gather(mine)) for mine in (maps, scores))
    return scores_of(split, whole, whole_scores[:, 0], resolution=config.resolution)


def _judged(
    model: RealNet,
    split: TestSplit,
    config: EvaluationConfig,
    precision: Precision,
    by_tiles: TileJudge | None,
    description: str,
) -> Iterator[tuple[slice | int, NDArray[np.float32], NDArray[np.float64] | float]]:
    """Yield which of this process's images come next, their maps and their scores."""
    if by_tiles is None:
        for part, images in split.batches(config.batch_size, description):
            yield part, *anomaly_maps(model, images, precision).scored(config.pool)
        return
    runtime = TorchRuntime(model, precision)
    skipped = 0
    for number, image in split.photographs(description):
        found = by_tiles.judge(image, runtime)
        skipped += found.num_skipped
        yield number, found.anomaly_map, found.score
    if skipped:
        whole = len(by_tiles.tiling) * split.num_own
        logger.info("%d of %d tiles are background alone, and were not judged", skipped, whole)


def scores_of(
    split: TestSplit,
    maps: NDArray[np.float32],
    scores: NDArray[np.float64],
    *,
    resolution: Literal["input", "file"] = "input",
) -> ClassScores:
    """Join maps (N, H, W) and image scores (N,) with the truth; every process must call this.

    ``resolution`` is ``evaluation.resolution`` of the config.
    """
    truth = split.truth()
    return ClassScores(
        entries=split.entries,
        anomaly_maps=maps,
        image_scores=scores,
        labels=np.array([entry.label for entry in split.entries], np.int64),
        masks=truth.masks,
        has_mask=truth.has_mask,
        regions=truth.regions,
        region_counts=truth.counts,
        regions_in_file=split.files.regions_of if resolution == "file" else None,
    )


def not_numbers(scores: ClassScores) -> str:
    """Return a text that says how many images get NaN, and why; "" if none do."""
    number = int(np.count_nonzero(~np.isfinite(scores.image_scores)))
    return f"the detector gives NaN for {number} of {len(scores.image_scores)} images: {DIVERGED}" if number else ""


def curves_of(scores: ClassScores) -> Curves:
    """Build the curves of images and pixels; images without pixel truth count only for the first."""
    if broken := not_numbers(scores):
        return Curves(Undefined(broken), Undefined(broken))
    image = _defined(lambda: image_curve(scores.image_scores, scores.labels))
    reason = _no_pixel_truth(scores)
    if reason:
        return Curves(image, Undefined(reason))
    return Curves(image, _defined(lambda: _pixel_curve(scores)))


def _pixel_curve(scores: ClassScores) -> ScoreCurve:
    maps, masks, regions = scores.anomaly_maps, scores.masks, scores.regions
    if scores.regions_in_file is not None:
        return pixel_curve_of_images(lambda: _images_in_files(scores))
    if maps.nbytes > PIXELS_AT_ONCE:
        return pixel_curve_of_images(lambda: _images(scores))
    if not scores.has_mask.all():
        maps, masks = maps[scores.has_mask], masks[scores.has_mask]
        regions = None if regions is None else regions[scores.has_mask]
    return pixel_curve(maps, masks, regions)


def _images(scores: ClassScores) -> Iterator[tuple[NDArray[np.float32], Regions]]:
    """Yield the map and the mask's regions of each image whose truth is known."""
    for number in np.flatnonzero(scores.has_mask):
        known = scores.regions
        yield scores.anomaly_maps[number], label_regions(scores.masks[number]) if known is None else known[number]


def _images_in_files(scores: ClassScores) -> Iterator[tuple[NDArray[np.float32], Regions]]:
    """Yield the map, enlarged to the file's own size, and the mask's regions of each image whose truth is known."""
    assert scores.regions_in_file is not None
    for number in np.flatnonzero(scores.has_mask):
        regions = scores.regions_in_file(int(number))
        height, width = regions.shape
        yield cv2.resize(scores.anomaly_maps[number], (width, height), interpolation=cv2.INTER_LINEAR), regions


def summarise(curves: Curves, *, fpr_limit: float = 0.3) -> dict[str, Metric]:
    """Return each metric, in the order of ``METRICS``; AUPRO ends at ``fpr_limit`` (docs/method.md, AUPRO)."""
    return {
        "image_auroc": _read(curves.image, lambda curve: curve.auroc),
        "pixel_auroc": _read(curves.pixel, lambda curve: curve.auroc),
        "aupro": _read(curves.pixel, lambda curve: curve.aupro(fpr_limit)),
        "image_ap": _read(curves.image, lambda curve: curve.ap),
        "pixel_ap": _read(curves.pixel, lambda curve: curve.ap),
        "image_f1_max": _read(curves.image, lambda curve: curve.f1_max.value),
        "pixel_f1_max": _read(curves.pixel, lambda curve: curve.f1_max.value),
    }


def published_score(metrics: Mapping[str, Metric]) -> float | None:
    """Return the mean of image and pixel AUROC, which chooses ``ckpt_best``; leave out one that is not computed."""
    values = [metrics[name].value for name in ("image_auroc", "pixel_auroc")]
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None


def mean_over_classes(by_class: Sequence[dict[str, Metric]]) -> dict[str, Metric]:
    """Return the mean of each metric over the classes where it is defined."""
    return {name: _mean([of_class[name].value for of_class in by_class]) for name in METRICS}


def _no_pixel_truth(scores: ClassScores) -> str:
    """Return the reason why no pixel truth is known for these images; "" if it is known."""
    if not len(scores.labels):
        return "no images"
    if not scores.labels.any():
        return "no defect image"
    return "" if scores.has_mask[scores.labels == 1].any() else "no defect image has a mask"


def _defined(make: Callable[[], ScoreCurve]) -> ScoreCurve | Undefined:
    try:
        return make()
    except MetricUndefined as error:
        return Undefined(str(error))


def _read(curve: ScoreCurve | Undefined, value: Callable[[ScoreCurve], float]) -> Metric:
    return Metric(None, curve.reason) if isinstance(curve, Undefined) else Metric(value(curve))


def _mean(values: Sequence[float | None]) -> Metric:
    present = [value for value in values if value is not None]
    return Metric(float(np.mean(present))) if present else Metric(None, "no class has it")
