"""Find out from a dataset's masks how they mark a defect: any value, a threshold, transparency, another background."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from realnet.config import MaskRule
from realnet.data.images import Pixels, is_lossy, read_pixels
from realnet.errors import UserError

NUM_READ = 60
"""Most masks that count, evenly spread."""
MOST = 2 / 3
"""Share of the masks that must agree on a rule other than the usual one."""
NEAR = 24
"""JPEG and scanners turn black and white into values this near."""
EMPTY, FULL = 0.001, 0.999
FLAT_SHARE = 0.05
"""Of levels in between, the share in the midst of equals that noise hardly reaches."""


@dataclass(frozen=True)
class _Seen:
    """What a mask's file holds: uint8 (H, W, 3) and (H, W) or None, and whether it was stored with losses."""

    colours: Pixels
    alpha: Pixels | None
    is_lossy: bool


def find_mask_rule(files: Sequence[Path]) -> MaskRule:
    """Return the rule that fits a dataset's masks; the usual one (any value but black) if there are none.

    Files of one colour say nothing, and files that cannot be read are left out.
    """
    step = max(1, -(-len(files) // NUM_READ))
    order = dict.fromkeys([*files[::step], *files])
    seen = list(islice((one for path in order for one in _look(path)), NUM_READ))
    if not seen:
        return MaskRule()
    if _is_in_alpha(seen):
        return MaskRule(channel="alpha", above=127)
    background = _background(seen)
    return MaskRule(background=background, above=_threshold(seen, background))


def _is_in_alpha(seen: Sequence[_Seen]) -> bool:
    """Tell whether transparency varies where colours show all or nothing."""
    varying = [one for one in seen if one.alpha is not None and np.ptp(one.alpha) > 0]
    silent = [one for one in varying if not EMPTY < (one.colours.max(axis=2) > 0).mean() < FULL]
    return len(varying) >= MOST * len(seen) and len(silent) >= MOST * len(varying)


def _background(seen: Sequence[_Seen]) -> tuple[int, int, int]:
    """Return the colour that most masks have at their edge, if they would be mostly defect with a black background."""
    mostly = [one for one in seen if (one.colours.max(axis=2) > NEAR).mean() > 0.5]
    if len(mostly) < MOST * len(seen):
        return 0, 0, 0
    edges = Counter(_edge_colour(one.colours) for one in mostly)
    (red, green, blue), number = edges.most_common(1)[0]
    return (red, green, blue) if number >= MOST * len(seen) and max(red, green, blue) > NEAR else (0, 0, 0)


def _edge_colour(colours: Pixels) -> tuple[int, int, int]:
    edge = np.concatenate([colours[0], colours[-1], colours[:, 0], colours[:, -1]])
    snapped = np.where(edge > 255 - NEAR, 255, np.where(edge < NEAR, 0, edge))
    found, counts = np.unique(snapped, axis=0, return_counts=True)
    red, green, blue = (int(value) for value in found[counts.argmax()])
    return red, green, blue


def _threshold(seen: Sequence[_Seen], background: tuple[int, int, int]) -> int:
    """Return half the way to the defects' level if levels in between are but seams, or noise; 0 otherwise."""
    top, has_seams, has_levels = 0, False, False
    for one in seen:
        distance = np.abs(one.colours.astype(np.int16) - np.array(background, np.int16)).max(axis=2).astype(np.uint8)
        highest = int(distance.max())
        top = max(top, highest)
        between = (distance > 0) & (distance < highest)
        if one.is_lossy:
            has_seams |= bool(between.any())
        elif between.any():
            flat = _flat(distance) & between
            has_levels |= bool(flat.sum() > FLAT_SHARE * between.sum())
            has_seams |= bool((between & ~flat).any())
    return top // 2 if has_seams and not has_levels else 0


def _flat(values: Pixels) -> NDArray[np.bool_]:
    """Tell of each pixel whether it and its 8 neighbours are equal."""
    kernel = np.ones((3, 3), np.uint8)
    return np.asarray(cv2.dilate(values, kernel) == cv2.erode(values, kernel))


def _look(path: Path) -> Iterator[_Seen]:
    """Yield what a mask holds, unless it is of one colour or cannot be read."""
    with suppress(UserError):
        pixels = read_pixels(path)
        if np.ptp(pixels, axis=(0, 1)).max() > 0:
            yield _Seen(pixels[..., :3], pixels[..., 3] if pixels.shape[2] == 4 else None, is_lossy(path))
