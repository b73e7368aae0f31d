"""Normal images and drawn anomalies, by which a trained detector is calibrated (docs/method.md, Calibration)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from realnet.anomalies.probes import draw_probe
from realnet.anomalies.synthesis import AnomalySynthesizer, in_photograph
from realnet.config import RealNetConfig
from realnet.data.images import Image, Mask, read_image, resize_image
from realnet.data.index import Entry
from realnet.data.order import spread
from realnet.data.tiles import Tiling, tiling_of
from realnet.metrics.curves import FloatArray, MaskArray
from realnet.runtime.distributed import World
from realnet.runtime.files import scratch
from realnet.runtime.progress import stoppable_bar
from realnet.runtime.randomness import generator

CALIBRATION_EPOCH = 2**31 - 1
"""Anomalies are drawn from this epoch and the ones before it, which training never reaches, so they are new."""
NORMAL_TILES = 256
"""Most tiles that tell what the highest of a photograph's tiles is like (docs/method.md, Tiles)."""


@dataclass(frozen=True)
class Examples:
    """Normal images and local anomalies on them, uint8 RGB (H, W, 3), to calibrate a trained detector on.

    Attributes:
        normal: at the detector's image size, or tiles.
        anomalous: likewise.
        masks: (N, H, W) bool, of the anomalous ones.
    """

    normal: Sequence[Image] | Image
    anomalous: Sequence[Image] | Image
    masks: MaskArray

    def measure(
        self,
        of_batch: Callable[[Sequence[Image]], tuple[FloatArray, ...]],
        batch_size: int,
        description: str,
        world: World,
    ) -> tuple["Measured", ...]:
        """Apply a function of B images to all examples, batch by batch; return each of its results."""
        pictures, whole = [*self.normal, *self.anomalous], list[FloatArray]()
        starts = range(0, len(pictures), batch_size)
        for start in stoppable_bar(starts, description, world):
            found = of_batch(pictures[start : start + batch_size])
            whole = whole or [scratch((len(pictures), *values.shape[1:]), values.dtype) for values in found]
            for kept, values in zip(whole, found, strict=True):
                kept[start : start + len(values)] = values
        return tuple(Measured(values[: len(self.normal)], values[len(self.normal) :]) for values in whole)


def join_examples(parts: Sequence[Examples]) -> Examples:
    """Return the examples of several classes together."""
    if len(parts) == 1:
        return parts[0]
    masks = [one.masks for one in parts if len(one.masks)]
    return Examples(
        [image for one in parts for image in one.normal],
        [image for one in parts for image in one.anomalous],
        np.concatenate(masks) if masks else parts[0].masks,
    )


class Measured(NamedTuple):
    """A result for each normal and for each anomalous example."""

    normal: FloatArray
    anomalous: FloatArray


def draw_examples(
    entries: Sequence[Entry],
    image_root: Path,
    synthesizer: AnomalySynthesizer,
    config: RealNetConfig,
    *,
    image_bits: int = 16,
) -> Examples:
    """Read normal images and draw new local anomalies on them, reproducibly from the seed.

    With tiles, an anomaly is drawn on a tile of the photograph and judged with all of it.

    Args:
        entries: normal images; at most ``calibration.num_anomalies`` of them are used, evenly spread.
        image_root: the folder that the entries' file names are relative to.
        synthesizer: makes the anomalies.
        config: of the detector.
        image_bits: bits that 16-bit values use.
    """
    number = config.calibration.num_anomalies
    used = [entries[index] for index in spread(len(entries), min(number, len(entries)))]
    images = scratch((len(used), *config.image_size, 3))
    for place, entry in zip(images, used, strict=True):
        place[...] = resize_image(read_image(image_root / entry.filename, image_bits), config.image_size)
    drawn = (
        in_photograph(
            synthesizer.synthesize(images[i % len(images)], rng, only_anomalous=True),
            images[i % len(images)],
            tiling_of(config),
        )
        for i, rng in enumerate(_generators("calibration", config, config.seed, len(images)))
    )
    return Examples(images, *_visible(drawn, number, config.image_size))


def draw_probes(examples: Examples, synthesizer: AnomalySynthesizer, config: RealNetConfig) -> Examples:
    """Draw anomalies that no detector is trained on onto the same normal images, reproducibly from the seed.

    With tiles, the probes lie on tiles of them, away from the edges; the normal images are tiles as they lie in use.
    """
    tiling, drawn = tiling_of(config), list[tuple[Image, Mask]]()
    for i, rng in enumerate(_generators("probes", config, config.seed + 1, config.calibration.num_anomalies)):
        image = examples.normal[i % len(examples.normal)]
        corner, foreground = synthesizer.place(image, rng)
        if tiling:  # nearer to an edge, the neighbouring tile is what sees it
            foreground = np.pad(foreground[tiling.inner], [(part.start, part.start) for part in tiling.inner])
        drawn.append(draw_probe(synthesizer.tile_at(image, corner), foreground, rng))
    found = [(image, mask) for image, mask in drawn if mask.any()]
    normal = _some_tiles(examples.normal, tiling) if tiling else examples.normal
    return Examples(normal, [image for image, _ in found], np.array([mask for _, mask in found]))


def _some_tiles(photographs: Sequence[Image] | Image, tiling: Tiling) -> list[Image]:
    """Return at most ``NORMAL_TILES`` tiles that photographs are judged by, evenly spread over all of them."""
    number = len(photographs) * len(tiling)
    places = (divmod(index, len(tiling)) for index in spread(number, min(number, NORMAL_TILES)))
    return [tiling.cut(photographs[photograph], tiling.corners[place]) for photograph, place in places]


def _visible(drawn: Iterator[tuple[Image, Mask]], number: int, size: tuple[int, int]) -> tuple[Image, MaskArray]:
    """Keep the at most ``number`` images (height, width) whose masks are not empty, and these masks."""
    images, masks, count = scratch((number, *size, 3)), scratch((number, *size), np.bool_), 0
    for image, mask in drawn:
        if mask.any():
            images[count], masks[count] = image, mask
            count += 1
    return images[:count], masks[:count]


def _generators(purpose: str, config: RealNetConfig, seed: int, num_images: int) -> Iterator[np.random.Generator]:
    """Yield a generator for each anomaly to calibrate on."""
    for number in range(config.calibration.num_anomalies):
        again, index = divmod(number, num_images)
        yield generator(purpose, seed, CALIBRATION_EPOCH - again, index, draws=config.draws)
