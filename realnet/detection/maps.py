"""Run a detector on images."""

import torch
from torch import Tensor

from realnet.models.realnet import RealNet
from realnet.runtime.devices import send_images
from realnet.runtime.precision import Precision

DIVERGED = "its weights diverged, or try runtime.precision=fp32"
"""Why a network may return NaN, and what to do; ends an error message."""


def anomaly_maps(model: RealNet, image: Tensor, precision: Precision) -> Tensor:
    """Return anomaly maps (B, H, W), float32 in [0, 1], of ImageNet-normalised images (B, 3, H, W).

    The images may be on any device. The model stays in the mode in which the caller has put it.
    """
    with torch.inference_mode(), precision.autocast():
        return model(send_images(image, precision.device)).anomaly_map[:, 0].float()
