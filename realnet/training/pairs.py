"""Run the detector on images with anomalies and the backbone on their clean originals, in one pass of the backbone.

See docs/method.md, Detector training.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from realnet.config import LossConfig
from realnet.models.losses import cross_entropy_loss, focal_loss, reconstruction_loss
from realnet.models.realnet import Detection, RealNet
from realnet.runtime.devices import send, send_images

Normalise = Callable[[Mapping[str, Tensor], Tensor], dict[str, Tensor]]
"""Maps selected features (B, C, h, w), by block, and the numbers (B,) of their images to normalised features."""


def detect_pairs(
    model: RealNet, batch: dict[str, Any], device: torch.device, normalise: Normalise | None = None
) -> tuple[Detection, dict[str, Tensor]]:
    """Run the detector on a training batch; return its output and the clean originals' features, by block.

    An item without anomaly equals its original, so the backbone runs on it only once.
    """
    anomalous = batch["has_anomaly"].nonzero().flatten()  # on the CPU: no synchronisation
    places = send(anomalous, device)
    # joined on the device: what torch.cat makes on the CPU is not pinned
    images = torch.cat([send_images(batch["image"], device), send_images(batch["clean"], device)[places]])
    if normalise is None:
        return detect_joined(model, images, places)
    indexes = torch.cat([batch["index"], batch["index"][anomalous]])
    return detect_joined(model, images, places, lambda selected: normalise(selected, indexes))


def detect_joined(
    model: RealNet,
    images: Tensor,
    anomalous: Tensor,
    normalise: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None,
) -> tuple[Detection, dict[str, Tensor]]:
    """Do the work of :func:`detect_pairs` on B items and the clean originals of K of them.

    Args:
        model: the detector.
        images: (B + K, 3, H, W), the items and then the originals.
        anomalous: (K,), the index of the item that each original belongs to.
        normalise: maps the selected features of the B + K images to normalised ones; None normalises as in use.
    """
    with torch.inference_mode():
        levels = model.backbone(images)
    number, size = len(images) - len(anomalous), (images.shape[-2], images.shape[-1])
    selected, clean = {}, {}
    with torch.no_grad():
        joined = (normalise or model.normalise)(model.afs(levels, size))
    for name, features in joined.items():
        selected[name] = features[:number]
        clean[name] = features[:number].index_copy(0, anomalous, features[number:])
    return model.detect(selected, size), clean


def detector_losses(detection: Detection, clean: Mapping[str, Tensor], mask: Tensor, weights: LossConfig) -> Tensor:
    """Return the weighted (segmentation, reconstruction) losses, (2,) (docs/method.md, Detector loss).

    Args:
        detection: the detector's output for images with anomalies.
        clean: features (B, C, h, w) of the images without anomalies, by block.
        mask: (B, 1, H, W) in {0, 1}.
        weights: which segmentation loss, and the weight of each loss.
    """
    if weights.segmentation == "focal":
        segmentation = focal_loss(detection.logits, mask, gamma=weights.focal_gamma)
    else:
        segmentation = cross_entropy_loss(detection.logits, mask)
    reconstruction = reconstruction_loss(detection.reconstructed, clean)
    return torch.stack([weights.segmentation_weight * segmentation, weights.reconstruction_weight * reconstruction])
