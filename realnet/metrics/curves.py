"""Exact detection metrics: AUROC, average precision, best F1 and AUPRO (docs/method.md, Evaluation).

A curve rises only where a falling threshold reaches the score of a defect. Two counts of normal scores at each distinct
defect score (those at or above it, and those strictly above it) therefore determine the whole curve, ties included.
``ScoreCurve`` stores these counts; each metric is a few sums over them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.floating[Any]]
MaskArray = NDArray[np.bool_ | np.uint8]


class MetricUndefined(ValueError):
    """Raised if a metric cannot be computed from the data (docs/method.md, Evaluation); the message is the reason."""


class BestF1(NamedTuple):
    """The largest F1, and the highest threshold that reaches it (docs/method.md, Evaluation)."""

    value: float
    threshold: float


class CurvePoints(NamedTuple):
    """A curve to draw (docs/method.md, AUROC): x and y never fall; both are float64 (P,) in [0, 1]."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]


@dataclass(frozen=True)
class ScoreCurve:
    """Counts of scores at each of D thresholds, the distinct defect scores (docs/method.md, Evaluation).

    Attributes:
        thresholds: distinct defect scores (D,), falling.
        true_positives: number of defect scores >= threshold (D,).
        false_positives: number of normal scores >= threshold (D,).
        false_positives_above: number of normal scores > threshold (D,); differs from ``false_positives`` at ties.
        num_normal: number of normal scores.
        region_overlap: share of a ground-truth region's pixels with a score >= threshold, averaged over the regions
            (D,), in [0, 1]; None for a curve of images.
    """

    thresholds: FloatArray
    true_positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]
    false_positives_above: NDArray[np.int64]
    num_normal: int
    region_overlap: NDArray[np.float64] | None = None

    @property
    def num_defect(self) -> int:
        """Return the number of defect scores."""
        return int(self.true_positives[-1])

    @property
    def auroc(self) -> float:
        """Return the area under the ROC curve, P(normal < defect) + P(equal) / 2 (docs/method.md, AUROC).

        It is not flipped when below 0.5.
        """
        found = np.diff(self.true_positives, prepend=0)
        twice_below = 2 * self.num_normal - self.false_positives - self.false_positives_above
        return float(np.dot(found, twice_below) / (2 * self.num_normal * self.num_defect))

    @property
    def ap(self) -> float:
        """Return the average precision, Σ (R_n - R_{n-1}) P_n over the distinct defect scores, not interpolated."""
        precision = self.true_positives / (self.true_positives + self.false_positives)
        return float(np.dot(np.diff(self.true_positives, prepend=0), precision) / self.num_defect)

    @property
    def f1_max(self) -> BestF1:
        """Return the largest F1 over all thresholds.

        It lies at a defect score: a threshold between two defect scores only adds false alarms to the upper one's.
        """
        f1 = 2 * self.true_positives / (self.true_positives + self.false_positives + self.num_defect)
        best = int(np.argmax(f1))
        return BestF1(float(f1[best]), float(self.thresholds[best]))

    def aupro(self, fpr_limit: float = 0.3) -> float:
        """Return the area under the PRO curve up to ``fpr_limit``, divided by ``fpr_limit`` (docs/method.md, AUPRO).

        The curve is interpolated linearly at the limit.
        """
        fpr, overlap = self._pro_up_to(fpr_limit)
        return float(np.trapezoid(overlap, fpr) / fpr_limit)

    def roc_points(self, max_points: int = 500) -> CurvePoints:
        """Return (false positive rate, true positive rate), thinned to at most ``max_points`` for drawing."""
        fpr, tpr = self._vertices(self.true_positives / self.num_defect)
        return _thin(fpr, tpr, max_points)

    def pro_points(self, fpr_limit: float = 0.3, *, max_points: int = 500) -> CurvePoints:
        """Return (false positive rate up to `fpr_limit`, mean region overlap), thinned for drawing."""
        return _thin(*self._pro_up_to(fpr_limit), max_points)

    def _pro_up_to(self, fpr_limit: float) -> CurvePoints:
        if not 0 < fpr_limit <= 1:
            raise ValueError(f"fpr_limit is {fpr_limit}; give a false positive rate in (0, 1]")
        if self.region_overlap is None:
            raise MetricUndefined("region overlap needs masks, but these are scores of images")
        fpr, overlap = self._vertices(self.region_overlap)
        inside = int(np.searchsorted(fpr, fpr_limit, side="right"))  # >= 1: the curve starts at 0
        before, after = inside - 1, min(inside, len(fpr) - 1)
        at_limit = np.interp(fpr_limit, fpr[[before, after]], overlap[[before, after]])
        return CurvePoints(np.append(fpr[:inside], fpr_limit), np.append(overlap[:inside], at_limit))

    def _vertices(self, heights: NDArray[np.float64]) -> CurvePoints:
        """Join (0, 0), two vertices per threshold (just above it and at it) and (1, 1)."""
        x, y = np.zeros(2 * len(heights) + 2), np.zeros(2 * len(heights) + 2)
        x[1:-1:2], y[3:-1:2] = self.false_positives_above / self.num_normal, heights[:-1]
        x[2:-1:2], y[2:-1:2] = self.false_positives / self.num_normal, heights
        x[-1] = y[-1] = 1
        return CurvePoints(x, y)


