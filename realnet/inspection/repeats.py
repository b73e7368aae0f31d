"""Find test images that repeat a photograph of a defect to train on: stored anew, resized, brightened, turned."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from realnet.config import MaskRule
from realnet.data.images import Image, Mask, read_image, read_mask
from realnet.data.index import Entry
from realnet.errors import UserError

NUM_THREADS = min(8, os.cpu_count() or 1)
NUM_NORMAL = 64
"""Most normal images that are looked at, evenly spread."""
NEAR, NEAR_AT_DEFECT = 0.7, 0.5
"""A repeat is nearer than these shares of the distances of images that are none."""
EQUAL = 1e-4
"""Images nearer than this are one image, but for rounding."""
SIDE, BOX_SIDE = 32, 16
"""Of what is compared: small, so that noise and the way a file is stored count little."""
Grey = NDArray[np.float32]
"""float32 (H, W) of mean 0 and deviation 1."""


class Marked(NamedTuple):
    """A photograph of a defect, and its mask."""

    image: Path
    mask: Path


def with_masks(root: Path, entries: Iterable[Entry]) -> list[Marked]:
    """Return the photographs of an index and their masks, leaving out those without one."""
    return [Marked(root / entry.filename, root / entry.maskname) for entry in entries if entry.maskname]


@dataclass(frozen=True)
class _Defect:
    marked: Marked
    whole: Grey
    box: Grey
    corners: tuple[float, float, float, float]


def find_repeats(
    real: Sequence[Marked], tested: Sequence[Path], normal: Sequence[Path], *, rule: MaskRule, bits: int = 16
) -> list[tuple[Path, Path]]:
    """Return the test images that repeat a photograph of a defect, each with that photograph.

    A repeat agrees with it as a whole, far better than a normal image with the next one, and where the defect is, far
    better than any normal image does there; in one of eight positions, turned and mirrored. Files that cannot be read
    are left out.

    Args:
        real: defects to train on.
        tested: the test images.
        normal: normal images, which tell how far different photographs are from each other.
        rule: which pixels of the masks are defects.
        bits: that 16-bit values use.
    """
    step = max(1, -(-len(normal) // NUM_NORMAL))
    search = _Search(normal[::step], bits)
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        defects = [one for found in threads.map(partial(_describe, rule=rule, bits=bits), real) for one in found]
        found = threads.map(partial(search.repeated, defects), tested) if defects else ()
        return [(path, marked.image) for path, marked in zip(tested, found, strict=False) if marked]


class _Search:
    def __init__(self, normal: Sequence[Path], bits: int) -> None:
        self.bits = bits
        self.normal = [grey for path in normal for grey in _read(path, bits)]

    @cached_property
    def unit(self) -> float:
        """Return the distance that normal images commonly have from the next other one; infinity if there is none."""
        looks = np.stack([_shrunk(grey).ravel() for grey in self.normal]) if self.normal else np.zeros((0, 1))
        looks = looks.astype(np.float64)
        squares = (looks**2).sum(axis=1)
        distances = (squares[:, None] + squares - 2 * looks @ looks.T).clip(min=0) ** 0.5 / SIDE
        distances[distances < EQUAL] = np.inf
        return float(np.median(distances.min(axis=1))) if len(looks) > 1 else float("inf")

    def repeated(self, defects: Sequence[_Defect], path: Path) -> Marked | None:
        """Return the defect whose photograph a test image repeats."""
        for view in (view for grey in _read(path, self.bits) for view in _views(grey)):
            whole = _shrunk(view)
            for defect in defects:
                if _distance(whole, defect.whole) < NEAR * self.unit and self._shows(view, defect):
                    return defect.marked
        return None

    def _shows(self, view: Grey, defect: _Defect) -> bool:
        ordinary = (_distance(_cut(grey, defect.corners), defect.box) for grey in self.normal)
        return _distance(_cut(view, defect.corners), defect.box) < NEAR_AT_DEFECT * min(ordinary, default=float("inf"))


def _describe(marked: Marked, *, rule: MaskRule, bits: int) -> list[_Defect]:
    """Return what is compared of a defect; nothing if it cannot be read or has an empty mask."""
    try:
        mask = read_mask(marked.mask, rule)
    except UserError:
        return []
    corners = _corners(mask) if mask.any() else None
    return [
        _Defect(marked, _shrunk(grey), _cut(grey, corners), corners) for grey in _read(marked.image, bits) if corners
    ]


def _corners(mask: Mask) -> tuple[float, float, float, float]:
    """Return the box about a mask with half its size around it: top, bottom, left, right as shares of the sides."""
    found: list[float] = []
    for axis, length in zip((1, 0), mask.shape, strict=True):
        at = np.flatnonzero(mask.any(axis=axis))
        margin = (at[-1] - at[0] + 1) / 2 + 2
        found += [max(0.0, (at[0] - margin) / length), min(1.0, (at[-1] + 1 + margin) / length)]
    top, bottom, left, right = found
    return top, bottom, left, right


def _read(path: Path, bits: int) -> list[Grey]:
    try:
        return [_grey(read_image(path, bits))]
    except UserError:
        return []


def _grey(image: Image) -> Grey:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.asarray((grey - grey.mean()) / max(float(grey.std()), 1e-3), np.float32)


def _views(grey: Grey) -> Iterator[Grey]:
    for turned in (np.rot90(grey, number) for number in range(4)):
        yield turned
        yield turned[:, ::-1]


def _shrunk(grey: NDArray[Any]) -> Grey:
    return np.asarray(cv2.resize(np.ascontiguousarray(grey), (SIDE, SIDE), interpolation=cv2.INTER_AREA))


def _cut(grey: Grey, corners: tuple[float, float, float, float]) -> Grey:
    """Return the box, to fractions of a pixel: its corners are those of a photograph that may have another size."""
    height, width = grey.shape
    top, bottom, left, right = corners
    cell = ((bottom - top) * height / BOX_SIDE, (right - left) * width / BOX_SIDE)  # a cell's sides, in pixels
    smooth = cv2.blur(grey, (max(1, round(cell[1])), max(1, round(cell[0]))))
    to_pixels = np.array(
        [[cell[1], 0, left * width + cell[1] / 2 - 0.5], [0, cell[0], top * height + cell[0] / 2 - 0.5]]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpAffine(smooth, to_pixels, (BOX_SIDE, BOX_SIDE), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    )


def _distance(one: Grey, other: Grey) -> float:
    return float(np.sqrt(np.mean((one - other) ** 2)))
