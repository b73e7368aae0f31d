"""Paste another image on the object through a Perlin mask (docs/method.md, Local anomalies)."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from realnet.anomalies.foreground import foreground_mask
from realnet.anomalies.perlin import draw_periods, perlin_mask
from realnet.anomalies.real import RealDefects, find_real, paste
from realnet.anomalies.sources import find_sdas, find_textures
from realnet.anomalies.textures import augment_texture, is_grey, shuffle_grid, to_grey
from realnet.config import AnomalyConfig, AnomalyType, Foreground
from realnet.data.images import Image, Mask, Pixels, read_image, resize_image
from realnet.data.registry import OpenDataset
from realnet.data.tiles import Corner, Tiling
from realnet.inspection.repeats import Marked

logger = logging.getLogger("realnet")

MAX_MASK_DRAWS = 20
"""Most Perlin masks to draw for an item before it stays clean; at coarse scales many miss a small object."""

CONTRAST_WINDOW = 5
"""Side (px) of the square over which an anomaly's contrast is averaged."""


@dataclass(frozen=True)
class LocalAnomaly:
    """An image with a local anomaly, or a clean one; with tiles, a tile of a photograph.

    Attributes:
        image: uint8 RGB (H, W, 3), with the anomaly if there is one.
        mask: bool (H, W), True on the anomaly; all False if the image is clean.
        kind: the anomaly's type; ``normal`` if the image is clean.
        source: file of the pasted pixels; None if the image is clean, or if they come from the image itself.
        opacity: weight of the pasted pixels, in (0, 1]; 0 if the image is clean.
        periods: cells of the Perlin lattice along height and width; (0, 0) if the image is clean or the defect real.
        corner: where the tile lies in the photograph.
    """

    image: Image
    mask: Mask
    kind: AnomalyType
    source: Path | None = None
    opacity: float = 0.0
    periods: tuple[int, int] = (0, 0)
    corner: Corner = (0, 0)


def blend(image: Image, source: Image, mask: Mask, opacity: float) -> Image:
    """Paste P on I inside the mask M: (1 - M)⊙I + δ·M⊙P + (1 - δ)·M⊙I (docs/method.md, Blending).

    The image I and the source P are uint8 RGB (H, W, 3), M is (H, W), the opacity δ is in [0, 1]. The result is
    truncated to uint8; no pixel outside the mask changes.
    """
    mixed = np.float32(opacity) * source + np.float32(1 - opacity) * image
    return cv2.copyTo(mixed.astype(np.uint8), mask.view(np.uint8), image.copy())


