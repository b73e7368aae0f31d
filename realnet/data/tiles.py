"""Cut photographs into overlapping tiles, and blend what is computed for tiles into one map (docs/method.md, Tiles)."""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from realnet.config import RealNetConfig
from realnet.data.images import Image, Pixels, resize_image

Corner = tuple[int, int]
"""The (row, column) of a tile's upper left pixel in its photograph."""
ON_GRID = 0.5
"""The share of drawn tiles that lie where tiles lie in use; the others lie anywhere."""


@dataclass(frozen=True)
class Tiling:
    """A grid of tiles that covers a photograph (docs/method.md, Tiles).

    The first tile of a row lies at one edge of the photograph and the last one at the other; those between are evenly
    spread. A photograph that is smaller than a tile is continued beyond its lower and right edge by its mirror image.

    Attributes:
        image_size: (height, width) of the photograph.
        size: (height, width) of a tile.
        overlap: the least share of a tile's side that its neighbours cover too, in [0, 1).
    """

    image_size: tuple[int, int]
    size: tuple[int, int]
    overlap: float

    @property
    def padded(self) -> tuple[int, int]:
        """Return the (height, width) that the tiles cover: the photograph's, or a tile's where that is larger."""
        return max(self.image_size[0], self.size[0]), max(self.image_size[1], self.size[1])

    @cached_property
    def corners(self) -> list[Corner]:
        """Return where the grid's tiles lie, row by row."""
        return list(product(self.starts(0), self.starts(1)))

    def __len__(self) -> int:
        return len(self.corners)

    def starts(self, axis: int) -> list[int]:
        """Return the first pixels of the grid's tiles along an axis: 0 for their rows, 1 for their columns."""
        return self._starts[axis]

    @property
    def inner(self) -> tuple[slice, slice]:
        """Return the rows and columns of a tile without half of the overlap at each side."""
        margins = (int(side * self.overlap / 2) for side in self.size)
        rows, columns = (slice(margin, side - margin) for margin, side in zip(margins, self.size, strict=True))
        return rows, columns

    def draw(self, rng: np.random.Generator) -> Corner:
        """Draw where a tile lies: on the grid with a chance of ``ON_GRID``, or else anywhere."""
        if rng.random() < ON_GRID:
            return self.corners[int(rng.integers(len(self)))]
        row, column = (int(rng.integers(self.padded[axis] - self.size[axis] + 1)) for axis in (0, 1))
        return row, column

    def cut(self, pixels: Pixels, corner: Corner) -> Pixels:
        """Return a tile of pixels (H, W) or (H, W, C)."""
        (row, column), (height, width) = corner, self.size
        tile = pixels[row : row + height, column : column + width]
        below, right = height - tile.shape[0], width - tile.shape[1]
        if not (below or right):
            return np.ascontiguousarray(tile)
        return np.pad(tile, [(0, below), (0, right), *[(0, 0)] * (pixels.ndim - 2)], mode="reflect")

    def shrink(self, photograph: Image) -> Image:
        """Return a photograph at a tile's size, uint8 RGB (h, w, 3)."""
        return resize_image(photograph, self.size)

    def paste(self, tile: Pixels, corner: Corner, pixels: Pixels) -> None:
        """Write a tile into the pixels of a photograph; what lies beyond the photograph is dropped."""
        (row, column), (height, width) = corner, self.size
        place = pixels[row : row + height, column : column + width]
        place[...] = tile[: place.shape[0], : place.shape[1]]

    def shares(self, corner: Corner) -> NDArray[np.float32]:
        """Return the weights (h, w) that a tile of the grid has in the photograph; those of all tiles add up to 1."""
        rows, columns = (self._shares[axis][self.starts(axis).index(corner[axis])] for axis in (0, 1))
        return rows[:, None] * columns[None, :]

    @cached_property
    def _starts(self) -> tuple[list[int], list[int]]:
        return self._starts_along(0), self._starts_along(1)

    def _starts_along(self, axis: int) -> list[int]:
        size = self.size[axis]
        free, step = self.padded[axis] - size, max(1, math.floor(size * (1 - self.overlap)))
        number = 1 + math.ceil(free / step)
        return [round(index * free / max(number - 1, 1)) for index in range(number)]

    @cached_property
    def _shares(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self._shares_along(0), self._shares_along(1)

    def _shares_along(self, axis: int) -> NDArray[np.float32]:
        """Return the weights of the tiles' pixels along an axis, (number of tiles, size): sin² ramps over overlaps."""
        size, starts = self.size[axis], np.array(self.starts(axis))
        ramp = max(1, size - int(np.diff(starts).min(initial=size)))
        places = np.arange(size) + 0.5
        bell = np.sin(np.pi / 2 * np.minimum(1, np.minimum(places, size - places) / ramp)) ** 2
        covered = starts[:, None] + np.arange(size)
        total = np.bincount(covered.ravel(), np.tile(bell, len(starts)))
        return (bell / total[covered]).astype(np.float32)


def tiling_of(config: RealNetConfig) -> Tiling | None:
    """Return the tiles in which a detector sees photographs; None if it sees them whole."""
    return Tiling(config.image_size, config.tiles.size, config.tiles.overlap) if config.tiles else None


class Mosaic:
    """A map of a photograph that is blended from those of its tiles, which need not be there at once.

    Each pixel is the mean over its tiles, weighted by :meth:`Tiling.shares` (docs/method.md, Tiles).
    """

    def __init__(self, tiling: Tiling) -> None:
        self.tiling = tiling
        self._sums = np.zeros(tiling.padded, np.float32)

    def add(self, corner: Corner, values: NDArray[np.floating]) -> None:
        """Add the map (h, w) of the tile at ``corner``, each tile of the grid once."""
        (row, column), (height, width) = corner, self.tiling.size
        self._sums[row : row + height, column : column + width] += self.tiling.shares(corner) * values

    def whole(self) -> NDArray[np.float32]:
        """Return the map (H, W) of the photograph."""
        return self._sums[: self.tiling.image_size[0], : self.tiling.image_size[1]]
