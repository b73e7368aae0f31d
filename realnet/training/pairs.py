"""Detection on images with anomalies beside their clean originals, which the backbone sees together."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from realnet.config import LossConfig
from realnet.models.losses import cross_entropy_loss, focal_loss, reconstruction_loss
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


def detect_joined(model: RealNet, images: Tensor, anomalous: Tensor) -> tuple[Detection, dict[str, Tensor]]:
    """Detect as :func:`detect_pairs` on B items and the clean originals of K of them.

    Args:
        model: the detector.
        images: (B + K, 3, H, W).
        anomalous: (K,) which of the B items the originals belong to.
    """
    with torch.inference_mode():
        levels = model.backbone(images)
    number, size = len(images) - len(anomalous), (images.shape[-2], images.shape[-1])
    selected, clean = {}, {}
    for name, features in model.afs(levels, size).items():
        selected[name] = features[:number]
        clean[name] = features[:number].index_copy(0, anomalous, features[number:])
    return model.detect(selected, size), clean


def detector_losses(detection: Detection, clean: Mapping[str, Tensor], mask: Tensor, weights: LossConfig) -> Tensor:
    """Return the weighted (segmentation, reconstruction) losses, (2,).

    Args:
        detection: on images with anomalies.
        clean: the features (B, C, h, w) of the images without them, by block.
        mask: (B, 1, H, W) in {0, 1}.
        weights: which losses, and how much each counts.
    """
    if weights.segmentation == "focal":
        segmentation = focal_loss(detection.logits, mask, gamma=weights.focal_gamma)
    else:
        segmentation = cross_entropy_loss(detection.logits, mask)
    reconstruction = reconstruction_loss(detection.reconstructed, clean)
    return torch.stack([weights.segmentation_weight * segmentation, weights.reconstruction_weight * reconstruction])
