"""Run the detector on images with anomalies and the backbone on their clean originals, in one pass of the backbone.

See docs/method.md, Detector training.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from realnet.config import LossConfig
from realnet.models.losses import cross_entropy_loss, focal_loss, reconstruction_loss
from realnet.models.output import Detection
from realnet.models.realnet import RealNet
from realnet.runtime.devices import send, send_images
from realnet.training.clean_features import CleanFeatures


class Normalise(Protocol):
    """Normalises features of training images."""

    def __call__(self, selected: Mapping[str, Tensor], indexes: Tensor) -> dict[str, Tensor]:
        """Map selected features (B, C, h, w), by block, of the images with these indexes (B,), to normalised ones."""


def detect_pairs(
    model: RealNet,
    batch: dict[str, Any],
    device: torch.device,
    normalise: Normalise | None = None,
    known: CleanFeatures | None = None,
) -> tuple[Detection, dict[str, Tensor]]:
    """Run the detector on a training batch; return its output and the clean originals' features, by block.

    An item without anomaly equals its original, so the backbone runs on it only once.

    Args:
        model: the detector.
        batch: items of ``DetectorTrainDataset``, joined.
        device: where the detector is.
        normalise: for features of training images; None normalises as in use.
        known: keeps the features of clean images from batch to batch; None computes them each time.
    """
    indexes, anomalous = batch["index"], batch["has_anomaly"].nonzero().flatten()  # on the CPU: no synchronisation
    unknown = torch.tensor(known.missing(indexes.tolist()), dtype=torch.long) if known else torch.arange(len(indexes))
    places = send(anomalous, device)
    # joined on the device: what torch.cat makes on the CPU is not pinned
    pieces = [send(batch["clean"], device)[send(unknown, device)], send(batch["image"], device)[places]]
    images = send_images(torch.cat(pieces), device)
    numbers = torch.cat([indexes[unknown], indexes[anomalous]])
    found = _features(model, images, partial(normalise, indexes=numbers) if normalise else model.normalise)
    clean = {name: features[: len(unknown)] for name, features in found.items()}
    if known:
        clean = known.join(indexes.tolist(), clean)
    return _detect(model, clean, {name: f[len(unknown) :] for name, f in found.items()}, places, images.shape[-2:])


def detect_joined(model: RealNet, images: Tensor, anomalous: Tensor) -> tuple[Detection, dict[str, Tensor]]:
    """Do the work of :func:`detect_pairs` on B clean images and K images with anomalies.

    Args:
        model: the detector.
        images: (B + K, 3, H, W), the clean images and then the others.
        anomalous: (K,), the index of the clean image that each of the others was.
    """
    number = len(images) - len(anomalous)
    found = _features(model, images, model.normalise)
    clean, odd = ({name: f[part] for name, f in found.items()} for part in (slice(number), slice(number, None)))
    return _detect(model, clean, odd, anomalous, images.shape[-2:])


def _features(
    model: RealNet, images: Tensor, normalise: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Return the normalised selected features of images (B, 3, H, W), by block."""
    with torch.inference_mode():
        levels = model.backbone(images)
    with torch.no_grad():
        return normalise(model.afs(levels, images.shape[-2:]))


def _detect(
    model: RealNet,
    clean: dict[str, Tensor],
    odd: Mapping[str, Tensor],
    places: Tensor,
    image_size: Sequence[int],
) -> tuple[Detection, dict[str, Tensor]]:
    """Run the learned part on clean features (B, C, h, w) in which those of images with anomalies take K places."""
    selected = {name: features.index_copy(0, places, odd[name]) for name, features in clean.items()}
    return model.detect(selected, image_size), clean


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
