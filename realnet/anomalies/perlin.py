"""Perlin noise: the shapes of local anomalies (Perlin 2002; docs/method.md, Perlin mask)."""

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from realnet.data.images import Mask

MAX_ROTATION = 90.0  # degrees

Column = NDArray[np.float32]
"""One number per pixel of an axis, (N, 1)."""


def draw_periods(rng: np.random.Generator, *, scale: int = 6, min_scale: int = 0) -> tuple[int, int]:
    """Draw the number of lattice cells along height and width (docs/method.md, Perlin mask).

    Each is 2^e with e uniform on {min_scale, …, scale - 1}.
    """
    height, width = (2 ** int(exponent) for exponent in rng.integers(min_scale, scale, size=2))
    return height, width


def perlin_mask(
    shape: tuple[int, int], rng: np.random.Generator, *, periods: tuple[int, int], threshold: float = 0.5
) -> Mask:
    """Draw a mask (H, W): True where rotated Perlin noise exceeds a threshold (docs/method.md, Perlin mask).

    The noise is rotated by U(-90°, 90°) about the centre; pixels that it no longer covers are False.
    """
    angles = rng.uniform(0, 2 * np.pi, size=(periods[0] + 1, periods[1] + 1))
    height, width = shape
    centre = ((width - 1) / 2, (height - 1) / 2)
    rotation = cv2.getRotationMatrix2D(centre, rng.uniform(-MAX_ROTATION, MAX_ROTATION), 1)
    return cv2.warpAffine(perlin_noise(shape, periods, angles), rotation, (width, height)) > threshold


def perlin_noise(shape: tuple[int, int], periods: tuple[int, int], angles: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return gradient noise (H, W), in about [-1, 1], for given gradients (docs/method.md, Perlin mask).

    A pixel's noise is √2 times the sum, over the four corners of its cell, of g · (offset from the corner), weighted by
    the fade 6t⁵ - 15t⁴ + 10t³. Each weight is a product of one factor per axis, so the lattice is spread to the pixels
    along x first and then along y.

    Args:
        shape: (H, W); it need not be a multiple of the periods.
        periods: number of lattice cells along height and width.
        angles: directions of the gradients g (periods[0] + 1, periods[1] + 1), in radians from the height axis.
    """
    along_y, along_x = (np.float32(np.sqrt(2)) * part.astype(np.float32).T for part in (np.cos(angles), np.sin(angles)))
    ys, xs = _axis(shape[0], periods[0]), _axis(shape[1], periods[1])
    fixed = np.ascontiguousarray(xs.sloped(along_x).T)
    slope = np.ascontiguousarray(xs.faded(along_y).T)
    return ys.faded(fixed) + ys.sloped(slope)


class _Axis:
    """Where the pixels of one axis lie in the lattice: their cells, fade weights and faded offsets."""

    def __init__(self, length: int, periods: int) -> None:
        position = np.arange(length) * (periods / length)
        self.cell = position.astype(np.int64)
        t = position - self.cell
        fade = t**3 * (t * (6 * t - 15) + 10)
        self.fade = _column(1 - fade), _column(fade)
        self.slope = _column((1 - fade) * t), _column(fade * (t - 1))

    def faded(self, lattice: NDArray[np.float32]) -> NDArray[np.float32]:
        """Spread values at the lattice lines (periods + 1, M) to the pixels (N, M)."""
        return self.fade[0] * lattice[self.cell] + self.fade[1] * lattice[self.cell + 1]

    def sloped(self, lattice: NDArray[np.float32]) -> NDArray[np.float32]:
        """Spread gradients at the lattice lines (periods + 1, M) to the pixels (N, M)."""
        return self.slope[0] * lattice[self.cell] + self.slope[1] * lattice[self.cell + 1]


@lru_cache(maxsize=64)
def _axis(length: int, periods: int) -> _Axis:
    return _Axis(length, periods)


def _column(values: NDArray[np.float64]) -> Column:
    return values.astype(np.float32)[:, None]
