"""A run of one process on the CPU in float32, and the way back from a detector's input to pixels."""

import torch
from torch import Tensor

from realnet.data.images import IMAGENET_MEAN, IMAGENET_STD
from realnet.runtime.distributed import World
from realnet.runtime.precision import Precision

FP32 = Precision(torch.float32, torch.device("cpu"))
ALONE = World(0, 1, FP32)


def denormalise(images: Tensor) -> Tensor:
    """Undo ``normalise``: float (…, 3, H, W) to uint8 of the same shape."""
    mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
