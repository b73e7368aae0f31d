"""A small synthetic dataset: photographs of a woven texture and a riveted plate, with exact masks of their defects.

Each shape is drawn from a signed distance (negative inside), in units of half the image's height.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from realnet.data.images import Image, Mask
from realnet.preparation.drawn_classes import DrawnClass, are_complete, draws_of, write_classes

Plane = NDArray[np.float64]
"""One number per pixel, (H, W)."""
Colours = NDArray[np.float64]
"""RGB in [0, 1]: per pixel (H, W, 3), or one colour (3,)."""

THREADS = 8  # threads of the weave across the image
PLATE_SIDE, PLATE_CORNER, RIVET = 0.72, 0.16, 0.5


@dataclass(frozen=True)
class Scene:
    """An ideal picture, and the coordinates in which its parts are drawn.

    Attributes:
        colours: (H, W, 3) in [0, 1], before the camera's effects.
        x: coordinate to the right in the object's own frame, (H, W).
        y: coordinate downwards in the object's own frame, (H, W).
        outline: signed distance to the object's edge (H, W), negative inside.
    """

    colours: Colours
    x: Plane
    y: Plane
    outline: Plane

    @property
    def pixel(self) -> float:
        """Return the side of a pixel, in the units of the distances."""
        return 2 / self.x.shape[0]


@dataclass(frozen=True)
class Defect:
    """A damaged part of a scene: its signed distance (H, W), negative inside, and its colours (H, W, 3)."""

    distance: Plane
    colours: Colours


Render = Callable[[tuple[int, int], np.random.Generator], Scene]
Damage = Callable[[Scene, np.random.Generator], Defect]


def make_toy_dataset(
    root: Path,
    *,
    image_size: tuple[int, int] = (64, 64),
    num_train: int = 60,
    num_good: int = 12,
    num_defects: int = 8,
    seed: int = 0,
) -> None:
    """Write two classes, ``weave`` and ``widget``, in MVTec-AD's layout, as PNG.

    Each image depends only on the seed and its own name, so changing a count does not change it.

    Args:
        root: the image root; files with the same names are overwritten.
        image_size: (height, width) in pixels.
        num_train: normal training images per class.
        num_good: normal test images per class.
        num_defects: test images per class and kind of defect.
        seed: seed of all draws.
    """
    counts = {"num_train": num_train, "num_good": num_good, "num_defects": num_defects}
    write_classes(root, _drawn_classes(), image_size=image_size, seed=seed, **counts)


def draw_photographs(number: int, image_size: tuple[int, int], *, seed: int = 0) -> list[Image]:
    """Draw photographs of both classes in turn, uint8 RGB (H, W, 3); every third one is of a damaged object."""
    drawn, kinds = [], list(CLASSES.values())
    for index in range(number):
        rng = draws_of(seed, f"photograph {index}")
        render, damages = kinds[index % len(kinds)]
        damage = list(damages.values())[index % len(damages)]
        whole = _draw_normal(render, image_size, rng)
        drawn.append(draw_defect(render, damage, image_size, rng)[0] if index % 3 == 0 else whole)
    return drawn


def is_complete(root: Path, *, num_train: int = 60, num_good: int = 12, num_defects: int = 8) -> bool:
    """Tell whether an image root holds as many images and masks as ``make_toy_dataset`` writes."""
    return are_complete(root, _drawn_classes(), num_train=num_train, num_good=num_good, num_defects=num_defects)


def draw_defect(
    render: Render, damage: Damage, image_size: tuple[int, int], rng: np.random.Generator
) -> tuple[Image, Mask]:
    """Draw a damaged object and the mask of the damage: the pixels that it covers by half or more."""
    scene = render(image_size, rng)
    defect = damage(scene, rng)
    distance = np.maximum(defect.distance, scene.outline)
    colours = _paint(scene.colours, distance, defect.colours, scene.pixel)
    return _photograph(colours, rng), distance <= 0


def render_weave(image_size: tuple[int, int], rng: np.random.Generator) -> Scene:
    """Draw a plain weave: two sets of threads that alternate on top."""
    x, y = _pose(image_size, rng, turn=4, shift=1 / THREADS, zoom=0.04)
    u, v = x * THREADS / 2, y * THREADS / 2
    warp, weft = np.abs(np.sin(np.pi * u)), np.abs(np.sin(np.pi * v))
    is_warp_on_top = (np.floor(u) + np.floor(v)) % 2 == 0
    height = np.where(is_warp_on_top, warp * (0.72 + 0.28 * weft), weft * (0.72 + 0.28 * warp))
    colour = np.where(is_warp_on_top[..., None], _jitter((0.80, 0.70, 0.55), rng), _jitter((0.46, 0.53, 0.62), rng))
    return Scene(colour * (0.35 + 0.65 * height[..., None]), x, y, np.full(x.shape, -np.inf))


def render_widget(image_size: tuple[int, int], rng: np.random.Generator) -> Scene:
    """Draw a brass plate with a recessed ring and four rivets on a dark table."""
    x, y = _pose(image_size, rng, turn=6, shift=0.05, zoom=0.03)
    pixel = 2 / image_size[0]
    outline = _rounded_square(x, y)
    radius = np.hypot(x, y)
    table = _jitter((0.16, 0.18, 0.22), rng) * np.ones((*x.shape, 1))
    brushed = 1 + 0.05 * np.sin(40 * y + 3 * np.sin(2 * x))
    colours = _paint(table, outline - 0.03, np.full((*x.shape, 3), 0.08), 4 * pixel)  # its shadow
    colours = _paint(colours, outline, _jitter((0.80, 0.66, 0.36), rng) * brushed[..., None], pixel)
    colours = _paint(colours, np.abs(radius - 0.3) - 0.05, colours * 0.66, pixel)
    for right in (-RIVET, RIVET):
        for down in (-RIVET, RIVET):
            rivet = np.hypot(x - right, y - down)
            shine = 0.95 - 2.0 * np.hypot(x - right + 0.04, y - down + 0.04)
            colours = _paint(colours, rivet - 0.1, shine[..., None] * np.array([0.80, 0.80, 0.84]), pixel)
    return Scene(colours, x, y, outline)


def hole(scene: Scene, rng: np.random.Generator) -> Defect:
    """Tear a hole that shows darkness behind it."""
    return Defect(_blob(scene, rng, radius=(0.10, 0.2), reach=0.65), scene.colours * 0.2)


def stain(scene: Scene, rng: np.random.Generator) -> Defect:
    """Stain the surface, so that its texture still shows."""
    tint = np.array([(0.75, 0.42, 0.34), (0.45, 0.72, 0.45), (0.45, 0.5, 0.85)][rng.integers(3)])
    return Defect(_blob(scene, rng, radius=(0.16, 0.3), reach=0.6), scene.colours * tint)


def fibre(scene: Scene, rng: np.random.Generator) -> Defect:
    """Lay a loose fibre on the surface."""
    colour = np.array([(0.95, 0.95, 0.9), (0.75, 0.15, 0.15), (0.08, 0.08, 0.1)][rng.integers(3)])
    return Defect(_curve(scene, rng, length=(0.6, 1.2), width=(0.03, 0.045), reach=0.4), _flat(scene, colour))


def scratch(scene: Scene, rng: np.random.Generator) -> Defect:
    """Scratch the surface, bright or dark."""
    tone = (0.98, 0.2)[rng.integers(2)]
    return Defect(_curve(scene, rng, length=(0.45, 0.9), width=(0.025, 0.04), reach=0.3), _flat(scene, (tone,) * 3))


def contamination(scene: Scene, rng: np.random.Generator) -> Defect:
    """Leave dirt on the surface."""
    colour = np.array([(0.2, 0.28, 0.16), (0.3, 0.14, 0.1), (0.15, 0.15, 0.35)][rng.integers(3)])
    grain = rng.uniform(0.7, 1.3, size=(*scene.x.shape, 1))
    return Defect(_blob(scene, rng, radius=(0.1, 0.18), reach=0.5), _flat(scene, colour) * grain)


def chip(scene: Scene, rng: np.random.Generator) -> Defect:
    """Break a piece off the edge, so that the table shows."""
    angle = rng.uniform(0, 2 * np.pi)
    centre = PLATE_SIDE * np.clip(1.4 * np.array([np.cos(angle), np.sin(angle)]), -1, 1)
    distance = _blob(scene, rng, radius=(0.22, 0.32), centre=centre)
    return Defect(distance, _flat(scene, scene.colours[0, 0]))


CLASSES: dict[str, tuple[Render, dict[str, Damage]]] = {
    "weave": (render_weave, {"fibre": fibre, "hole": hole, "stain": stain}),
    "widget": (render_widget, {"chip": chip, "contamination": contamination, "scratch": scratch}),
}


def _drawn_classes() -> dict[str, DrawnClass]:
    return {
        name: DrawnClass(
            partial(_draw_normal, render), {k: partial(draw_defect, render, d) for k, d in damages.items()}
        )
        for name, (render, damages) in CLASSES.items()
    }


def _draw_normal(render: Render, image_size: tuple[int, int], rng: np.random.Generator) -> Image:
    return _photograph(render(image_size, rng).colours, rng)


def _pose(
    image_size: tuple[int, int], rng: np.random.Generator, *, turn: float, shift: float, zoom: float
) -> tuple[Plane, Plane]:
    """Return the pixels' coordinates in the frame of an object that is slightly turned (degrees), moved and scaled."""
    height, width = image_size
    rows, columns = np.mgrid[0:height, 0:width]
    scale = 2 / height * rng.uniform(1 - zoom, 1 + zoom)
    right, down = rng.uniform(-shift, shift, size=2)
    x = (columns - (width - 1) / 2) * scale + right
    y = (rows - (height - 1) / 2) * scale + down
    angle = np.deg2rad(rng.uniform(-turn, turn))
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _rounded_square(x: Plane, y: Plane) -> Plane:
    right, down = (np.abs(axis) - (PLATE_SIDE - PLATE_CORNER) for axis in (x, y))
    outside = np.hypot(np.maximum(right, 0), np.maximum(down, 0))
    return outside + np.minimum(np.maximum(right, down), 0) - PLATE_CORNER


