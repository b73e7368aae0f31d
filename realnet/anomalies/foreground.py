"""Find the object in an image, since anomalies are pasted only there (docs/method.md, Foreground).

The rules are data: each dataset's ``dataset.yaml`` holds them.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from realnet.config import Foreground, ForegroundRule
from realnet.data.images import Image, Mask

Binary = NDArray[Any]  # uint8, 0 and 1

_CHANNEL = {"red": 0, "green": 1, "blue": 2}
_METHOD = {"otsu": cv2.THRESH_OTSU, "triangle": cv2.THRESH_TRIANGLE}
_POLARITY = {"bright": cv2.THRESH_BINARY, "dark": cv2.THRESH_BINARY_INV}

# What ``auto`` accepts as an object: deliberately wide limits, not fitted to any dataset
PLAUSIBLE_AREA = (0.03, 0.9)
MAX_BORDER_SHARE = 0.3
MIN_SEPARATION = 0.65


def foreground_mask(image: Image, rule: Foreground) -> Mask:
    """Return the foreground (H, W) of an RGB image (H, W, 3) at the input size (docs/method.md, Foreground).

    ``full`` takes every pixel. A rule thresholds a channel with a given polarity, then applies morphological closing
    and opening; its mask may be empty. ``auto`` works on any image: Otsu's threshold on grey, with the polarity that
    leaves the border to the background; if this finds no plausible object, it takes every pixel, so it is never empty.
    """
    if rule == "full":
        return np.ones(image.shape[:2], np.bool_)
    if rule == "auto":
        found = find_object(image)
        return np.ones(image.shape[:2], np.bool_) if found is None else found
    return _apply(image, rule)


def find_object(image: Image) -> Mask | None:
    """Return the mask (H, W) of an object on a plain background; None if there is none (docs/method.md, Foreground)."""
    side = max(3, round(min(image.shape[:2]) * 0.025))
    candidates = [
        _apply(image, ForegroundRule(polarity=polarity, close=side, open=side)) for polarity in ("bright", "dark")
    ]
    mask = min(candidates, key=_border_share)
    low, high = PLAUSIBLE_AREA
    is_plausible = low <= mask.mean() <= high and _border_share(mask) <= MAX_BORDER_SHARE
    return mask if is_plausible and _separation(image, mask) >= MIN_SEPARATION else None


def _apply(image: Image, rule: ForegroundRule) -> Mask:
    grey = rule.channel == "grey"
    plane = (
        cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if grey else np.ascontiguousarray(image[..., _CHANNEL[rule.channel]])
    )
    _, binary = cv2.threshold(plane, 0, 1, _METHOD[rule.threshold] | _POLARITY[rule.polarity])
    return _open(_close(binary, rule.close), rule.open).astype(np.bool_)


def _close(binary: Binary, side: int) -> Binary:
    return _morphology(binary, side, cv2.dilate, cv2.erode)


def _open(binary: Binary, side: int) -> Binary:
    return _morphology(binary, side, cv2.erode, cv2.dilate)


def _morphology(binary: Binary, side: int, first: Callable[..., Binary], second: Callable[..., Binary]) -> Binary:
    """Apply two opposite operations with a square; if its side is even, the second uses the mirrored square.

    Without mirroring, an even square would shift the mask by one pixel. For even sides the border is replicated, as in
    the published masks.
    """
    if side < 2:
        return binary
    square = np.ones((side, side), np.uint8)
    pad, anchor = (0, side // 2) if side % 2 else (side - 1, side // 2 - 1)
    padded = cv2.copyMakeBorder(binary, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    result = second(first(padded, square), square, anchor=(anchor, anchor))
    return result[pad : pad + binary.shape[0], pad : pad + binary.shape[1]]


def _border_share(mask: Mask) -> float:
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    return float(border.mean())


def _separation(image: Image, mask: Mask) -> float:
    """Return the share of the grey values' variance that lies between the mask and the rest, in [0, 1]."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    variance, share = float(grey.var()), float(mask.mean())
    if variance == 0 or share in (0.0, 1.0):
        return 0.0
    difference = float(grey[mask].mean() - grey[~mask].mean())
    return share * (1 - share) * difference**2 / variance
