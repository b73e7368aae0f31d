"""The regions of a mask: numbered at the mask's own size, and made smaller without breaking or vanishing."""

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from realnet.data.images import Mask, resize_mask

Regions = NDArray[np.int32]
"""int32 (H, W): 0 where there is no defect, else the number of its 8-connected region, from 1."""


class RegionCounts(NamedTuple):
    """What became of a mask's regions at another size.

    Attributes:
        own: number of regions at the mask's own size.
        kept: number of them that have a pixel at the other size.
        seen: number of regions that are seen at the other size; more than ``kept`` where regions fell to pieces.
    """

    own: int
    kept: int
    seen: int


def label_regions(mask: Mask) -> Regions:
    """Number the 8-connected regions of a mask (H, W)."""
    if not mask.any():
        return np.zeros(mask.shape, np.int32)
    return np.asarray(cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[1], np.int32)


def resize_nearest(regions: Regions, size: tuple[int, int]) -> tuple[Regions, RegionCounts]:
    """Resize a mask to (height, width) by the nearest pixel and number what is seen there, as published."""
    mask = resize_mask(regions > 0, size)
    seen = label_regions(mask)
    kept = np.unique(_nearest(regions, size)[mask])
    return seen, RegionCounts(int(regions.max(initial=0)), len(kept), int(seen.max(initial=0)))


def resize_regions(regions: Regions, size: tuple[int, int]) -> tuple[Regions, RegionCounts]:
    """Resize numbered regions to (height, width), so that each stays one.

    A region takes each pixel that holds the centre of one of its own; of several regions, the one with the most takes
    it. A region that would have none takes one from a neighbour that has others; two that share their only pixel
    cannot both stay.
    """
    height, width = size
    larger = _nearest(regions, (max(height, regions.shape[0]), max(width, regions.shape[1])))
    rows, columns = np.nonzero(larger)
    labels = larger[rows, columns].astype(np.int64)
    number = int(regions.max(initial=0))
    places = _centres(rows, larger.shape[0], height) * width + _centres(columns, larger.shape[1], width)
    keys, shares = np.unique(places * (number + 1) + labels, return_counts=True)
    order = np.argsort(shares, kind="stable")
    places, labels = np.divmod(keys[order], number + 1)
    flat = np.zeros(height * width, np.int32)
    flat[places] = labels  # of equal places the last counts: the largest share
    sizes = np.bincount(flat, minlength=number + 1)
    for label in np.flatnonzero(sizes[1:] == 0) + 1:
        for place in places[labels == label][::-1]:
            if sizes[flat[place]] > 1:
                sizes[flat[place]] -= 1
                sizes[label] += 1
                flat[place] = label
                break
    kept = int(np.count_nonzero(sizes[1:]))
    return flat.reshape(size), RegionCounts(number, kept, kept)


def _nearest(regions: Regions, size: tuple[int, int]) -> Regions:
    """Resize by the nearest pixel, the same that ``resize_mask`` takes."""
    if regions.shape == size:
        return regions
    return np.asarray(PILImage.fromarray(regions).resize(size[::-1], PILImage.Resampling.NEAREST))


def _centres(indexes: NDArray[Any], old: int, new: int) -> NDArray[np.int64]:
    return (2 * indexes.astype(np.int64) + 1) * new // (2 * old)
