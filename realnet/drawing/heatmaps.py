"""Draw heatmaps, overlays and masks as uint8 RGB (H, W, 3) (docs/method.md, Heatmaps)."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from realnet.data.images import Image
from realnet.metrics.curves import FloatArray, MaskArray

HEAT_OPACITY = 0.65
"""Weight of the hottest colour over the image; colder pixels weigh less, so that a normal image stays visible."""
OUTLINE = (255, 255, 255)
OUTLINE_RIM = (20, 20, 20)
PAPER, INK, GAP = (255, 255, 255), (60, 60, 60), 4


def heatmap(anomaly_map: FloatArray, *, scale: float) -> Image:
    """Colour an anomaly map (H, W) from dark blue at 0 to red at ``scale`` and above (docs/method.md, Heatmaps).

    The scale is stored with the detector and is the same for every image, so colours can be compared across images.

    Returns:
        uint8 RGB (H, W, 3).

    Raises:
        ValueError: if the scale is not a positive number.
    """
    return _coloured(_heat(anomaly_map, scale))


def overlay(image: Image, anomaly_map: FloatArray, *, scale: float, threshold: float | None = None) -> Image:
    """Lay the heatmap over an image and outline the pixels at or above a threshold (docs/method.md, Heatmaps).

    Args:
        image: uint8 RGB (H, W, 3).
        anomaly_map: (H, W) in [0, 1].
        scale: the anomaly value shown as hottest.
        threshold: the pixel threshold; None draws no outline.

    Raises:
        ValueError: if image and map differ in size, or the scale is not a positive number.
    """
    if image.shape[:2] != anomaly_map.shape:
        raise ValueError(f"image is {image.shape[:2]}, anomaly map is {anomaly_map.shape}; resize one to the other")
    heat = _heat(anomaly_map, scale)
    weight = HEAT_OPACITY * np.sqrt(heat)
    picture = np.asarray(cv2.blendLinear(image, _coloured(heat), 1 - weight, weight), np.uint8)
    return picture if threshold is None else _outlined(picture, anomaly_map >= threshold)


def draw_mask(mask: MaskArray) -> Image:
    """Draw a mask (H, W) as uint8 RGB (H, W, 3), with any non-zero value white."""
    return np.repeat((mask != 0)[..., None] * np.uint8(255), 3, axis=2)


def _heat(anomaly_map: FloatArray, scale: float) -> NDArray[np.float32]:
    if not scale > 0:
        raise ValueError(f"display scale is {scale}; give a positive number, the anomaly value shown as hottest")
    known = np.nan_to_num(anomaly_map / scale, nan=1)  # NaN must not look normal
    return np.clip(known, 0, 1).astype(np.float32)


def _coloured(heat: NDArray[np.float32]) -> Image:
    levels = np.rint(heat * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)


def _outlined(picture: Image, region: NDArray[np.bool_]) -> Image:
    """Draw a light line with a dark rim just outside the region, so that it shows on any image and hides no defect."""
    line = max(1, round(min(region.shape) / 256))
    inside = region.astype(np.uint8)
    light, dark = (cv2.dilate(inside, np.ones((side, side), np.uint8)) for side in (2 * line + 1, 4 * line + 1))
    picture[dark > inside] = OUTLINE_RIM
    picture[light > inside] = OUTLINE
    return picture


@dataclass(frozen=True)
class Display:
    """The thresholds and the colour scale of a class's verdicts and heatmaps.

    Attributes:
        threshold: image threshold (score >= threshold is a defect); None gives no verdicts.
        pixel_threshold: threshold of the outlines; None draws none.
        scale: the anomaly value shown as hottest.
    """

    threshold: float | None
    pixel_threshold: float | None
    scale: float
