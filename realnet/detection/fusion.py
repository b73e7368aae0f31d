"""Fit the fusion of a trained detector's maps, and choose the score pool, without test data.

Both use probes: held-out normal images and local anomalies drawn on them (docs/method.md, Fusion).
"""

import logging
from collections.abc import Mapping, Sequence
from itertools import product

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from realnet.config import RealNetConfig
from realnet.data.images import Pixels, to_batch
from realnet.data.tiles import tiling_of
from realnet.detection.examples import Examples, Measured
from realnet.detection.maps import AnomalyMaps, anomaly_maps
from realnet.metrics.curves import FloatArray, MaskArray, MetricUndefined, image_curve, pixel_curve
from realnet.metrics.image_score import image_scores
from realnet.models.normal import SIGNALS, centred
from realnet.models.realnet import RealNet
from realnet.runtime.devices import send_images
from realnet.runtime.distributed import World

logger = logging.getLogger("realnet")

FAMILIES = (("logit", "residual", "distance"), ("nearest",), ("deep",))
"""Signals that see the same features in the same way."""
POOLS = (1, 4, 16)
TOLERANCE = 0.04
"""Drawn probes rank choices whose figures are nearer to each other than this wrongly (docs/method.md, Fusion)."""
BLUR_SIGMA = 8.0
"""In pixels, of the centres: few images say little of a single pixel."""
PRIOR_IMAGES = 8
"""The mean that all pixels share counts as much as this many images."""
UPPER_QUANTILE = 0.8413  # a Gaussian's mean plus one deviation


@torch.inference_mode()
def signal_maps(model: RealNet, image: Tensor, world: World) -> NDArray[np.float32]:
    """Compute the maps that fusion joins, (B, K, H, W) in the order of ``SIGNALS``, from images (B, 3, H, W)."""
    with world.precision.autocast():
        _, signals = model.sense(send_images(image, world.device))
    return signals.cpu().numpy()


def fit_fusion(model: RealNet, probes: Examples, *, config: RealNetConfig, world: World, description: str) -> None:
    """Fit the model's :class:`Fusion`: the centre and scale of each map on normal images, and the weights.

    Args:
        model: of one class, in eval mode, with a fusion.
        probes: normal images that the weights were not trained on, and anomalies of a kind that training did not use.
        config: of the detector.
        world: this process.
        description: text of the progress bar.
    """
    assert model.fusion is not None
    (maps,) = probes.measure(
        lambda images: (signal_maps(model, to_batch(images), world),), config.evaluation.batch_size, description, world
    )
    centres, scales = _normal_values(maps.normal)
    weights, score_weights = _choose_weights(maps, probes.masks, centres, scales, config)
    fusion = model.fusion
    fitted = {"centres": centres, "scales": scales, "weights": weights, "score_weights": score_weights}
    for name, values in fitted.items():
        fusion.get_buffer(name).copy_(torch.from_numpy(np.asarray(values, np.float32)))


