"""Judge photographs tile by tile, in the memory of a batch of tiles (docs/method.md, Tiles)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from realnet.anomalies.foreground import foreground_mask
from realnet.config import EvaluationConfig, Foreground, ForegroundRule, RealNetConfig
from realnet.data.images import Image
from realnet.data.tiles import Corner, Mosaic, Tiling, tiling_of
from realnet.detection.runtimes import Runtime
from realnet.metrics.image_score import image_scores

FOREGROUND = "foreground"
"""The name of the foreground rule among the facts of a detector with tiles."""


class JudgedPhotograph(NamedTuple):
    """A photograph's anomaly map (H, W), its image score, and how many of its tiles were background alone."""

    anomaly_map: NDArray[np.float32]
    score: float
    num_skipped: int


@dataclass(frozen=True)
class TileJudge:
    """How a detector judges photographs tile by tile (docs/method.md, Tiles).

    Attributes:
        tiling: how they are cut.
        config: how many tiles are a batch, and the score's pool.
        rule: what is foreground; tiles far from it are not judged.
        has_context: whether the whole photograph, shrunk to a tile's size, is judged beside them.
    """

    tiling: Tiling
    config: EvaluationConfig
    rule: Foreground = "full"
    has_context: bool = False

    @classmethod
    def of(cls, config: RealNetConfig, rule: Foreground) -> Self | None:
        """Return how a detector judges photographs; None if it sees them whole."""
        tiling = tiling_of(config)
        return cls(tiling, config.evaluation, rule, config.tiles.context) if tiling and config.tiles else None

    def judge(self, image: Image, runtime: Runtime) -> JudgedPhotograph:
        """Judge a photograph, uint8 RGB (H, W, 3) at ``tiling.image_size``.

        The score is that of the blended map: a window over the edge of a tile counts as any other. Where the photograph
        is judged as a whole too, each pixel has the larger of both values.
        """
        corners = self.corners(image)
        maps = self.blended(image, corners, runtime)
        if self.has_context:
            size, coarse = self.tiling.image_size[::-1], runtime.context(self.tiling.shrink(image))
            for fine, values in zip(maps, coarse, strict=False):
                np.maximum(fine, cv2.resize(values, size, interpolation=cv2.INTER_LINEAR), out=fine)
        (score,) = image_scores(maps[-1][None], self.config.pool)
        return JudgedPhotograph(maps[0], float(score), len(self.tiling) - len(corners))

    def blended(self, image: Image, corners: Sequence[Corner], runtime: Runtime) -> list[NDArray[np.float32]]:
        """Return the maps (H, W) of the tiles that lie at ``corners``, as many as :meth:`Runtime.maps` gives."""
        mosaics = list[Mosaic]()
        for start in range(0, len(corners), self.config.batch_size):
            some = corners[start : start + self.config.batch_size]
            found = runtime.maps([self.tiling.cut(image, corner) for corner in some])
            mosaics = mosaics or [Mosaic(self.tiling) for _ in found]
            for mosaic, maps in zip(mosaics, found, strict=True):
                for corner, values in zip(some, maps, strict=True):
                    mosaic.add(corner, values)
        return [mosaic.whole() for mosaic in mosaics]

    def corners(self, image: Image) -> list[Corner]:
        """Return where the tiles lie that are judged: those with foreground in them or within a tile's side of them.

        Where the rule finds no foreground at all, every tile is judged.
        """
        if self.rule == "full":
            return self.tiling.corners
        foreground, (height, width) = foreground_mask(image, self.rule), self.tiling.size
        near = [
            (row, column)
            for row, column in self.tiling.corners
            if foreground[max(0, row - height) : row + 2 * height, max(0, column - width) : column + 2 * width].any()
        ]
        return near or self.tiling.corners


def rule_facts(config: RealNetConfig, rule: Foreground) -> dict[str, Any]:
    """Return what a detector's file says of its foreground rule; nothing without tiles, as it is not used then."""
    plain = rule.model_dump() if isinstance(rule, ForegroundRule) else rule
    return {FOREGROUND: plain} if config.tiles else {}


def rule_of(facts: Mapping[str, Any]) -> Foreground:
    """Return the foreground rule of a detector's file."""
    return TypeAdapter(Foreground).validate_python(facts.get(FOREGROUND, "full"))
