"""Run a detector on images."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from realnet.metrics.image_score import image_scores
from realnet.models.realnet import RealNet
from realnet.runtime.devices import send_images
from realnet.runtime.precision import Precision

DIVERGED = "its weights diverged, or try runtime.precision=fp32"
"""Why a network may return NaN, and what to do; ends an error message."""


class AnomalyMaps(NamedTuple):
    """Anomaly maps of B images, on the device where they were computed.

    Attributes:
        maps: (B, H, W), float32 in [0, 1].
        scored_maps: (B, H, W), what the image scores are taken from (docs/method.md, Fusion); None if it is the same.
    """

    maps: Tensor
    scored_maps: Tensor | None

    def scored(self, *pools: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Return the maps as an array, and the images' scores (B, number of pools) (docs/method.md, Image score)."""
        maps = self.maps.cpu().numpy()
        scored = maps if self.scored_maps is None else self.scored_maps.cpu().numpy()
        return maps, np.stack([image_scores(scored, pool) for pool in pools], axis=1)


def anomaly_maps(model: RealNet, image: Tensor, precision: Precision) -> AnomalyMaps:
    """Return the anomaly maps of ImageNet-normalised images (B, 3, H, W).

    The images may be on any device. The model stays in the mode in which the caller has put it.
    """
    with torch.inference_mode(), precision.autocast():
        detection = model(send_images(image, precision.device))
    scored = None if detection.scored is None else detection.scored[:, 0]
    return AnomalyMaps(detection.anomaly_map[:, 0].float(), scored)
