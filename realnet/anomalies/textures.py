"""Augment textures: ten operations on uint8 RGB images (H, W, 3), three per image (docs/method.md, Anomaly sources)."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from realnet.data.images import Image

Operation = Callable[[Image, np.random.Generator], Image]

NUM_OPERATIONS = 3
_LEVELS = np.arange(256, dtype=np.float32)
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], dtype=np.float32) / 13


def augment_texture(image: Image, rng: np.random.Generator) -> Image:
    """Apply three of the ten operations, drawn without replacement (docs/method.md, Anomaly sources)."""
    for choice in rng.choice(len(OPERATIONS), size=NUM_OPERATIONS, replace=False):
        image = OPERATIONS[choice](image, rng)
    return image


def shuffle_grid(image: Image, rng: np.random.Generator, *, grid: tuple[int, int] = (4, 8)) -> Image:
    """Cut an image into rows × columns cells and shuffle them (docs/method.md, Anomaly sources).

    If a side is not a multiple of the number of cells, the image is resized to a multiple and back.
    """
    height, width = image.shape[:2]
    rows, columns = min(grid[0], height), min(grid[1], width)
    cell = -(-height // rows), -(-width // columns)
    even = cv2.resize(image, (cell[1] * columns, cell[0] * rows))
    cells = even.reshape(rows, cell[0], columns, cell[1], 3).swapaxes(1, 2).reshape(-1, *cell, 3)
    shuffled = cells[rng.permutation(len(cells))].reshape(rows, columns, *cell, 3).swapaxes(1, 2)
    return cv2.resize(np.ascontiguousarray(shuffled).reshape(even.shape), (width, height))


def is_grey(image: Image) -> bool:
    """Tell whether an image's three channels are equal."""
    return bool((image[..., :1] == image[..., 1:]).all())


def to_grey(image: Image) -> Image:
    """Replace each pixel by its luminance, in three equal channels."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def gamma(image: Image, rng: np.random.Generator) -> Image:
    """Raise each channel to its own power in [0.5, 2]."""
    powers = rng.uniform(0.5, 2, size=3)
    return _map_levels(image, 255 * (_LEVELS[:, None] / 255) ** powers)


def brightness(image: Image, rng: np.random.Generator) -> Image:
    """Multiply by a factor in [0.8, 1.2], then add a number in [-30, 30]."""
    return _map_levels(image, _LEVELS * rng.uniform(0.8, 1.2) + rng.uniform(-30, 30))


def sharpness(image: Image, rng: np.random.Generator) -> Image:
    """Smooth or sharpen by a factor in [0.1, 1.9], as PIL's enhancer does: 0 is smooth, 1 the original, 2 sharp."""
    factor = rng.uniform(0.1, 1.9)
    return cv2.addWeighted(image, factor, cv2.filter2D(image, -1, _SMOOTH), 1 - factor, 0)


def hue_saturation(image: Image, rng: np.random.Generator) -> Image:
    """Add a number in [-50, 50] (of 255) to the hue, which wraps around, and another to the saturation."""
    hue, saturation = rng.integers(-50, 51, size=2)
    planes = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL).astype(np.int16)
    planes[..., 0] = (planes[..., 0] + hue) % 256
    planes[..., 1] = (planes[..., 1] + saturation).clip(0, 255)
    return cv2.cvtColor(planes.astype(np.uint8), cv2.COLOR_HSV2RGB_FULL)


def solarise(image: Image, rng: np.random.Generator) -> Image:
    """With probability 1/2, invert all values at or above a threshold in [32, 128]."""
    applies, threshold = rng.random() < 0.5, rng.integers(32, 129)
    return _map_levels(image, np.where(threshold <= _LEVELS, 255 - _LEVELS, _LEVELS)) if applies else image


def posterise(image: Image, rng: np.random.Generator) -> Image:
    """Keep the upper 1 to 7 bits of each value."""
    return image & np.uint8(256 - 2 ** int(rng.integers(1, 8)))


def invert(image: Image, rng: np.random.Generator) -> Image:  # noqa: ARG001 - the operations share one signature
    """Turn the image into its negative."""
    return ~image


def autocontrast(image: Image, rng: np.random.Generator) -> Image:
    """Stretch each channel to [0, 255], ignoring the darkest and the brightest 0 to 20 % of its pixels."""
    cutoff = rng.uniform(0, 0.2)
    shares = np.cumsum(_histograms(image), axis=1) / image[..., 0].size
    darkest, brightest = (shares <= cutoff).sum(axis=1), (shares < 1 - cutoff).sum(axis=1)
    span = np.maximum(brightest - darkest, 1)
    table = (_LEVELS[:, None] - darkest) * (255 / span)
    return _map_levels(image, np.where(brightest > darkest, table, _LEVELS[:, None]))


def equalise(image: Image, rng: np.random.Generator) -> Image:  # noqa: ARG001 - the operations share one signature
    """Flatten each channel's histogram."""
    return cv2.merge([cv2.equalizeHist(plane) for plane in cv2.split(image)])


def rotate(image: Image, rng: np.random.Generator) -> Image:
    """Rotate by an angle in [-45°, 45°] about the centre; reflection fills the corners, so no black is pasted."""
    height, width = image.shape[:2]
    rotation = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), rng.uniform(-45, 45), 1)
    return cv2.warpAffine(image, rotation, (width, height), borderMode=cv2.BORDER_REFLECT_101)


OPERATIONS: tuple[Operation, ...] = (
    gamma,
    brightness,
    sharpness,
    hue_saturation,
    solarise,
    posterise,
    invert,
    autocontrast,
    equalise,
    rotate,
)


def _map_levels(image: Image, table: NDArray) -> Image:
    """Look up each value in a table of 256 levels: (256,) for all channels, or (256, 3) with a column per channel."""
    levels = table.clip(0, 255).round().astype(np.uint8)
    return cv2.LUT(image, levels.reshape(1, 256, *levels.shape[1:]))


def _histograms(image: Image) -> NDArray[np.int64]:
    return np.stack([np.bincount(plane.ravel(), minlength=256) for plane in cv2.split(image)])
