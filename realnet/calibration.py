"""Thresholds and display scale without test labels: from normal images and fresh local anomalies."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader

from realnet import metrics
from realnet.config import RealNetConfig
from realnet.data.datasets import DetectorTrainDataset
from realnet.data.index import Entry
from realnet.data.synthesis import AnomalySynthesizer
from realnet.inference import anomaly_maps
from realnet.models.realnet import RealNet
from realnet.precision import Precision

CALIBRATION_EPOCH = 2**31 - 1
"""The items' draws belong to this epoch, which training never reaches: the anomalies are fresh."""
DISPLAY_QUANTILE = 0.95


@dataclass(frozen=True)
class Calibration:
    """What turns scores into verdicts and pictures.

    Attributes:
        image_threshold: an image score at or above it is a defect.
        pixel_threshold: an anomaly-map value at or above it is a defect.
        display_scale: the anomaly-map value that heatmaps show as hottest.
        held_out: whether the weights were not trained on these images.
        num_images: how many normal images it rests on.
    """

    image_threshold: float
    pixel_threshold: float
    display_scale: float
    held_out: bool
    num_images: int


def split_holdout(entries: Sequence[Entry], fraction: float) -> tuple[list[Entry], list[Entry]]:
    """Split training images into those to train on and those to calibrate on, evenly spread; at least one if any."""
    number = min(len(entries) - 1, max(1, round(fraction * len(entries)))) if fraction > 0 else 0
    held = {int(index) for index in np.linspace(0, len(entries) - 1, number + 2)[1:-1].round()} if number else set()
    return (
        [entry for index, entry in enumerate(entries) if index not in held],
        [entry for index, entry in enumerate(entries) if index in held],
    )


def calibrate(
    model: RealNet,
    entries: Sequence[Entry],
    image_root: Path,
    *,
    synthesizer: AnomalySynthesizer,
    config: RealNetConfig,
    precision: Precision,
    held_out: bool,
) -> Calibration:
    """Fix the thresholds by the best F1 between normal images and local anomalies on them.

    The image threshold lies midway between the best threshold and the next normal score below it. The display scale
    is the upper quantile of the anomalous pixels' values, at least the pixel threshold.
    """
    was_training = model.training
    model.eval()
    dataset = DetectorTrainDataset(
        entries,
        image_root,
        image_size=config.image_size,
        synthesizer=synthesizer,
        seed=config.seed,
        only_anomalous=True,
        cache_mib=64,
    )
    keys = [(CALIBRATION_EPOCH - i // len(entries), i % len(entries)) for i in range(config.calibration.num_anomalies)]
    loader = DataLoader(dataset, batch_size=config.evaluation.batch_size, sampler=keys)
    normal, anomalous, masks = [], [], []
    for i, batch in enumerate(loader):
        if i * config.evaluation.batch_size < len(entries):
            normal.append(anomaly_maps(model, batch["clean"], precision).cpu().numpy())
        shown = batch["has_anomaly"]
        if shown.any():
            anomalous.append(anomaly_maps(model, batch["image"][shown], precision).cpu().numpy())
            masks.append(batch["mask"][shown][:, 0].numpy() > 0)
    model.train(was_training)
    return _thresholds(
        np.concatenate(normal), np.concatenate(anomalous), np.concatenate(masks), config=config, held_out=held_out
    )


def _thresholds(
    normal: np.ndarray, anomalous: np.ndarray, masks: np.ndarray, *, config: RealNetConfig, held_out: bool
) -> Calibration:
    pool = config.evaluation.score_pool
    good, bad = metrics.image_scores(normal, pool), metrics.image_scores(anomalous, pool)
    best = metrics.image_f1_max(np.concatenate([good, bad]), np.repeat([0, 1], [len(good), len(bad)])).threshold
    below = good[good < best]
    image_threshold = (best + below.max()) / 2 if len(below) else best
    maps = np.concatenate([normal, anomalous])
    truth = np.concatenate([np.zeros(normal.shape, bool), masks])
    pixel_threshold = metrics.pixel_f1_max(maps, truth).threshold
    scale = max(float(np.quantile(anomalous[masks], DISPLAY_QUANTILE)), pixel_threshold, 1e-6)
    return Calibration(float(image_threshold), float(pixel_threshold), min(scale, 1.0), held_out, len(normal))