def _normal_values(maps: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the centre at each pixel, (K, H, W), and the scale, (K,), of normal images' maps (N, K, H, W).

    Centres are drawn towards the mean that all pixels share, the more so the fewer images there are. A scale of each
    pixel would take more images than are held out.
    """
    means = maps.mean(axis=0)
    blurred = [cv2.GaussianBlur(one, (0, 0), BLUR_SIGMA, borderType=cv2.BORDER_REPLICATE) for one in means]
    share = len(maps) / (len(maps) + PRIOR_IMAGES)
    centres = share * np.stack(blurred) + (1 - share) * means.mean(axis=(1, 2), keepdims=True)
    middles, uppers = np.quantile(maps - centres, [0.5, UPPER_QUANTILE], axis=(0, 2, 3))
    return centres, np.maximum(uppers - middles, 1e-6)


def _choose_weights(
    maps: Measured, masks: MaskArray, centres: FloatArray, scales: FloatArray, config: RealNetConfig
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the weights of the anomaly map and of the image score (:func:`shares`).

    The map joins the signals with the best AUPRO, without the deep one. For the score, among choices whose image AUROC
    is within ``TOLERANCE`` of the best the one with the most signals is taken, because different signals make different
    mistakes.
    """
    if not len(masks) or not np.isfinite(maps.normal).all():
        logger.warning("WARNING: no probe fell on the object, or the maps hold NaN; all signals are joined")
        everything = (1,) * len(scales)
        return shares(_fine(everything)), shares(everything)
    normal, probes = (inner((part - centres) / scales[:, None, None], config) for part in maps)
    masks = inner(masks, config)
    images, pixels = {}, {}
    for chosen in product((0, 1), repeat=len(scales)):
        if any(chosen):
            weights = shares(chosen).astype(np.float32)
            joined = Measured(*(np.einsum("k,nkhw->nhw", weights, part) for part in (normal, probes)))
            images[chosen], pixels[chosen] = _figures(joined, masks, config)
    best = max(images.values()) - TOLERANCE
    for_scores = max(images, key=lambda one: (images[one] >= best, sum(one), images[one]))
    for_map = max((one for one in pixels if one == _fine(one)), key=lambda one: pixels[one])
    logger.info("the anomaly map joins %s; AUPRO on probes: %s", _named(for_map), _listed(pixels, for_map))
    logger.info("the image score joins %s; image AUROC of probes: %s", _named(for_scores), _listed(images, for_scores))
    return shares(for_map), shares(for_scores)


def shares(chosen: Sequence[int]) -> NDArray[np.float64]:
    """Return the weights (K,) of the signals that are used, 1 or 0 for each of ``SIGNALS``; they add up to 1.

    Signals of a family say nearly the same, so all families that are used count alike (docs/method.md, Fusion).
    """
    used = np.array(chosen, np.float64)
    families = [used * [name in family for name in SIGNALS[: len(used)]] for family in FAMILIES]
    return np.asarray(np.mean([family / family.sum() for family in families if family.any()], axis=0))


def _fine(chosen: Sequence[int]) -> tuple[int, ...]:
    """Return which of the used signals say where a defect is: not the deep one, whose features lie too far apart."""
    return tuple(used * (name != "deep") for name, used in zip(SIGNALS, chosen, strict=False))


def _named(chosen: Sequence[int]) -> str:
    return " + ".join(name for name, used in zip(SIGNALS, chosen, strict=False) if used)


def _listed(figures: Mapping[tuple[int, ...], float], taken: tuple[int, ...]) -> str:
    told = [chosen for chosen in figures if sum(chosen) == 1 or chosen in (taken, (1,) * len(chosen))]
    return ", ".join(f"{_named(chosen)} {figures[chosen]:.3f}" for chosen in told)


def inner(maps: Pixels, config: RealNetConfig) -> Pixels:
    """Return the part of maps (…, H, W) that counts in use: of tiles, that which weighs a half or more in the blend."""
    tiling = tiling_of(config)
    return maps if tiling is None else maps[(..., *tiling.inner)]


def image_auroc(scores: Measured, config: RealNetConfig) -> float:
    """Return the AUROC of images; of tiles, that of photographs (docs/method.md, Tiles).

    A photograph of n tiles scores as its highest one. With p the chance that n normal tiles all score below a probe,
    the photograph of the probe scores above another one with a chance of p + (1 - p)²/2.

    Raises:
        MetricUndefined: if there are no probes, or scores are NaN.
    """
    curve = image_curve(np.concatenate(scores), np.repeat([0, 1], [len(scores.normal), len(scores.anomalous)]))
    tiling = tiling_of(config)
    if tiling is None:
        return curve.auroc
    below = np.searchsorted(np.sort(scores.normal), scores.anomalous) / len(scores.normal)
    all_below = below ** len(tiling)
    return float((all_below + (1 - all_below) ** 2 / 2).mean())


def _figures(maps: Measured, masks: MaskArray, config: RealNetConfig) -> tuple[float, float]:
    """Return image AUROC and AUPRO of maps in deviations, on normal images and probes."""
    joined = np.concatenate(maps)
    lowered = centred(torch.from_numpy(joined[:, None]))[:, 0].numpy()
    pixel = pixel_curve(lowered, np.concatenate([np.zeros(maps.normal.shape, bool), masks]))
    scores = Measured(*(part.max(axis=(1, 2)) for part in maps))
    return image_auroc(scores, config), pixel.aupro(config.evaluation.aupro_fpr_limit)


def choose_pool(model: RealNet, probes: Examples, *, config: RealNetConfig, world: World, description: str) -> int:
    """Choose the side of the average pool of image scores: the published 16, unless smaller ones are better by more.

    A smaller side must separate probes from normal images by an image AUROC higher by ``TOLERANCE``.
    """
    side = min(inner(np.empty(config.input_size), config).shape)
    pools = sorted((pool for pool in POOLS if pool <= side), reverse=True)
    (scores,) = probes.measure(
        lambda images: (_pooled(anomaly_maps(model.eval(), to_batch(images), world.precision), pools, config),),
        config.evaluation.batch_size,
        description,
        world,
    )
    try:
        aurocs = [image_auroc(Measured(*one), config) for one in zip(scores.normal.T, scores.anomalous.T, strict=True)]
    except MetricUndefined:
        return config.evaluation.pool
    best = next(pool for pool, value in zip(pools, aurocs, strict=True) if value >= max(aurocs) - TOLERANCE)
    listed = ", ".join(f"{pool}: {value:.4f}" for pool, value in zip(pools, aurocs, strict=True))
    logger.info("evaluation.score_pool: %d (%s)", best, listed)
    return best


def _pooled(maps: AnomalyMaps, pools: Sequence[int], config: RealNetConfig) -> NDArray[np.float64]:
    """Return the scores (B, number of pools) of images by the part of their maps that counts in use."""
    scored = inner(maps.arrays()[-1], config)
    return np.stack([image_scores(scored, pool) for pool in pools], axis=1)