def _blob(
    scene: Scene,
    rng: np.random.Generator,
    *,
    radius: tuple[float, float],
    reach: float = 0.0,
    centre: NDArray[np.float64] | None = None,
) -> Plane:
    """Return the distance to an uneven disk at ``centre``, or anywhere within ``reach`` of the middle."""
    right, down = rng.uniform(-reach, reach, size=2) if centre is None else centre
    x, y = scene.x - right, scene.y - down
    angle = np.arctan2(y, x)
    uneven = sum(rng.uniform(0, 0.3) / k * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (1, 2, 3, 5))
    return np.hypot(x, y) - rng.uniform(*radius) * (1 + uneven)


def _curve(
    scene: Scene, rng: np.random.Generator, *, length: tuple[float, float], width: tuple[float, float], reach: float
) -> Plane:
    """Return the distance to a bent line whose middle is within ``reach`` of the scene's middle."""
    angle, bend = rng.uniform(0, 2 * np.pi), rng.uniform(-0.35, 0.35)
    span = rng.uniform(*length)
    along = np.linspace(-0.5, 0.5, 64)
    across = bend * (1 - 4 * along**2)
    cos, sin = np.cos(angle), np.sin(angle)
    right, down = rng.uniform(-reach, reach, size=2)
    points = np.stack([right + span * (along * cos - across * sin), down + span * (along * sin + across * cos)])
    offsets = np.hypot(scene.x[..., None] - points[0], scene.y[..., None] - points[1])
    return offsets.min(axis=-1) - rng.uniform(*width)


