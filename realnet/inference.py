"""Run a detector over images."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from realnet.models.realnet import RealNet
from realnet.precision import Precision


@dataclass(frozen=True)
class Scored:
    """A batch's anomaly maps (B, H, W) in [0, 1] and the batch they belong to."""

    anomaly_maps: np.ndarray
    batch: dict


def anomaly_maps(model: RealNet, image: Tensor, precision: Precision) -> Tensor:
    """Return the anomaly maps (B, H, W), float32, of ImageNet-normalised images (B, 3, H, W) on any device."""
    image = image.to(precision.device, non_blocking=True)
    if precision.device.type == "cuda":
        image = image.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), precision.autocast():
        return model(image).anomaly_map[:, 0].float()


def score_batches(model: RealNet, batches: Iterable[dict], precision: Precision) -> Iterator[Scored]:
    """Yield the anomaly maps of batches whose ``image`` is (B, 3, H, W); the model is put in eval mode."""
    model.eval()
    for batch in batches:
        yield Scored(anomaly_maps(model, batch["image"], precision).cpu().numpy(), batch)
