"""Paste photographed defects: cut out, turned, scaled, and moved onto normal images (docs/method.md, Real defects)."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from realnet.config import MaskRule, RealDefectConfig, paths
from realnet.data.images import NON_ZERO, Image, Mask, read_image, read_mask, resize_image
from realnet.data.registry import OpenDataset
from realnet.errors import UserError
from realnet.inspection.repeats import Marked, with_masks

FEATHER = 3
"""Pixels outside the mask over which a paste fades into the image."""
SURROUNDINGS = 6
"""Width (px) of the ring about a defect whose mean colour is taken to be that of the product there."""
JOIN_SHARE = 0.025
"""Parts of a mask nearer than this share of the shorter side are one defect."""
COVERED = 64
"""Of 255, how much of a pixel a moved mask must cover to take it: what is thin stays."""
MAX_PLACES = 20
"""Most places to draw for a defect."""
ENOUGH_INSIDE = 0.9
"""Share of a defect that must lie on the foreground, if one of ``MAX_PLACES`` places allows it."""


@dataclass(frozen=True)
class Cut:
    """A defect, cut out of its photograph with ``SURROUNDINGS`` about it.

    Attributes:
        image: uint8 RGB (h, w, 3).
        mask: (h, w), True on the defect.
        source: the files that it comes from.
    """

    image: Image
    mask: Mask
    source: Marked


@dataclass(frozen=True)
class Paste:
    """A defect on an image.

    Attributes:
        image: uint8 RGB (H, W, 3).
        mask: (H, W), the defect's pixels that changed.
        source: the files that the defect comes from.
        opacity: its weight.
    """

    image: Image
    mask: Mask
    source: Marked
    opacity: float


class RealDefects:
    """The defects in a class's photographs, read when the first is drawn.

    Args:
        files: photographs and masks.
        size: (height, width) to which photographs are resized, as those that the detector sees.
        rule: which pixels of the masks are defects.
        bits: that 16-bit values use.
    """

    def __init__(
        self, files: Sequence[Marked], size: tuple[int, int], *, rule: MaskRule = NON_ZERO, bits: int = 16
    ) -> None:
        self.files, self.size, self.rule, self.bits = list(files), size, rule, bits

    @cached_property
    def cuts(self) -> list[list[Cut]]:
        """Return the defects of each photograph.

        Raises:
            UserError: if a file cannot be read, the two differ in size, or a mask is empty; names it.
        """
        return [self._cut_out(one) for one in self.files]

    def draw(self, rng: np.random.Generator) -> Cut:
        """Draw a photograph, and one of its defects."""
        of_one = self.cuts[int(rng.integers(len(self.cuts)))]
        return of_one[int(rng.integers(len(of_one)))]

    def _cut_out(self, one: Marked) -> list[Cut]:
        image, mask = read_image(one.image, self.bits), read_mask(one.mask, self.rule)
        if mask.shape != image.shape[:2]:
            raise UserError(f"the mask {one.mask} and its image {one.image} differ in size; give both the same")
        if not mask.any():
            raise UserError(f"the mask {one.mask} of a defect to train on is empty; draw the defect")
        image, cover = resize_image(image, self.size), _resized(mask, self.size)
        reach = 2 * round(JOIN_SHARE * min(self.size)) + 1
        joined = cv2.dilate((cover > 0).astype(np.uint8), np.ones((reach, reach), np.uint8))
        number, labels = cv2.connectedComponents(joined, connectivity=8)
        return [_around(image, (cover > 0) & (labels == label), one) for label in range(1, number)]


def find_real(dataset: OpenDataset, class_name: str) -> list[Marked]:
    """Return a class's photographs of defects to train on, with their masks.

    Raises:
        UserError: if there are none, or some have no mask.
    """
    entries, root = dataset.index(class_name, write=False).real, dataset.image_root
    if not entries:
        raise UserError(
            f"anomaly type real needs photographs of defects to train on, and class {class_name!r} of {dataset.name} "
            'has none; name them in a layout file, a line such as "NG/known/*": train scratch, and give it to '
            f"prepare_data.py add as --layout, or write it to {paths.experiment(dataset.name) / paths.LAYOUT} and run: "
            f"python prepare_data.py index --dataset {shlex.quote(dataset.name)}"
        )
    bare = [entry.filename for entry in entries if entry.maskname is None]
    if bare:
        raise UserError(
            f"anomaly type real needs the masks of defects to train on, and {', '.join(bare[:3])} of {class_name!r} "
            f"({len(bare)} in all) has none; draw them, then run: python prepare_data.py index "
            f"--dataset {shlex.quote(dataset.name)}"
        )
    return with_masks(root, entries)


def paste(
    image: Image, foreground: Mask, defects: RealDefects, config: RealDefectConfig, rng: np.random.Generator
) -> Paste | None:
    """Draw a defect, its size, direction, place and opacity, and paste it (docs/method.md, Real defects).

    Args:
        image: clean uint8 RGB (H, W, 3); it is not modified.
        foreground: where it may lie, (H, W).
        defects: what to draw from.
        config: sizes, directions and opacities.
        rng: generator of all draws.

    Returns:
        None if the defect found no place on the foreground.
    """
    cut = defects.draw(rng)
    scale, turn = rng.uniform(config.scale.low, config.scale.high), rng.uniform(-config.turn, config.turn)
    opacity = float(rng.uniform(config.opacity.low, config.opacity.high))
    places = np.flatnonzero(foreground)
    best, share = None, 0.0
    for _ in range(MAX_PLACES if len(places) else 0):
        row, column = divmod(int(places[rng.integers(len(places))]), image.shape[1])
        move = _move(cut, scale, turn, (row, column))
        mask = _moved(cut.mask, move, image.shape[:2])
        inside = float((mask & foreground).sum()) / max(1.0, scale**2 * float(cut.mask.sum()))
        if inside > share:
            best, share = (move, mask & foreground), inside
        if share >= ENOUGH_INSIDE:
            break
    if best is None:
        return None
    pasted, mask = _blend(image, cut, *best, opacity)
    return Paste(pasted, mask, cut.source, opacity)


def _blend(image: Image, cut: Cut, move: NDArray[np.float64], mask: Mask, opacity: float) -> tuple[Image, Mask]:
    """Return the image with a defect in its tone, which fades out around the mask, and the mask's changed pixels."""
    size = image.shape[:2]
    moved = cv2.warpAffine(cut.image, move, size[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    there = _moved(np.ones_like(cut.mask), move, size)
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    ring = (distance > 0) & (distance <= SURROUNDINGS) & there & ~_moved(cut.mask, move, size)
    tone = np.zeros(3) if not ring.any() else image[ring].mean(axis=0) - moved[ring].mean(axis=0)
    weight = (opacity * np.clip(1 - distance / (FEATHER + 1), 0, 1) * there)[..., None]
    mixed = image + weight * (moved + tone - image)
    pasted = np.round(mixed).clip(0, 255).astype(np.uint8)
    return pasted, mask & (pasted != image).any(axis=2)


def _move(cut: Cut, scale: float, turn: float, place: tuple[int, int]) -> NDArray[np.float64]:
    """Return the affine map (2, 3) that turns and scales a cut about its centre, and moves that to a place."""
    height, width = cut.mask.shape
    centre = (width // 2, height // 2)
    move = cv2.getRotationMatrix2D(centre, turn, scale)
    move[:, 2] += (place[1] - centre[0], place[0] - centre[1])
    return np.asarray(move)


def _moved(mask: Mask, move: NDArray[np.float64], size: tuple[int, ...]) -> Mask:
    """Return which pixels a moved mask takes, (H, W)."""
    cover = cv2.warpAffine(mask.astype(np.uint8) * 255, move, (size[1], size[0]), flags=cv2.INTER_LINEAR)
    return np.asarray(cover >= COVERED)


def _resized(mask: Mask, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return how much of each pixel a mask covers at another size: what is thin stays."""
    return np.asarray(cv2.resize(mask.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_AREA))


def _around(image: Image, mask: Mask, source: Marked) -> Cut:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    top, left = max(0, rows[0] - SURROUNDINGS), max(0, columns[0] - SURROUNDINGS)
    box = (slice(top, rows[-1] + 1 + SURROUNDINGS), slice(left, columns[-1] + 1 + SURROUNDINGS))
    return Cut(np.ascontiguousarray(image[box]), np.ascontiguousarray(mask[box]), source)
