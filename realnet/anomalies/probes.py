"""Anomalies that no detector is trained on: scratches and spots, to choose between detectors without test data.

On the anomalies that it was trained on, a detector looks better than it is, compared to a detector that knows only
normal images. Such choices therefore use anomalies of another kind (docs/method.md, Fusion).
"""

import cv2
import numpy as np

from realnet.data.images import Image, Mask

CONTRAST = (10, 50)
"""Grey levels (of 255) by which a probe is darker or brighter than the image."""
MAX_DRAWS = 20
OVERSAMPLING = 2


def draw_probe(image: Image, foreground: Mask, rng: np.random.Generator) -> tuple[Image, Mask]:
    """Draw a bent scratch or a spot with soft edges on the foreground of an image.

    Args:
        image: clean uint8 RGB (H, W, 3); it is not modified.
        foreground: where it may lie, (H, W).
        rng: generator of all draws.

    Returns:
        The image with the probe, and its mask (H, W); all False if no draw fell on the foreground.
    """
    for _ in range(MAX_DRAWS if foreground.any() else 0):
        draw = _scratch if rng.random() < 0.6 else _spot
        cover = draw(image.shape[:2], rng) * foreground
        mask = cover > 0.4
        if mask.any():
            level = rng.uniform(*CONTRAST) * rng.choice([-1, 1])
            changed = image.astype(np.float32) + level * cover[..., None]
            return changed.clip(0, 255).astype(np.uint8), mask
    return image, np.zeros(image.shape[:2], np.bool_)


def _scratch(size: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return how much of each pixel a bent line covers, (H, W) in [0, 1]."""
    height, width = size
    unit = min(size) / 256
    point = rng.uniform(0.1, 0.9, 2) * (width, height)
    angle, points = rng.uniform(0, 2 * np.pi), [point]
    for _ in range(int(rng.integers(4, 20))):
        angle += rng.normal(0, 0.35)
        point = point + 6 * unit * np.array([np.cos(angle), np.sin(angle)])
        points.append(point)
    canvas = np.zeros((height * OVERSAMPLING, width * OVERSAMPLING), np.uint8)
    thickness = max(1, round(rng.uniform(1, 3) * unit * OVERSAMPLING))
    cv2.polylines(canvas, [(np.array(points) * OVERSAMPLING).astype(np.int32)], False, 255, thickness)
    return _softened(canvas, size, unit)


def _spot(size: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return how much of each pixel an ellipse covers, (H, W) in [0, 1]."""
    height, width = size
    unit = min(size) / 256
    right, down = (rng.uniform(0.1, 0.9, 2) * (width, height) * OVERSAMPLING).astype(int)
    axes = (rng.uniform(2, 7, 2) * unit * OVERSAMPLING).clip(min=1).astype(int)
    canvas = np.zeros((height * OVERSAMPLING, width * OVERSAMPLING), np.uint8)
    centre, radii = (int(right), int(down)), (int(axes[0]), int(axes[1]))
    cv2.ellipse(canvas, centre, radii, float(rng.uniform(0, 180)), 0, 360, 255, -1)
    return _softened(canvas, size, unit)


def _softened(canvas: np.ndarray, size: tuple[int, ...], unit: float) -> np.ndarray:
    cover = cv2.resize(canvas, (size[1], size[0]), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    return np.asarray(cv2.GaussianBlur(cover, (0, 0), max(0.6 * unit, 0.3)))
