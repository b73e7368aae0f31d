"""Run a detector on images."""

from collections.abc import Iterator
from contextlib import contextmanager
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

    def arrays(self) -> tuple[NDArray[np.float32], ...]:
        """Return the anomaly maps, and the scored ones where they are others, as arrays (B, H, W)."""
        return tuple(maps.cpu().numpy() for maps in self if maps is not None)

    def scored(self, *pools: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Return the maps as an array, and the images' scores (B, number of pools) (docs/method.md, Image score)."""
        found = self.arrays()
        return found[0], np.stack([image_scores(found[-1], pool) for pool in pools], axis=1)


@contextmanager
def in_use(model: RealNet) -> Iterator[None]:
    """Have a network judge images as in use; its mode (train or eval) is restored afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def anomaly_maps(model: RealNet, image: Tensor, precision: Precision) -> AnomalyMaps:
    """Return the anomaly maps of ImageNet-normalised images (B, 3, H, W).

    The images may be on any device. The model stays in the mode in which the caller has put it.
    """
    with torch.inference_mode(), precision.autocast():
        detection = model(send_images(image, precision.device))
    scored = None if detection.scored is None else detection.scored[:, 0]
    return AnomalyMaps(detection.anomaly_map[:, 0].float(), scored)
