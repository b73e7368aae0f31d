"""Paste another image on the object through a Perlin mask (docs/method.md, Local anomalies)."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from realnet.anomalies.foreground import foreground_mask
from realnet.anomalies.perlin import draw_periods, perlin_mask
from realnet.anomalies.sources import find_sdas, find_textures
from realnet.anomalies.textures import augment_texture, is_grey, shuffle_grid, to_grey
from realnet.config import AnomalyConfig, AnomalyType, Foreground
from realnet.data.images import Image, Mask, read_image, resize_image

logger = logging.getLogger("realnet")

MAX_MASK_DRAWS = 20
"""Most Perlin masks to draw for an item before it stays clean; at coarse scales many miss a small object."""

CONTRAST_WINDOW = 5
"""Side (px) of the square over which an anomaly's contrast is averaged."""


@dataclass(frozen=True)
class LocalAnomaly:
    """An image with a local anomaly, or a clean one.

    Attributes:
        image: uint8 RGB (H, W, 3), with the anomaly if there is one.
        mask: bool (H, W), True on the anomaly; all False if the image is clean.
        kind: the anomaly's type; ``normal`` if the image is clean.
        source: file of the pasted pixels; None if the image is clean, or if they come from the image itself.
        opacity: weight of the pasted pixels, in (0, 1]; 0 if the image is clean.
        periods: cells of the Perlin lattice along height and width; (0, 0) if the image is clean.
    """

    image: Image
    mask: Mask
    kind: AnomalyType
    source: Path | None = None
    opacity: float = 0.0
    periods: tuple[int, int] = (0, 0)


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
    ) -> None:
        """Take the files of each type that reads files (``sdas``, ``dtd``); ``image_size`` is (height, width)."""
        self.config = config
        self.sources = dict(sources)
        self.image_size = image_size
        self.foreground = foreground
        self.all_types: dict[AnomalyType, float] = {kind: share for kind, share in config.types.items() if share > 0}
        # AFS sees anomalies only, with equally likely sources (docs/method.md, AFS)
        self.anomalous_types: dict[AnomalyType, float] = {kind: 1.0 for kind in self.all_types if kind != "normal"}

    @property
    def source_files(self) -> list[Path]:
        """Return the files of all types."""
        return [file for files in self.sources.values() for file in files]

    def synthesize(self, image: Image, rng: np.random.Generator, *, only_anomalous: bool = False) -> LocalAnomaly:
        """Draw a type and, unless it is ``normal``, a mask, a source and an opacity; return the blended image.

        The image stays clean if ``MAX_MASK_DRAWS`` Perlin masks all miss the foreground, or if no part of the anomaly
        reaches ``min_contrast``.

        Args:
            image: clean uint8 RGB (H, W, 3) at ``image_size``; it is not modified.
            rng: the item's own generator.
            only_anomalous: for AFS: never draw ``normal``, and draw the other types with equal probability.

        Raises:
            UserError: if the source file cannot be read.
        """
        kind = _draw_type(self.anomalous_types if only_anomalous else self.all_types, rng)
        mask, periods = self._draw_mask(image, rng) if kind != "normal" else (_nothing(image), (0, 0))
        if not mask.any():
            return LocalAnomaly(image, mask, "normal")
        source, path = self._draw_source(kind, image, rng)
        opacity_range = self.config.opacity[kind]  # type: ignore[index]  # "normal" has returned above
        opacity = float(rng.uniform(opacity_range.low, opacity_range.high))
        if self.config.min_contrast:
            mask = visible_part(mask, image, blend(image, source, mask, opacity), self.config.min_contrast)
            if not mask.any():
                return LocalAnomaly(image, mask, "normal")
        return LocalAnomaly(blend(image, source, mask, opacity), mask, kind, path, opacity, periods)

    def _draw_mask(self, image: Image, rng: np.random.Generator) -> tuple[Mask, tuple[int, int]]:
        foreground = foreground_mask(image, self.foreground)
        for _ in range(MAX_MASK_DRAWS if foreground.any() else 0):
            periods = draw_periods(rng, scale=self.config.perlin_scale, min_scale=self.config.min_perlin_scale)
            mask = perlin_mask(self.image_size, rng, periods=periods, threshold=self.config.perlin_threshold)
            mask &= foreground
            if self.config.max_regions:
                mask = keep_regions(mask, int(rng.integers(1, self.config.max_regions + 1)), rng)
            if mask.any():
                return mask, periods
        return _nothing(image), (0, 0)

    def _draw_source(self, kind: AnomalyType, image: Image, rng: np.random.Generator) -> tuple[Image, Path | None]:
        if kind == "self":
            source = shuffle_grid(augment_texture(image, rng), rng)
            return (to_grey(source) if is_grey(image) else source), None
        files = self.sources[kind]
        path = files[int(rng.integers(len(files)))]
        source = resize_image(read_image(path), self.image_size)
        return (augment_texture(source, rng) if kind == "dtd" else source), path


def build_synthesizer(
    config: AnomalyConfig, dataset: str, class_name: str, *, image_size: tuple[int, int], foreground: Foreground
) -> AnomalySynthesizer:
    """Find the source files that the configured types need, and build the class's synthesizer.

    Raises:
        UserError: if a type has no files; the message names the command or download that provides them.
    """
    sources: dict[AnomalyType, list[Path]] = {}
    if config.types.get("sdas"):
        sources["sdas"] = find_sdas(dataset, class_name, config.sdas_keep)
    if config.types.get("dtd"):
        sources["dtd"] = find_textures(Path(config.dtd_root))
    return AnomalySynthesizer(config, sources, image_size=image_size, foreground=foreground)


def _draw_type(weights: Mapping[AnomalyType, float], rng: np.random.Generator) -> AnomalyType:
    kinds, shares = list(weights), np.array(list(weights.values()))
    return kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]


def _nothing(image: Image) -> Mask:
    return np.zeros(image.shape[:2], np.bool_)
