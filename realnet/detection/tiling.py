"""Judge photographs tile by tile, in the memory of a batch of tiles (docs/method.md, Tiles)."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from realnet.config import EvaluationConfig
from realnet.data.images import Image
from realnet.data.tiles import Mosaic, Tiling
from realnet.detection.maps import anomaly_maps, to_batch
from realnet.metrics.image_score import image_scores
from realnet.models.realnet import RealNet
from realnet.runtime.precision import Precision

MapsOfTiles = Callable[[Sequence[Image]], tuple[NDArray[np.float32], ...]]
"""Returns maps (B, h, w) of a batch of tiles: the anomaly maps, and the scored ones where they are others."""


def network_of_tiles(model: RealNet, precision: Precision) -> MapsOfTiles:
    """Return what computes the maps of tiles in torch."""
    return lambda tiles: anomaly_maps(model, to_batch(tiles), precision).arrays()


def judge_by_tiles(
    image: Image, tiling: Tiling, maps_of: MapsOfTiles, config: EvaluationConfig
) -> tuple[NDArray[np.float32], float]:
    """Return the anomaly map (H, W) and the image score of a photograph, uint8 RGB (H, W, 3).

    The score is that of the blended map (docs/method.md, Tiles): a window over the edge of a tile counts as any other.

    Args:
        image: the photograph at ``tiling.image_size``.
        tiling: how it is cut.
        maps_of: computes the maps of tiles.
        config: how many tiles are a batch, and the score's pool.
    """
    mosaics: list[Mosaic] = []
    for start in range(0, len(tiling), config.batch_size):
        corners = tiling.corners[start : start + config.batch_size]
        found = maps_of([tiling.cut(image, corner) for corner in corners])
        mosaics = mosaics or [Mosaic(tiling) for _ in found]
        for mosaic, maps in zip(mosaics, found, strict=True):
            for corner, values in zip(corners, maps, strict=True):
                mosaic.add(corner, values)
    (score,) = image_scores(mosaics[-1].whole()[None], config.pool)
    return mosaics[0].whole(), float(score)
