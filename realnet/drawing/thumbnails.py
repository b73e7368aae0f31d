"""Make small versions of images for pages."""

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from realnet.data.images import Image

THUMBNAIL_SIDE = 256
"""Longest side of a thumbnail, in pixels."""


def thumbnail(image: Image, side: int = THUMBNAIL_SIDE) -> Image:
    """Shrink an image, uint8 RGB (H, W, 3), in proportion, until it is no longer than ``side`` on any side."""
    height, width = image.shape[:2]
    factor = min(1.0, side / max(height, width))
    return fit(image, (max(1, round(height * factor)), max(1, round(width * factor)))).astype(np.uint8)


def fit(values: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Resize an image or a map to (height, width), by area to shrink it and linearly to enlarge it."""
    method = cv2.INTER_AREA if values.shape[1] > size[1] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(values, size[::-1], interpolation=method))


def fit_peaks(anomaly_map: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize a map (H, W) to (height, width); where that shrinks it, peaks stay, however small."""
    factor = math.ceil(max(whole / part for whole, part in zip(anomaly_map.shape, size, strict=True)))
    widened = cv2.dilate(anomaly_map, np.ones((factor, factor), np.uint8)) if factor > 1 else anomaly_map
    method = cv2.INTER_NEAREST if factor > 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(widened, size[::-1], interpolation=method), np.float32)
