"""Detection on images with anomalies beside their clean originals, which the backbone sees together."""

from typing import Any

import torch
from torch import Tensor

from realnet.models.realnet import Detection, RealNet


def detect_pairs(model: RealNet, batch: dict[str, Any], device: torch.device) -> tuple[Detection, dict[str, Tensor]]:
    """Detect on a training batch; return that and the clean originals' features by block.

    The backbone runs once on what differs: an item without anomaly is its own original.
    """
    anomalous = batch["has_anomaly"].nonzero().flatten()  # on the CPU: no synchronisation
    images = torch.cat([batch["image"], batch["clean"][anomalous]]).to(device, non_blocking=True)
    if device.type == "cuda":
        images = images.contiguous(memory_format=torch.channels_last)
    return detect_joined(model, images, anomalous.to(device, non_blocking=True))


def detect_joined(model: RealNet, images: Tensor, place: Tensor) -> tuple[Detection, dict[str, Tensor]]:
    """Detect as :func:`detect_pairs` on images (B + K, 3, H, W): B items, then the originals of the K at ``place``."""
    with torch.inference_mode():
        levels = model.backbone(images)
    number, size = len(images) - len(place), (images.shape[-2], images.shape[-1])
    selected, clean = {}, {}
    for name, features in model.afs(levels, size).items():
        selected[name] = features[:number]
        clean[name] = features[:number].index_copy(0, place, features[number:])
    return model.detect(selected, size), clean