def _flat(scene: Scene, colour: Colours | Sequence[float]) -> Colours:
    return np.broadcast_to(np.asarray(colour), scene.colours.shape)


def _paint(below: Colours, distance: Plane, above: Colours, softness: float) -> Colours:
    """Paint colours over others inside a shape, with an edge ``softness`` wide."""
    cover = np.clip(0.5 - distance / softness, 0, 1)[..., None]
    return below * (1 - cover) + above * cover


def _jitter(colour: Colours | Sequence[float], rng: np.random.Generator) -> Colours:
    return np.asarray(colour) * rng.uniform(0.96, 1.04, size=3)


def _photograph(colours: Colours, rng: np.random.Generator) -> Image:
    """Light the scene unevenly, blur it as a lens does, and add sensor noise."""
    height, width = colours.shape[:2]
    down, right = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    light = rng.uniform(0.9, 1.08) + rng.uniform(-0.08, 0.08) * down + rng.uniform(-0.08, 0.08) * right
    vignette = 1 - 0.06 * (down**2 + right**2)
    blurred = cv2.GaussianBlur(colours * (light * vignette)[..., None], (0, 0), 0.5 * height / 64)
    noisy = blurred + rng.normal(0, 0.012, size=colours.shape)
    return (noisy.clip(0, 1) * 255).round().astype(np.uint8)
