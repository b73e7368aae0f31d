"""Panels: an image, its mask and its anomaly map side by side; their sizes, titles and file names."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import PurePosixPath

import cv2
import numpy as np

from realnet.data.formats import IMAGE_SUFFIXES
from realnet.data.images import Image, resize_image, resize_mask
from realnet.drawing.grids import label_grid
from realnet.drawing.heatmaps import Display, draw_mask, overlay
from realnet.metrics.curves import FloatArray, MaskArray

SMALLEST_SIDE = 256
"""Longer side (px) that smaller heatmaps are enlarged to, so that captions fit and details show."""


LONGEST_NAME = 255
"""Longest file name, in bytes, that file systems accept."""


def panel(
    image: Image,
    anomaly_map: FloatArray,
    *,
    scale: float,
    threshold: float | None = None,
    mask: MaskArray | None = None,
    title: str = "",
) -> Image:
    """Set image, mask (if there is one) and overlay side by side, with captions (docs/method.md, Heatmaps).

    Args:
        image: uint8 RGB (H, W, 3).
        anomaly_map: (H, W) in [0, 1].
        scale: the anomaly value shown as hottest.
        threshold: the pixel threshold of the outline; None draws no outline.
        mask: truth (H, W); None leaves it out.
        title: a line above the captions, such as "0.93 >= 0.50: defect".
    """
    tiles = {"image": image}
    if mask is not None:
        tiles["mask"] = draw_mask(mask)
    tiles["anomaly map"] = overlay(image, anomaly_map, scale=scale, threshold=threshold)
    return label_grid([list(tiles.values())], column_labels=list(tiles), title=title)


def heatmap_panel(
    image: Image,
    anomaly_map: FloatArray,
    *,
    display: Display,
    size: tuple[int, int],
    mask: np.ndarray | None = None,
    title: str = "",
) -> Image:
    """Draw a ``panel`` with all parts resized to ``size`` (height, width)."""
    return panel(
        resize_image(image, size),
        np.asarray(cv2.resize(anomaly_map, size[::-1], interpolation=cv2.INTER_LINEAR), np.float32),
        scale=display.scale,
        threshold=display.pixel_threshold,
        mask=None if mask is None else resize_mask(mask, size),
        title=title,
    )


def display_size(size: Sequence[int], *, smallest: int = 0, largest: int = 2**31) -> tuple[int, int]:
    """Scale (height, width) in proportion, so that the longer side is from ``smallest`` to ``largest``."""
    longer = max(size)
    factor = min(max(longer, smallest), largest) / longer
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def heatmap_name(filename: str, class_name: str = "") -> PurePosixPath:
    """Return the path of an image's heatmap: the image's path without the class's folder, as PNG.

    No two images share a heatmap, so any suffix but ``.png`` stays in the name: ``003.jpg`` becomes ``003.jpg.png``,
    apart from ``003.png``; and ``003.jpg.png`` becomes ``003.jpg.png.png``. A name that is too long is cut, and a
    digest keeps it unique.
    """
    path = PurePosixPath(filename)
    inside = path.relative_to(class_name) if class_name in map(str, path.parents) else path
    is_plain = inside.suffix.lower() == ".png" and PurePosixPath(inside.stem).suffix.lower() not in IMAGE_SUFFIXES
    name = inside.name if is_plain else f"{inside.name}.png"
    whole = os.fsencode(name)
    if len(whole) > LONGEST_NAME:
        name = f"{whole[:200].decode(errors='ignore')}-{hashlib.sha256(whole).hexdigest()[:16]}.png"
    return inside.with_name(name)


def panel_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) of each part of a panel, for a detector's input size."""
    return display_size(image_size, smallest=SMALLEST_SIDE)


def verdict_title(score: float, threshold: float | None) -> str:
    """Return a short text with a score and its verdict."""
    if threshold is None:
        return f"score {score:.4f}"
    return f"{score:.4f} >= {threshold:.4f}: defect" if score >= threshold else f"{score:.4f} < {threshold:.4f}: normal"
