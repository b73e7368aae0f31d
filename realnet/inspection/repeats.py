"""Find test images that repeat a photograph of a defect to train on: stored anew, turned, taken again."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

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
NEAR, NEAR_AT_DEFECT = 0.7, 0.25
"""A repeat is nearer than these shares of the distances of normal images, as a whole and where the defect is, …"""
UNEVEN = 1.5
"""… or it is there at most so many times as far as on the whole, and nearer than any normal image."""
NEAREST_SHARE = 0.05
"""Of the normal images; so many may show the very part of the photograph."""
SIDE, BOX_SIDE = 48, 16
"""Of what is compared: small, so that noise and the way a file is stored count little."""
SHIFT = 3
"""Most cells by which two photographs of a part are displaced, to either side."""
COARSE, AREA = 0.05, 0.1
"""Deviations, in sides, of what details are finer than, and of the area in which they are made equally strong."""
UNLIKE = 1.0
"""The distance of images that have nothing in common."""
FLAT = 1e-6
"""Deviation below which nothing can be told apart."""
FAINT = 0.02
"""Strength of details, in deviations of the image, that are not made stronger."""
Grey = NDArray[np.float32]
"""float32 (H, W)."""


class Marked(NamedTuple):
    """A photograph of a defect, and its mask."""

    image: Path
    mask: Path


def with_masks(root: Path, entries: Iterable[Entry]) -> list[Marked]:
    """Return the photographs of an index and their masks, leaving out those without one."""
    return [Marked(root / entry.filename, root / entry.maskname) for entry in entries if entry.maskname]


@dataclass(frozen=True)
class _Defect:
    """What is compared of a photograph's defect.

    Attributes:
        whole: the photograph's details, but for a border of ``SHIFT``.
        elsewhere: 1 where they count, which is not at the defect: it may occur at one place of many parts.
        box: the defect and what is about it, within ``corners``.
        corners: top, bottom, left and right, as shares of the sides.
    """

    marked: Marked
    whole: Grey
    elsewhere: Grey
    box: Grey
    corners: tuple[float, float, float, float]

    def far(self, view: Grey) -> float:
        """Return how far an image is from the photograph where the defect is."""
        return _distance(_cut(view, self.corners, SHIFT), self.box)


def find_repeats(
    real: Sequence[Marked], tested: Sequence[Path], normal: Sequence[Path], *, rule: MaskRule, bits: int = 16
) -> list[tuple[Path, Path]]:
    """Return the test images that repeat a photograph of a defect, each with that photograph.

    The details of a repeat agree with it as a whole, far better than normal images of other parts do, and where the
    defect is, far better than any normal image does there; in one of eight positions, turned and mirrored. So a
    photograph of the same part in another light is a repeat, too. Files that cannot be read are left out.

    Args:
        real: defects to train on.
        tested: the test images.
        normal: normal images, which tell how far different photographs are from each other.
        rule: which pixels of the masks are defects.
        bits: that 16-bit values use.
    """
    step = max(1, -(-len(normal) // NUM_NORMAL))
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        looks = [look for found in threads.map(partial(_read, bits=bits), normal[::step]) for look in found]
        defects = [one for found in threads.map(partial(_describe, rule=rule, bits=bits), real) for one in found]
        found = threads.map(partial(_Search(defects, looks).repeated, bits=bits), tested) if defects else ()
        return [(path, marked.image) for path, marked in zip(tested, found, strict=False) if marked]


class _Search:
    """Tell which images repeat one of D defects' photographs, by the distances of normal images from these."""

    def __init__(self, defects: Sequence[_Defect], normal: Sequence[Grey]) -> None:
        self.defects = defects
        self.counts = np.stack([one.elsewhere.ravel() for one in defects])
        self.wholes = _unit(np.stack([one.whole.ravel() for one in defects]), self.counts)
        far = np.stack([self.far(_details(grey)) for grey in normal] or [np.full(len(defects), UNLIKE)])
        self.near = NEAR * np.quantile(far, NEAREST_SHARE, axis=0)
        self.normal_at_defect = [min((one.far(grey) for grey in normal), default=UNLIKE) for one in defects]

    def far(self, details: Grey) -> NDArray[np.float32]:
        """Return how far an image's details are from each photograph's (D,), displaced as they fit best."""
        side = SIDE - 2 * SHIFT
        windows = np.lib.stride_tricks.sliding_window_view(details, (side, side)).reshape(-1, side * side)
        total, squares = windows @ self.counts.T, windows**2 @ self.counts.T
        norms = np.sqrt((squares - total**2 / self.counts.sum(axis=1)).clip(min=FLAT))
        return np.asarray(UNLIKE - (windows @ self.wholes.T / norms).max(axis=0), np.float32)

    def repeated(self, path: Path, *, bits: int) -> Marked | None:
        """Return the photograph that a test image repeats."""
        for view in (view for grey in _read(path, bits) for view in _views(grey)):
            far = self.far(_details(view))
            for number in map(int, np.flatnonzero(far < self.near)):
                normal = self.normal_at_defect[number]
                if self.defects[number].far(view) < max(NEAR_AT_DEFECT * normal, min(normal, UNEVEN * far[number])):
                    return self.defects[number].marked
        return None


