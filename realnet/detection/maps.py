"""Run a detector on images."""

import torch
from torch import Tensor

from realnet.models.realnet import RealNet
from realnet.runtime.precision import Precision

DIVERGED = "its weights diverged, or try runtime.precision=fp32"
"""Why a network may return NaN, and what to do; ends an error message."""


def anomaly_maps(model: RealNet, image: Tensor, precision: Precision) -> Tensor:
    """Return anomaly maps (B, H, W), float32 in [0, 1], of ImageNet-normalised images (B, 3, H, W).

    The images may be on any device. The model stays in the mode in which the caller has put it.
    """
    image = image.to(precision.device, non_blocking=True)
    if precision.device.type == "cuda":
        image = image.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), precision.autocast():
        return model(image).anomaly_map[:, 0].float()