def keep_regions(mask: Mask, number: int, rng: np.random.Generator) -> Mask:
    """Keep ``number`` 8-connected regions of a mask (H, W), drawn with probability proportional to area."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    if count - 1 <= number:  # label 0 is the background
        return mask
    areas = stats[1:, cv2.CC_STAT_AREA]
    is_kept = np.zeros(count, np.bool_)
    is_kept[1 + rng.choice(count - 1, size=number, replace=False, p=areas / areas.sum())] = True
    return is_kept[labels]


def visible_part(mask: Mask, image: Image, blended: Image, min_contrast: float) -> Mask:
    """Return the part of a mask (H, W) where the paste changes the image by at least ``min_contrast`` (of 255).

    A pixel's change is that of its most changed channel, averaged over the mask's pixels in a square of side
    ``CONTRAST_WINDOW``, so that a texture's grain does not leave holes in the mask.
    """
    window = (CONTRAST_WINDOW, CONTRAST_WINDOW)
    change = cv2.blur(cv2.absdiff(blended, image).max(axis=2).astype(np.float32), window)
    share = cv2.blur(mask.astype(np.float32), window)
    return mask & (change >= min_contrast * share)


class AnomalySynthesizer:
    """Draw local anomalies for images of one class, from the caller's generator (docs/method.md, Local anomalies)."""

    def __init__(
        self,
        config: AnomalyConfig,
        sources: Mapping[AnomalyType, Sequence[Path]],
        *,
        image_size: tuple[int, int],
        foreground: Foreground = "full",
        tiling: Tiling | None = None,
        real: RealDefects | None = None,
    ) -> None:
        """Take the files of each type that reads images (``sdas``, ``dtd``), and the defects of ``real``.

        ``image_size`` is the (height, width) of the images; with ``tiling``, the results are tiles of them.
        """
        self.config = config
        self.sources = dict(sources)
        self.image_size, self._drawn_size = image_size, tiling.size if tiling else image_size
        self.foreground, self.tiling, self.real = foreground, tiling, real
        self.all_types: dict[AnomalyType, float] = {kind: share for kind, share in config.types.items() if share > 0}
        # AFS sees anomalies only, with equally likely sources (docs/method.md, AFS)
        self.anomalous_types: dict[AnomalyType, float] = {kind: 1.0 for kind in self.all_types if kind != "normal"}

    @property
    def source_files(self) -> list[Path]:
        """Return the files of all types."""
        real = (file for pair in self.real_files for file in pair)
        return [*(file for files in self.sources.values() for file in files), *real]

    @property
    def real_files(self) -> list[Marked]:
        """Return the photographs of defects, with their masks."""
        return self.real.files if self.real else []

    def of(self, class_name: str) -> "AnomalySynthesizer":  # noqa: ARG002 - as JointSynthesizer.of
        """Return the synthesizer of a class: this one."""
        return self

    def synthesize(self, image: Image, rng: np.random.Generator, *, only_anomalous: bool = False) -> LocalAnomaly:
        """Draw a type and, unless it is ``normal``, a mask, a source and an opacity; return the blended image.

        A ``real`` defect brings its own mask. The image stays clean if ``MAX_MASK_DRAWS`` Perlin masks all miss the
        foreground, or if no part of the anomaly reaches ``min_contrast``.

        Args:
            image: clean uint8 RGB (H, W, 3) at ``image_size``; it is not modified.
            rng: the item's own generator.
            only_anomalous: for AFS: never draw ``normal``, and draw the other types with equal probability.

        Raises:
            UserError: if the source file cannot be read.
        """
        kind = _draw_type(self.anomalous_types if only_anomalous else self.all_types, rng)
        if kind == "normal":
            corner = self.tiling.draw(rng) if self.tiling else (0, 0)
            return _clean(self.tile_at(image, corner), corner)
        corner, foreground = self.place(image, rng)
        image = self.tile_at(image, corner)
        if kind == "real":
            return self._paste_real(image, foreground, corner, rng)
        mask, periods = self._draw_mask(foreground, rng)
        if not mask.any():
            return _clean(image, corner)
        source, path = self._draw_source(kind, image, rng)
        opacity_range = self.config.opacity[kind]
        opacity = float(rng.uniform(opacity_range.low, opacity_range.high))
        if self.config.min_contrast:
            mask = visible_part(mask, image, blend(image, source, mask, opacity), self.config.min_contrast)
            if not mask.any():
                return _clean(image, corner)
        return LocalAnomaly(blend(image, source, mask, opacity), mask, kind, path, opacity, periods, corner)

    def _paste_real(self, image: Image, foreground: Mask, corner: Corner, rng: np.random.Generator) -> LocalAnomaly:
        if self.real is None:
            raise ValueError("the type real needs the defects to paste")
        found = paste(image, foreground, self.real, self.config.real, rng)
        if found is None:
            return _clean(image, corner)
        mask = visible_part(found.mask, image, found.image, self.config.min_contrast)
        if not mask.any():
            return _clean(image, corner)
        return LocalAnomaly(found.image, mask, "real", found.source.image, found.opacity, corner=corner)

    def tile_at(self, pixels: Pixels, corner: Corner) -> Pixels:
        """Return the tile of a photograph, or of its mask, at a place; without tiles the whole one."""
        return self.tiling.cut(pixels, corner) if self.tiling else pixels

    def place(self, image: Image, rng: np.random.Generator) -> tuple[Corner, Mask]:
        """Draw where to put an anomaly on a photograph: a tile with foreground, if one of ``MAX_MASK_DRAWS`` has some.

        Returns:
            The tile's place, and the foreground in it; the rule sees the whole photograph.
        """
        foreground, corner = foreground_mask(image, self.foreground), (0, 0)
        if self.tiling is not None:
            drawn = [self.tiling.draw(rng) for _ in range(MAX_MASK_DRAWS)]
            corner = next((one for one in drawn if self.tile_at(foreground, one).any()), drawn[0])
        return corner, self.tile_at(foreground, corner)

    def _draw_mask(self, foreground: Mask, rng: np.random.Generator) -> tuple[Mask, tuple[int, int]]:
        for _ in range(MAX_MASK_DRAWS if foreground.any() else 0):
            periods = draw_periods(rng, scale=self.config.perlin_scale, min_scale=self.config.min_perlin_scale)
            mask = perlin_mask(self._drawn_size, rng, periods=periods, threshold=self.config.perlin_threshold)
            mask &= foreground
            if self.config.max_regions:
                mask = keep_regions(mask, int(rng.integers(1, self.config.max_regions + 1)), rng)
            if mask.any():
                return mask, periods
        return np.zeros_like(foreground), (0, 0)

    def _draw_source(self, kind: AnomalyType, image: Image, rng: np.random.Generator) -> tuple[Image, Path | None]:
        if kind == "self":
            source = shuffle_grid(augment_texture(image, rng), rng)
            return (to_grey(source) if is_grey(image) else source), None
        files = self.sources[kind]
        path = files[int(rng.integers(len(files)))]
        source = resize_image(read_image(path), self._drawn_size)
        return (augment_texture(source, rng) if kind == "dtd" else source), path