def _unit(rows: Grey, counts: Grey) -> Grey:
    """Return rows (D, P) of mean 0 and norm 1 over what counts, and 0 elsewhere; flat ones are 0."""
    centred = counts * (rows - ((counts * rows).sum(axis=1) / counts.sum(axis=1))[:, None])
    return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=1), FLAT)[:, None], np.float32)


def _describe(marked: Marked, *, rule: MaskRule, bits: int) -> list[_Defect]:
    """Return what is compared of a defect; nothing if it cannot be read or has an empty mask."""
    try:
        mask = read_mask(marked.mask, rule)
    except UserError:
        return []
    return [_defect(marked, grey, mask) for grey in _read(marked.image, bits) if mask.any()]


def _defect(marked: Marked, grey: Grey, mask: Mask) -> _Defect:
    cover = cv2.resize(mask.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    elsewhere = (cv2.dilate(cover, np.ones((2 * SHIFT + 1,) * 2)) == 0).astype(np.float32)
    inner = (slice(SHIFT, -SHIFT), slice(SHIFT, -SHIFT))
    if elsewhere[inner].mean() < 0.5:  # the defect is most of the photograph: then all counts
        elsewhere[:] = 1
    corners = _corners(mask)
    return _Defect(marked, _details(grey)[inner], elsewhere[inner], _cut(grey, corners), corners)


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
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)


def _views(grey: Grey) -> Iterator[Grey]:
    for turned in (np.rot90(grey, number) for number in range(4)):
        yield turned
        yield turned[:, ::-1]


def _details(grey: Grey) -> Grey:
    """Return an image without its light: what is fine (SIDE, SIDE), equally strong everywhere."""
    small = cv2.resize(np.ascontiguousarray(grey), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    fine = small - cv2.GaussianBlur(small, (0, 0), COARSE * SIDE)
    strength = np.sqrt(cv2.GaussianBlur(fine**2, (0, 0), AREA * SIDE)) + FAINT * max(float(small.std()), 1e-3)
    return np.asarray(fine / strength, np.float32)


def _cut(grey: Grey, corners: tuple[float, float, float, float], margin: int = 0) -> Grey:
    """Return the box, with ``margin`` cells around it; its corners may belong to a photograph of another size."""
    height, width = grey.shape
    top, bottom, left, right = corners
    cell = ((bottom - top) * height / BOX_SIDE, (right - left) * width / BOX_SIDE)  # a cell's sides, in pixels
    smooth = cv2.blur(np.ascontiguousarray(grey), (max(1, round(cell[1])), max(1, round(cell[0]))))
    first = 0.5 - margin
    to_pixels = np.array(
        [[cell[1], 0, left * width + cell[1] * first - 0.5], [0, cell[0], top * height + cell[0] * first - 0.5]]
    )
    side = BOX_SIDE + 2 * margin
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(smooth, to_pixels, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE))


def _distance(image: Grey, part: Grey) -> float:
    """Return how far a part is from where it fits an image best, 1 - correlation: 0 (equal) to 2."""
    if part.std() < FLAT:
        return UNLIKE
    fits = cv2.matchTemplate(image, part, cv2.TM_CCOEFF_NORMED)
    return UNLIKE - float(np.where(np.isfinite(fits), fits, 0).max())  # undefined where an image is flat
