"""Fit the coarse pass of a detector with tiles, after training and without test data (docs/method.md, Tiles)."""

from collections.abc import Iterable, Sequence
from itertools import starmap

import numpy as np
import torch
from numpy.typing import NDArray

from realnet.data.images import Image, to_batch
from realnet.detection.runtimes import TorchRuntime
from realnet.detection.tiling import TileJudge
from realnet.metrics.image_score import image_scores
from realnet.models.gaussian import Moments, by_position
from realnet.models.realnet import RealNet
from realnet.runtime.distributed import World

MOST_PHOTOGRAPHS = 16
"""Held-out photographs by which the maps of tiles and of the coarse pass get the same unit."""
LEAST_SPREAD = 0.1
"""Of the logits of photographs' maxima: few of them may lie close together by chance."""
EDGE = 1e-6


def fit_context(
    model: RealNet,
    normal: Iterable[Image],
    held_out: Sequence[Image] | Image,
    *,
    by_tiles: TileJudge,
    ridge: float,
    world: World,
) -> None:
    """Fit the model's :class:`Context`: what is normal at each place, and the unit of its maps.

    Args:
        model: in eval mode, with a context; its tiles are judged as in use.
        normal: training photographs, uint8 RGB (H, W, 3), of a tile's size.
        held_out: photographs that the Gaussians do not see, at ``by_tiles.tiling.image_size``.
        by_tiles: how photographs are judged.
        ridge: ``features.ridge`` of the config.
        world: this process.
    """
    assert model.context is not None
    runtime, moments = TorchRuntime(model, world.precision), None
    for image in normal:
        features = model.context.features(_selected(model, image, world))
        moments = moments or Moments.empty(by_position(features).mean(dim=1))
        moments.add(features)
    assert moments is not None
    model.context.fit(moments, ridge)
    pool, maxima = by_tiles.config.pool, list[list[float]]()
    for image in held_out[:MOST_PHOTOGRAPHS]:
        fine = by_tiles.blended(image, by_tiles.corners(image), runtime)
        coarse = model.context.distances(_selected(model, by_tiles.tiling.shrink(image), world))
        maxima.append([*_scores(fine, pool), float(coarse.max())])
    *fines, coarse_maxima = np.array(maxima).T
    lines = starmap(_line, ((fine, coarse_maxima) for fine in (fines[0], fines[-1])))
    for place, (slope, offset) in enumerate(lines):
        model.context.slopes[place], model.context.offsets[place] = slope, offset


@torch.inference_mode()
def _selected(model: RealNet, image: Image, world: World) -> dict[str, torch.Tensor]:
    return model.select(to_batch([image]).to(world.device))


def _scores(maps: Sequence[NDArray[np.float32]], pool: int) -> list[float]:
    return [float(image_scores(one[None], pool)[0]) for one in maps]


def _line(fine: NDArray[np.float64], coarse: NDArray[np.float64]) -> tuple[float, float]:
    """Return the slope and offset that give good photographs' largest distances the tiles' mean and spread, in logits.

    Args:
        fine: the largest values (N,) of photographs' maps by tiles, in [0, 1].
        coarse: their largest distances (N,).
    """
    shares = fine.clip(EDGE, 1 - EDGE)
    logits = np.log(shares / (1 - shares))
    slope = max(logits.std(), LEAST_SPREAD) / max(coarse.std(), LEAST_SPREAD * coarse.mean())
    return float(slope), float(logits.mean() - slope * coarse.mean())
