"""Heatmaps, overlays and masks as images; all are uint8 RGB (H, W, 3)."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from realnet.data.images import Image
from realnet.metrics.curves import FloatArray, MaskArray

HEAT_OPACITY = 0.65
"""Weight of the hottest colour over the image; colder pixels weigh less, so that a normal image stays itself."""
OUTLINE = (255, 255, 255)
OUTLINE_RIM = (20, 20, 20)
PAPER, INK, GAP = (255, 255, 255), (60, 60, 60), 4


def heatmap(anomaly_map: FloatArray, *, scale: float) -> Image:
    """Colour an anomaly map (H, W) from dark blue at 0 to red at `scale` and above, as uint8 RGB (H, W, 3).

    The scale is stored with the model and the same for every image, so colours compare between pictures.

    Raises:
        ValueError: the scale is not a positive number.
    """
    levels = np.rint(_heat(anomaly_map, scale) * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)


def overlay(image: Image, anomaly_map: FloatArray, *, scale: float, threshold: float | None = None) -> Image:
    """Lay the heatmap over an image (H, W, 3) and outline the region whose anomaly is at least the threshold.

    Args:
        image: uint8 RGB (H, W, 3).
        anomaly_map: (H, W) in [0, 1].
        scale: the anomaly shown as hottest.
        threshold: the pixel threshold; None draws no outline.

    Raises:
        ValueError: the map is of another size than the image, or the scale is not a positive number.
    """
    if image.shape[:2] != anomaly_map.shape:
        raise ValueError(f"image of {image.shape[:2]} and anomaly map of {anomaly_map.shape}; resize one to the other")
    weight = HEAT_OPACITY * np.sqrt(_heat(anomaly_map, scale))[..., None]
    mixed = (1 - weight) * image + weight * heatmap(anomaly_map, scale=scale)
    picture = np.rint(mixed).astype(np.uint8)
    return picture if threshold is None else _outlined(picture, anomaly_map >= threshold)


def draw_mask(mask: MaskArray) -> Image:
    """Draw a mask (H, W), any non-zero value white, as uint8 RGB (H, W, 3)."""
    return np.repeat((mask != 0)[..., None] * np.uint8(255), 3, axis=2)


def _heat(anomaly_map: FloatArray, scale: float) -> NDArray[np.float64]:
    if not scale > 0:
        raise ValueError(f"display scale is {scale}; give the anomaly, above 0, that is shown as hottest")
    known = np.nan_to_num(anomaly_map.astype(np.float64), nan=scale)  # NaN shall not look normal
    return np.clip(known / scale, 0, 1)


def _outlined(picture: Image, region: NDArray[np.bool_]) -> Image:
    """Draw a light line with a dark rim around the region, outside of it: it shows on any image and hides no defect."""
    line = max(1, round(min(region.shape) / 256))
    inside = region.astype(np.uint8)
    light, dark = (cv2.dilate(inside, np.ones((side, side), np.uint8)) for side in (2 * line + 1, 4 * line + 1))
    picture[dark > inside] = OUTLINE_RIM
    picture[light > inside] = OUTLINE
    return picture


@dataclass(frozen=True)
class Display:
    """What verdicts and pictures of a class are measured by.

    Attributes:
        threshold: image threshold (score >= threshold is a defect); None where there is none, hence no verdicts.
        pixel_threshold: threshold of the outlines; None draws none.
        scale: the anomaly shown as hottest.
    """

    threshold: float | None
    pixel_threshold: float | None
    scale: float
