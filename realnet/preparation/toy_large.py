"""A synthetic dataset of large photographs with small defects: fine cloth with pinholes and knots of 6 to 12 pixels.

Shrunk to the size that a network sees at once, a defect is a pixel among threads; in tiles it is a disk.
"""

from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from realnet.data.images import Image, Mask
from realnet.preparation.drawn_classes import DrawnClass, are_complete, write_classes

CLASS = "cloth"
KINDS = {"knot": (0.93, 0.9, 0.82), "pinhole": (0.1, 0.1, 0.11)}
"""The kinds of defects, with their colour."""
DYES = ((0.66, 0.58, 0.5), (0.4, 0.46, 0.54))
"""Colours of the threads: of the warp, and of the weft."""
DIAMETERS = (6.0, 12.0)
"""Of a defect, in pixels."""
THREAD = 12.0
"""Pixels from one thread to the next."""
MARGIN = 24
"""Pixels between a defect and the photograph's edge."""


def make_large_toy(
    root: Path,
    *,
    image_size: tuple[int, int] = (1024, 1024),
    num_train: int = 24,
    num_good: int = 12,
    num_defects: int = 8,
    seed: int = 0,
) -> None:
    """Write the class ``cloth`` in MVTec-AD's layout, as PNG; each image depends only on the seed and its own name.

    Args:
        root: the image root; files with the same names are overwritten.
        image_size: (height, width) in pixels.
        num_train: normal training images.
        num_good: normal test images.
        num_defects: test images of each kind of defect.
        seed: seed of all draws.
    """
    counts = {"num_train": num_train, "num_good": num_good, "num_defects": num_defects}
    write_classes(root, _drawn_classes(), image_size=image_size, seed=seed, **counts)


def is_complete(root: Path, *, num_train: int = 24, num_good: int = 12, num_defects: int = 8) -> bool:
    """Tell whether an image root holds as many images and masks as ``make_large_toy`` writes."""
    return are_complete(root, _drawn_classes(), num_train=num_train, num_good=num_good, num_defects=num_defects)


def draw_defect(kind: str, image_size: tuple[int, int], rng: np.random.Generator) -> tuple[Image, Mask]:
    """Draw a photograph with one defect, and the mask of the pixels that the defect covers by half or more."""
    colours, camera = _cloth(image_size, rng)
    row, column = (rng.uniform(MARGIN, side - MARGIN) for side in image_size)
    radius, flat, turn = rng.uniform(*DIAMETERS) / 2, rng.uniform(0.8, 1.0), rng.uniform(0, np.pi)
    y, x = (
        np.mgrid[: image_size[0], : image_size[1]].astype(np.float32)
        - np.array([row, column], np.float32)[:, None, None]
    )
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    distance = np.hypot(along, across / flat) - radius
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    return _photograph(colours * (1 - cover) + cover * np.array(KINDS[kind], np.float32), camera), distance <= 0


def _cloth(image_size: tuple[int, int], rng: np.random.Generator) -> tuple[NDArray[np.float32], np.random.Generator]:
    """Draw threads that alternate on top, (H, W, 3) in [0, 1], a little crooked and unevenly thick."""
    y, x = np.mgrid[: image_size[0], : image_size[1]].astype(np.float32)
    angle = np.deg2rad(rng.uniform(-3, 3))
    bend, phase = rng.uniform(0, 3), rng.uniform(0, 2 * np.pi, size=2)
    u = (x * np.cos(angle) + y * np.sin(angle) + bend * np.sin(y / 90 + phase[0])) / THREAD + rng.uniform(0, 2)
    v = (y * np.cos(angle) - x * np.sin(angle) + bend * np.sin(x / 90 + phase[1])) / THREAD + rng.uniform(0, 2)
    warp, weft = np.abs(np.sin(np.pi * u)), np.abs(np.sin(np.pi * v))
    is_warp = (np.floor(u) + np.floor(v)) % 2 == 0
    height = np.where(is_warp, warp * (0.75 + 0.25 * weft), weft * (0.75 + 0.25 * warp))
    thickness = cv2.GaussianBlur(rng.normal(0, 1, image_size).astype(np.float32), (0, 0), 6)
    shade = 0.45 + 0.55 * height + 0.06 * thickness / thickness.std()
    dyed = np.where(is_warp[..., None], *np.array(DYES, np.float32))
    return dyed * rng.uniform(0.97, 1.03, 3).astype(np.float32) * shade[..., None].astype(np.float32), rng


def _photograph(colours: NDArray[np.float32], rng: np.random.Generator) -> Image:
    """Light the scene unevenly, blur it as a lens does, and add sensor noise."""
    down, right = np.mgrid[-1 : 1 : colours.shape[0] * 1j, -1 : 1 : colours.shape[1] * 1j].astype(np.float32)
    light = rng.uniform(0.92, 1.06) + rng.uniform(-0.06, 0.06) * down + rng.uniform(-0.06, 0.06) * right
    blurred = cv2.GaussianBlur(colours * light[..., None], (0, 0), 0.8)
    noisy = blurred + rng.normal(0, 0.012, colours.shape).astype(np.float32)
    return (noisy.clip(0, 1) * 255).round().astype(np.uint8)


def _drawn_classes() -> dict[str, DrawnClass]:
    return {CLASS: DrawnClass(_draw_normal, {kind: partial(draw_defect, kind) for kind in KINDS})}


def _draw_normal(image_size: tuple[int, int], rng: np.random.Generator) -> Image:
    return _photograph(*_cloth(image_size, rng))
