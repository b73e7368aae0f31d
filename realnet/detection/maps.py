"""Run a detector on images."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from realnet.metrics.image_score import image_scores
from realnet.models.normal import raise_by
from realnet.models.realnet import RealNet
from realnet.runtime.devices import send_images
from realnet.runtime.precision import Precision

DIVERGED = "its weights diverged, or try runtime.precision=fp32"
"""Why a network may return NaN, and what to do; ends an error message."""


class AnomalyMaps(NamedTuple):
    """Anomaly maps of B images, on the device where they were computed.

    Attributes:
        maps: (B, H, W), float32 in [0, 1].
        levels: (B,), what each image's map was lowered by (docs/method.md, Fusion); None for a detector without fusion.
    """

    maps: Tensor
    levels: Tensor | None

    def scored(self, *pools: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Return the maps as an array, and the images' scores (B, number of pools) (docs/method.md, Image score)."""
        maps = self.maps.cpu().numpy()
        scores = np.stack([image_scores(maps, pool) for pool in pools], axis=1)
        if self.levels is not None:
            scores = raise_by(torch.from_numpy(scores), self.levels.cpu().double()[:, None]).numpy()
        return maps, scores


def anomaly_maps(model: RealNet, image: Tensor, precision: Precision) -> AnomalyMaps:
    """Return the anomaly maps of ImageNet-normalised images (B, 3, H, W).

    The images may be on any device. The model stays in the mode in which the caller has put it.
    """
    with torch.inference_mode(), precision.autocast():
        detection = model(send_images(image, precision.device))
        return AnomalyMaps(detection.anomaly_map[:, 0].float(), detection.level)
