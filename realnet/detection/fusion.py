"""Fit the fusion of a trained detector's maps, and choose the score pool, without test data.

Both use probes: held-out normal images and local anomalies drawn on them (docs/method.md, Fusion).
"""

import logging
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from realnet.config import RealNetConfig
from realnet.detection.calibration import Examples, Measured
from realnet.detection.maps import anomaly_maps
from realnet.metrics.curves import FloatArray, MaskArray, MetricUndefined, image_curve, pixel_curve
from realnet.models.normal import CENTRING, SIGNALS
from realnet.models.realnet import RealNet
from realnet.runtime.distributed import World

logger = logging.getLogger("realnet")

POOLS = (1, 4, 16)
TOLERANCE = 0.04
"""Drawn probes rank choices whose figures are nearer to each other than this wrongly (docs/method.md, Fusion)."""
UPPER_QUANTILE = 0.8413  # a Gaussian's mean plus one deviation


@torch.inference_mode()
def signal_maps(model: RealNet, image: Tensor, world: World) -> NDArray[np.float32]:
    """Compute the maps that fusion joins, (B, 3, H, W) in the order of ``SIGNALS``, from images (B, 3, H, W)."""
    with world.precision.autocast():
        image = image.to(world.device)
        detection = model.detect(model.select(image), image.shape[-2:])
    signals = model.signals(detection)  # in float32
    return torch.cat([signals[name].float() for name in SIGNALS], dim=1).cpu().numpy()


def fit_fusion(model: RealNet, probes: Examples, *, config: RealNetConfig, world: World, description: str) -> None:
    """Fit the model's :class:`Fusion`: the centre and scale of each map on normal images, and the weights.

    Args:
        model: in eval mode, with a fusion.
        probes: normal images that the weights were not trained on, and anomalies of a kind that training did not use.
        config: of the detector.
        world: this process.
        description: text of the progress bar.
    """
    assert model.fusion is not None
    (maps,) = probes.measure(
        lambda batch: (signal_maps(model, batch, world),), config.evaluation.batch_size, description, world
    )
    centres, uppers = np.quantile(maps.normal, [0.5, UPPER_QUANTILE], axis=(0, 2, 3))
    scales = np.maximum(uppers - centres, 1e-6)
    weights = _choose_weights(maps, probes.masks, centres, scales, config)
    fusion, fitted = model.fusion, (centres, scales, weights)
    for buffer, values in zip((fusion.centres, fusion.scales, fusion.weights), fitted, strict=True):
        buffer.copy_(torch.from_numpy(np.asarray(values, np.float32)))


def _choose_weights(
    maps: Measured, masks: MaskArray, centres: FloatArray, scales: FloatArray, config: RealNetConfig
) -> NDArray[np.float64]:
    """Return equal weights for the signals that together separate anomalies best from normal images.

    Separation is the mean of image AUROC and AUPRO. Among choices within ``TOLERANCE`` of the best, the one with the
    most signals is taken, because different signals make different mistakes.
    """
    if not len(masks) or not np.isfinite(maps.normal).all():
        logger.warning("WARNING: no probe fell on the object, or the maps hold NaN; all signals get the same weight")
        return np.full(len(SIGNALS), 1 / len(SIGNALS))
    normal, probes = ((part - centres[:, None, None]) / scales[:, None, None] for part in maps)
    figures = {}
    for chosen in product((0, 1), repeat=len(SIGNALS)):
        if any(chosen):
            weights = np.array(chosen) / sum(chosen)
            joined = Measured(*(np.einsum("k,nkhw->nhw", weights, part) for part in (normal, probes)))
            figures[chosen] = _separation(joined, masks, config)
    best = max(figures.values())
    chosen = max(figures, key=lambda one: (figures[one] >= best - TOLERANCE, sum(one), figures[one]))
    names = {one: " + ".join(name for name, used in zip(SIGNALS, one, strict=True) if used) for one in figures}
    listed = ", ".join(f"{names[one]} {value:.3f}" for one, value in figures.items())
    logger.info("the anomaly map joins %s; mean of image AUROC and AUPRO on probes: %s", names[chosen], listed)
    return np.array(chosen) / sum(chosen)


def _separation(maps: Measured, masks: MaskArray, config: RealNetConfig) -> float:
    joined = np.concatenate(maps)
    image = image_curve(joined.max(axis=(1, 2)), np.repeat([0, 1], [len(maps.normal), len(maps.anomalous)]))
    levels = CENTRING * np.median(joined, axis=(1, 2), keepdims=True)
    pixel = pixel_curve(joined - levels, np.concatenate([np.zeros(maps.normal.shape, bool), masks]))
    return (image.auroc + pixel.aupro(config.evaluation.aupro_fpr_limit)) / 2


def choose_pool(model: RealNet, probes: Examples, *, config: RealNetConfig, world: World, description: str) -> int:
    """Choose the side of the average pool whose image scores separate anomalies best from normal images.

    Ties go to the largest side, which is the nearest to the published 16.
    """
    pools = sorted((pool for pool in POOLS if pool <= min(config.image_size)), reverse=True)
    _, scores = probes.measure(
        lambda batch: anomaly_maps(model.eval(), batch, world.precision).scored(*pools),
        config.evaluation.batch_size,
        description,
        world,
    )
    labels = np.repeat([0, 1], [len(scores.normal), len(scores.anomalous)])
    try:
        aurocs = [image_curve(values, labels).auroc for values in np.concatenate(scores).T]
    except MetricUndefined:
        return config.evaluation.pool
    best = pools[int(np.argmax(aurocs))]
    listed = ", ".join(f"{pool}: {value:.4f}" for pool, value in zip(pools, aurocs, strict=True))
    logger.info("evaluation.score_pool: %d (%s)", best, listed)
    return best
