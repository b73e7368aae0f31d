"""The curve of all pixels, image by image, in bounded memory (docs/method.md, AUPRO).

One pass collects the distinct scores of defect pixels, and a second one counts the normal pixels at each of them. If
there are more distinct scores than ``MAX_THRESHOLDS``, all scores lose their last bits: they are rounded towards zero,
by which some become equal and none change their order.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from realnet.metrics.curves import FloatArray, MetricUndefined, ScoreCurve, region_shares

MAX_THRESHOLDS = 2**22
ScoredImage = tuple[FloatArray, NDArray[np.integer[Any]]]
"""The scores (H, W) of an image, and the numbers of its regions (H, W), 0 where there is no defect."""


def pixel_curve_of_images(images: Callable[[], Iterable[ScoredImage]]) -> ScoreCurve:
    """Build the curve of :func:`pixel_curve` image by image (docs/method.md, AUPRO).

    It is exact up to ``MAX_THRESHOLDS`` distinct defect scores. Beyond, scores are rounded by the last bits of their
    mantissa; for float32 scores in [1e-9, 1] by less than 1e-5 of their value.

    Args:
        images: yields all images at each call; they may differ in size.

    Raises:
        MetricUndefined: as for :func:`pixel_curve`.
    """
    defects, num_images = _Defects(), 0
    for scores, regions in images():
        num_images += 1
        defects.add(*_defects(scores, regions))
    defects.merge()
    thresholds = defects.scores
    if not len(thresholds):
        raise MetricUndefined("no defect pixel" if num_images else "no images")
    passed, ties = (np.zeros(len(thresholds) + 1, np.int64) for _ in range(2))
    num_normal = 0
    for batch in _joined(scores[regions == 0] for scores, regions in images()):
        num_normal += len(batch)
        normal = np.sort(_rounded(batch, defects.num_lost_bits))  # a search in order is several times as fast
        normal = normal[np.searchsorted(normal, thresholds[0]) :]
        places = np.searchsorted(thresholds, normal)  # the number of thresholds below each score
        passed += np.bincount(places, minlength=len(passed))
        is_tie = thresholds[np.minimum(places, len(thresholds) - 1)] == normal
        ties += np.bincount(places[is_tie], minlength=len(ties))
    if not num_normal:
        raise MetricUndefined("no normal pixel")
    above, overlap = np.cumsum(passed[:0:-1]), np.cumsum(defects.shares[::-1])
    return ScoreCurve(
        thresholds=thresholds[::-1],
        true_positives=np.cumsum(defects.counts[::-1]),
        false_positives=above + ties[-2::-1],
        false_positives_above=above,
        num_normal=num_normal,
        region_overlap=overlap / overlap[-1],  # each region adds up to 1, so the total is the number of regions
    )


class _Defects:
    """The distinct scores of defect pixels, rising, with the number of pixels and the regions' shares at each.

    At most ``MAX_THRESHOLDS`` scores are kept, without the last ``num_lost_bits`` bits of their mantissa.
    """

    def __init__(self) -> None:
        self.num_lost_bits = 0
        self.scores: FloatArray = np.zeros(0, np.float32)
        self.counts, self.shares = np.zeros(0, np.int64), np.zeros(0)
        self._waiting: list[tuple[FloatArray, NDArray[np.int64], NDArray[np.float64]]] = []
        self._num_waiting = 0

    def add(self, scores: FloatArray, shares: NDArray[np.float64]) -> None:
        """Add an image's defect pixels: scores (P,), and shares (P,) of their regions."""
        self._waiting.append((scores, np.ones(len(scores), np.int64), shares))
        self._num_waiting += len(scores)
        if self._num_waiting > MAX_THRESHOLDS:
            self.merge()

    def merge(self) -> None:
        """Bring the scores, counts and shares up to date."""
        parts = [*([(self.scores, self.counts, self.shares)] if len(self.scores) else []), *self._waiting]
        self._waiting, self._num_waiting = [], 0
        if not parts:
            return
        scores, counts, shares = (np.concatenate(values) for values in zip(*parts, strict=True))
        if not len(scores):
            return
        order = np.argsort(scores)
        scores, counts, shares = (values[order] for values in (scores, counts, shares))
        while len(starts := _starts(rounded := _rounded(scores, self.num_lost_bits))) > MAX_THRESHOLDS:
            self.num_lost_bits += 1
        self.scores = rounded[starts]
        self.counts, self.shares = np.add.reduceat(counts, starts), np.add.reduceat(shares, starts)


def _starts(rising: FloatArray) -> NDArray[np.intp]:
    """Return where each run of equal values begins."""
    return np.flatnonzero(np.append(True, rising[1:] != rising[:-1]))


def _rounded(scores: FloatArray, num_bits: int) -> FloatArray:
    """Clear the last bits of floating-point numbers, which moves them towards zero and keeps their order."""
    if not num_bits:
        return scores
    bits = np.ascontiguousarray(scores).view(f"u{scores.itemsize}")
    return (bits >> num_bits << num_bits).view(scores.dtype)


def _joined(parts: Iterable[FloatArray]) -> Iterator[FloatArray]:
    """Join arrays to a few large ones."""
    waiting: list[FloatArray] = []
    for part in parts:
        waiting.append(part)
        if sum(map(len, waiting)) > MAX_THRESHOLDS:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)


def _defects(scores: FloatArray, regions: NDArray[np.integer[Any]]) -> tuple[FloatArray, NDArray[np.float64]]:
    """Return the scores of an image's defect pixels and the shares that they have of their regions."""
    if scores.shape != regions.shape:
        raise MetricUndefined(f"pixel scores of shape {scores.shape} and truth of shape {regions.shape} do not match")
    if np.isnan(scores.min()):
        raise MetricUndefined("pixel scores hold NaN")
    labels = regions[regions > 0]
    return scores[regions > 0], region_shares(labels) if len(labels) else np.zeros(0)