@dataclass(frozen=True)
class JointSynthesizer:
    """The synthesizers of several classes, each with the foreground and the sources of its own."""

    by_class: Mapping[str, AnomalySynthesizer]

    @property
    def source_files(self) -> list[Path]:
        """Return the files of all classes, each once."""
        return list(dict.fromkeys(file for one in self.by_class.values() for file in one.source_files))

    @property
    def real_files(self) -> list[Marked]:
        """Return the photographs of defects of all classes, with their masks."""
        return [file for one in self.by_class.values() for file in one.real_files]

    @property
    def foreground(self) -> Foreground:
        """Return the foreground of an image whose class nobody names: all of it."""
        return "full"

    def of(self, class_name: str) -> AnomalySynthesizer:
        """Return the synthesizer of a class."""
        return self.by_class[class_name]


def build_synthesizer(
    config: AnomalyConfig,
    dataset: OpenDataset,
    class_name: str,
    *,
    image_size: tuple[int, int],
    tiling: Tiling | None = None,
) -> AnomalySynthesizer:
    """Find the source files that the configured types need, and build the class's synthesizer.

    Raises:
        UserError: if a type has no files; the message names the command or download that provides them.
    """
    sources: dict[AnomalyType, list[Path]] = {}
    if config.types.get("sdas"):
        sources["sdas"] = find_sdas(dataset.name, class_name, config.sdas_keep)
    if config.types.get("dtd"):
        sources["dtd"] = find_textures(Path(config.dtd_root))
    foreground, real = dataset.config.foreground_of(class_name), None
    if config.types.get("real"):
        described, files = dataset.config, find_real(dataset, class_name)
        real = RealDefects(files, image_size, rule=described.masks, bits=described.image_bits)
    return AnomalySynthesizer(config, sources, image_size=image_size, foreground=foreground, tiling=tiling, real=real)


def in_photograph(anomaly: LocalAnomaly, photograph: Image, tiling: Tiling | None) -> tuple[Image, Mask]:
    """Return a photograph with an anomaly that was drawn on a tile of it, and its mask (H, W)."""
    if tiling is None:
        return anomaly.image, anomaly.mask
    image, mask = photograph.copy(), np.zeros(photograph.shape[:2], np.bool_)
    tiling.paste(anomaly.image, anomaly.corner, image)
    tiling.paste(anomaly.mask, anomaly.corner, mask)
    return image, mask


def _draw_type(weights: Mapping[AnomalyType, float], rng: np.random.Generator) -> AnomalyType:
    kinds, shares = list(weights), np.array(list(weights.values()))
    return kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]


def _clean(image: Image, corner: Corner) -> LocalAnomaly:
    return LocalAnomaly(image, np.zeros(image.shape[:2], np.bool_), "normal", corner=corner)
