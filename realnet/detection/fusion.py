"""Fit the fusion of a trained detector's maps, and choose the score pool, without test data.

Both use held-out normal images and local anomalies drawn on them (docs/method.md, Fusion).
"""

import logging

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from realnet.config import RealNetConfig
from realnet.detection.calibration import Examples
from realnet.detection.maps import anomaly_maps
from realnet.metrics.curves import FloatArray, MetricUndefined, image_curve
from realnet.metrics.image_score import image_scores
from realnet.models.normal import SIGNALS, Fusion
from realnet.models.realnet import RealNet
from realnet.runtime.distributed import World

logger = logging.getLogger("realnet")

POOLS = (1, 4, 16)
UPPER_QUANTILE = 0.8413  # a Gaussian's mean plus one deviation


@torch.inference_mode()
def signal_maps(model: RealNet, image: Tensor, world: World) -> NDArray[np.float32]:
    """Compute the maps that fusion joins, (B, 3, H, W) in the order of ``SIGNALS``, from images (B, 3, H, W)."""
    with world.precision.autocast():
        image = image.to(world.device)
        detection = model.detect(model.select(image), image.shape[-2:])
        signals = model.signals(detection)
    return torch.cat([signals[name].float() for name in SIGNALS], dim=1).cpu().numpy()


def fit_fusion(model: RealNet, examples: Examples, *, config: RealNetConfig, world: World, description: str) -> None:
    """Fit the model's :class:`Fusion`: the centre and scale of each map on normal images, and the weights.

    Args:
        model: in eval mode, with a fusion.
        examples: normal images, held out from training if there are such, and anomalies on them.
        config: of the detector.
        world: this process.
        description: text of the progress bar.
    """
    assert model.fusion is not None
    maps = examples.maps(
        lambda batch: signal_maps(model, batch, world), config.evaluation.batch_size, description, world
    )
    centres, uppers = np.quantile(maps.normal, [0.5, UPPER_QUANTILE], axis=(0, 2, 3))
    scales = np.maximum(uppers - centres, 1e-6)
    weights = np.full(len(SIGNALS), 1 / len(SIGNALS))
    _set(model.fusion, centres, scales, weights)


def choose_pool(model: RealNet, examples: Examples, *, config: RealNetConfig, world: World, description: str) -> int:
    """Choose the side of the average pool with the best image AUROC of drawn anomalies against normal images.

    Ties go to the largest side, which is the nearest to the published 16.
    """
    maps = examples.maps(
        lambda batch: anomaly_maps(model.eval(), batch, world.precision).cpu().numpy(),
        config.evaluation.batch_size,
        description,
        world,
    )
    labels = np.repeat([0, 1], [len(maps.normal), len(maps.anomalous)])
    joined = np.concatenate(maps)
    aurocs: dict[int, float] = {}
    for pool in (pool for pool in POOLS if pool <= min(config.image_size)):
        try:
            aurocs[pool] = image_curve(image_scores(joined, pool), labels).auroc
        except MetricUndefined:
            return config.evaluation.pool
    best = max(sorted(aurocs, reverse=True), key=lambda pool: aurocs[pool])
    logger.info("evaluation.score_pool: %d (%s)", best, ", ".join(f"{k}: {v:.4f}" for k, v in aurocs.items()))
    return best


def _set(fusion: Fusion, centres: FloatArray, scales: FloatArray, weights: FloatArray) -> None:
    for buffer, values in ((fusion.centres, centres), (fusion.scales, scales), (fusion.weights, weights)):
        buffer.copy_(torch.from_numpy(np.asarray(values, np.float32)))
