"""Run a detector over images."""

import torch
from torch import Tensor

from realnet.models.realnet import RealNet
from realnet.runtime.precision import Precision

DIVERGED = "its weights diverged, or try runtime.precision=fp32"
"""Why a network's output may be NaN, and what to do."""


def anomaly_maps(model: RealNet, image: Tensor, precision: Precision) -> Tensor:
    """Return the anomaly maps (B, H, W), float32 in [0, 1], of ImageNet-normalised images (B, 3, H, W).

    The images may be on any device; the model's mode is the caller's.
    """
    image = image.to(precision.device, non_blocking=True)
    if precision.device.type == "cuda":
        image = image.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), precision.autocast():
        return model(image).anomaly_map[:, 0].float()