def image_curve(scores: ArrayLike, labels: ArrayLike) -> ScoreCurve:
    """Build the curve of image scores (N,) and labels (N,); any non-zero label is a defect (docs/method.md, AUROC).

    Raises:
        MetricUndefined: if there are no scores, if shapes differ, if a score is NaN, or if there are no normal or no
            defect images.
    """
    scores, truth = _checked(np.asarray(scores), np.asarray(labels), "image")
    return _curve(scores[~truth], scores[truth])


def pixel_curve(
    anomaly_maps: FloatArray, masks: MaskArray | None, regions: NDArray[np.integer[Any]] | None = None
) -> ScoreCurve:
    """Build the curve that all pixel metrics share, with one sort (docs/method.md, AUROC, AUPRO).

    Args:
        anomaly_maps: scores (N, H, W), of any floating type; they are compared exactly as given.
        masks: truth (N, H, W), bool or uint8; any non-zero value is a defect; None if there are no masks.
        regions: number of each defect pixel's region (N, H, W), from 1; None numbers the masks' 8-connected regions.

    Raises:
        MetricUndefined: if there are no masks, if shapes differ, if a score is NaN, or if there are no normal or no
            defect pixels.
    """
    if masks is None:
        raise MetricUndefined("no masks")
    scores, truth = _checked(anomaly_maps, masks, "pixel")
    return _curve(scores[~truth], scores[truth], np.concatenate(list(_region_shares(truth, regions))))


def _checked(scores: NDArray[Any], truth: NDArray[Any], unit: str) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Return the scores in a type that sorts fast and keeps every digit, and the truth as bool."""
    wanted = 1 if unit == "image" else 3
    if scores.shape != truth.shape or scores.ndim != wanted:
        raise MetricUndefined(f"{unit} scores of shape {scores.shape} and truth of shape {truth.shape} do not match")
    if scores.size == 0:
        raise MetricUndefined("no images")
    if np.isnan(scores.min()):
        raise MetricUndefined(f"{unit} scores hold NaN")
    truth = truth.astype(bool, copy=False)
    if truth.all() or not truth.any():
        raise MetricUndefined(f"no {'normal' if truth.any() else 'defect'} {unit}")
    exact = np.float32 if scores.dtype in (np.float16, np.float32) else np.float64
    return scores.astype(exact, copy=False), truth


def _region_shares(truth: NDArray[np.bool_], regions: NDArray[np.integer[Any]] | None) -> Iterator[NDArray[np.float64]]:
    """Yield 1 / (area of its region) for each defect pixel, in the order of ``scores[truth]``."""
    for number, mask in enumerate(truth):
        if mask.any():
            if regions is None:
                _, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
            else:
                labels = regions[number]
            yield region_shares(labels[mask])


def region_shares(labels: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """Return 1 / (area of its region) for each pixel, by its region's number (P,) (docs/method.md, AUPRO)."""
    return (1 / np.maximum(np.bincount(labels), 1))[labels]


def _curve(normal: FloatArray, defect: FloatArray, shares: NDArray[np.float64] | None = None) -> ScoreCurve:
    """Count scores along the falling distinct defect scores; ``shares`` (one each) add the region overlap."""
    num_normal = len(normal)
    normal = normal[normal >= defect.min()]  # the others lie below every threshold, so they need no sorting
    normal.sort()
    order = np.argsort(defect)[::-1]
    defect = defect[order]
    last_of_tie = np.append(np.flatnonzero(defect[1:] != defect[:-1]), len(defect) - 1)
    thresholds, overlap = defect[last_of_tie], None
    if shares is not None:
        overlap = np.cumsum(shares[order])[last_of_tie]
        overlap /= overlap[-1]  # each region adds up to 1, so the total is the number of regions
    return ScoreCurve(
        thresholds=thresholds,
        true_positives=last_of_tie + 1,
        false_positives=len(normal) - np.searchsorted(normal, thresholds, side="left"),
        false_positives_above=len(normal) - np.searchsorted(normal, thresholds, side="right"),
        num_normal=num_normal,
        region_overlap=overlap,
    )


def _thin(x: NDArray[np.float64], y: NDArray[np.float64], max_points: int) -> CurvePoints:
    """Keep the ends, and vertices spread evenly along the curve's length |dx| + |dy|."""
    if len(x) <= max_points:
        return CurvePoints(x, y)
    length = x / x[-1] + y
    wanted = np.linspace(length[0], length[-1], max_points)
    kept = np.unique(np.searchsorted(length, wanted).clip(0, len(x) - 1))
    return CurvePoints(x[kept], y[kept])
