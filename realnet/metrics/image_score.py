"""The score of an image: the largest window mean of its anomaly map (docs/method.md, Image score)."""

import cv2
import numpy as np
from numpy.typing import NDArray

from realnet.metrics.curves import FloatArray, MetricUndefined


def image_scores(anomaly_maps: FloatArray, pool: int = 16) -> NDArray[np.float64]:
    """Return each image's score (N,): the maximum of its average-pooled map (docs/method.md, Image score).

    Args:
        anomaly_maps: maps (N, H, W).
        pool: side of the pooling window, in pixels; its stride is 1.

    Raises:
        MetricUndefined: if the maps are not (N, H, W), or are smaller than the window.
    """
    if anomaly_maps.ndim != 3 or min(anomaly_maps.shape[1:]) < pool:
        raise MetricUndefined(f"maps of shape {anomaly_maps.shape} are not (N, H, W) with sides of at least {pool}")
    return np.array([_pooled_maximum(anomaly_map, pool) for anomaly_map in anomaly_maps])


def _pooled_maximum(anomaly_map: FloatArray, pool: int) -> float:
    means = cv2.blur(anomaly_map.astype(np.float64), (pool, pool), anchor=(0, 0))
    height, width = anomaly_map.shape
    return float(means[: height - pool + 1, : width - pool + 1].max())  # the other windows cross the border
