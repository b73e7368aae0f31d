"""Find the defects in an anomaly map: connected pixels at or above a threshold."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from realnet.metrics.curves import FloatArray


@dataclass(frozen=True)
class Region:
    """Connected pixels (also diagonally) of a photograph that are anomalous; lengths in the photograph's pixels.

    Attributes:
        left, top, width, height: the bounding box.
        area: number of pixels.
        peak: the largest value of the anomaly map inside.
        mean: the mean value inside.
        polygon: the outer outline, (x, y) of its corners.
    """

    left: int
    top: int
    width: int
    height: int
    area: int
    peak: float
    mean: float
    polygon: tuple[tuple[int, int], ...]


def find_regions(anomaly_map: FloatArray, threshold: float) -> list[Region]:
    """Return the regions of an anomaly map (H, W) at or above a threshold, the highest peak first."""
    anomalous = (anomaly_map >= threshold).astype(np.uint8)
    number, labels, boxes, _ = cv2.connectedComponentsWithStats(anomalous, connectivity=8)
    found = [_region(anomaly_map, np.asarray(labels), label, np.asarray(boxes)[label]) for label in range(1, number)]
    return sorted(found, key=lambda region: -region.peak)


def _region(anomaly_map: FloatArray, labels: NDArray[Any], label: int, box: NDArray[Any]) -> Region:
    left, top, width, height, area = map(int, box)
    part = np.s_[top : top + height, left : left + width]
    inside = labels[part] == label
    values = anomaly_map[part][inside]
    outlines, _ = cv2.findContours(
        inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(left, top)
    )
    corners = tuple((int(x), int(y)) for x, y in outlines[0][:, 0])
    return Region(left, top, width, height, area, float(values.max()), float(values.mean(dtype=np.float64)), corners)
