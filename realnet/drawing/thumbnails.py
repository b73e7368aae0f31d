"""Make small versions of images for pages."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from realnet.data.images import Image

THUMBNAIL_SIDE = 256
"""Longest side of a thumbnail, in pixels."""


def thumbnail(image: Image) -> Image:
    """Shrink an image, uint8 RGB (H, W, 3), in proportion, until no side exceeds ``THUMBNAIL_SIDE``."""
    height, width = image.shape[:2]
    factor = min(1.0, THUMBNAIL_SIDE / max(height, width))
    return fit(image, (max(1, round(height * factor)), max(1, round(width * factor)))).astype(np.uint8)


def fit(values: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Resize an image or a map to (height, width), by area to shrink it and linearly to enlarge it."""
    method = cv2.INTER_AREA if values.shape[1] > size[1] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(values, size[::-1], interpolation=method))
