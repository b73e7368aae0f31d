"""A detector's network as ONNX: what surrounds it, and the sizes of images that it takes."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from realnet.data.images import IMAGENET_MEAN, IMAGENET_STD, Image
from realnet.detection.detector import Detector
from realnet.detection.runtimes import CONTEXT, INPUT, MAPS, SCORED, SCORES, import_extra
from realnet.errors import UserError
from realnet.metrics.image_score import image_scores
from realnet.models.realnet import RealNet
from realnet.runtime.packing import unpack_convolutions

EXAMPLE_BATCH = 3
"""A size that is none of the network's own, so that no size of the network is taken for that of the batch."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of images that an exported network takes.

    Attributes:
        multiple_of: what both sides are multiples of, in pixels.
        smallest: the shortest side, in pixels.
    """

    multiple_of: int
    smallest: int

    @classmethod
    def of(cls, detector: Detector) -> Self:
        """Return the sizes that a detector's network takes.

        Raises:
            UserError: if that is only its own.
        """
        config, model = detector.config, detector.model
        ties = ["tiles have one size (tiles.size)"] if config.tiles else model.ties_to_size()
        if ties:
            height, width = config.input_size
            raise UserError(
                f"--dynamic-size: this detector takes images of {height}x{width} pixels alone, because its "
                f"{' and its '.join(ties)}; leave it out, or train a detector without them"
            )
        factor = model.side_factor
        coarsest = math.lcm(factor, *(level.stride for level in model.backbone.levels))
        return cls(factor, max(2 * coarsest, math.ceil(config.evaluation.pool / factor) * factor))

    @property
    def example(self) -> tuple[int, int]:
        """Return a (height, width) of which no map has a side of one pixel, which torch takes for a constant."""
        return 2 * self.smallest, 3 * self.smallest

    def other(self, size: Sequence[int]) -> tuple[int, int]:
        """Return a (height, width) of about half of an image's."""
        half = max(self.smallest, size[0] // 2 // self.multiple_of * self.multiple_of)
        return half, half + self.multiple_of

    def free_sides(self) -> dict[int, Any]:
        """Return the two sides of images (B, H, W, 3) by their dimension, as torch describes them."""
        least = self.smallest // self.multiple_of
        return {place: self.multiple_of * torch.export.Dim(name, min=least) for place, name in ((1, "h"), (2, "w"))}


class ExportedNetwork(nn.Module):
    """A detector's network with what surrounds it: uint8 RGB images in, anomaly maps and image scores out.

    Of tiles it gives the maps that scores are taken from instead of scores, which are those of whole photographs, and
    what it finds if the image is a whole photograph, shrunk.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: RealNet, pool: int, *, of_tiles: bool = False) -> None:
        super().__init__()
        self.model, self.pool, self.of_tiles = model, pool, of_tiles
        further = [SCORED] if model.fusion is not None else []
        further += [CONTEXT] if model.context is not None else []
        self.outputs = [MAPS, *further] if of_tiles else [MAPS, SCORES]
        self.register_buffer("mean", 255 * torch.tensor(IMAGENET_MEAN)[:, None, None])
        self.register_buffer("std", 255 * torch.tensor(IMAGENET_STD)[:, None, None])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images (B, H, W, 3) uint8 to anomaly maps (B, H, W) and image scores (B,), float32; see ``outputs``."""
        pixels = images.permute(0, 3, 1, 2).to(torch.float32)
        normalised = (pixels - self.mean) / self.std
        detection = self.model(normalised)
        maps = detection.anomaly_map.float()  # (B, 1, H, W)
        scored = maps if detection.scored is None else detection.scored
        if self.of_tiles:
            found = {MAPS: maps[:, 0], SCORED: scored[:, 0]}
            if self.model.context is not None:  # the runtimes compute the equal beginning of both once
                found[CONTEXT] = self.model.survey(normalised)
            return tuple(found[name] for name in self.outputs)
        return maps[:, 0], F.avg_pool2d(scored, self.pool, stride=1).amax(dim=(1, 2, 3))

    def judge(self, images: Sequence[Image]) -> tuple[np.ndarray, np.ndarray]:
        """Return the anomaly maps and the scores of a batch of images or tiles."""
        found = self.arrays(images)
        return found[MAPS], image_scores(found.get(SCORED, found[MAPS]), self.pool) if self.of_tiles else found[SCORES]

    @torch.inference_mode()
    def arrays(self, images: Sequence[Image]) -> dict[str, np.ndarray]:
        """Return the outputs for a batch of images or tiles, by name."""
        found = self(torch.from_numpy(np.stack(images)))
        return {name: values.numpy() for name, values in zip(self.outputs, found, strict=True)}


def plain_network(detector: Detector) -> RealNet:
    """Return a copy of a detector's network on the CPU whose convolutions are not packed.

    Raises:
        UserError: if the detector does not run in torch, in float32.
    """
    if detector.precision.dtype != torch.float32:
        raise UserError(f"a detector is exported from float32, not {detector.precision.name}; load it with fp32")
    network = copy.deepcopy(detector.model).cpu()
    unpack_convolutions(network)
    return network.eval()


def write_onnx(network: ExportedNetwork, size: tuple[int, int], path: Path, sizes: Sizes | None = None) -> None:
    """Write a network as ONNX, for any number of images.

    Args:
        network: on the CPU, in eval mode.
        size: (height, width) of its images.
        path: the file.
        sizes: which others it takes; None: no other.

    Raises:
        UserError: if the packages of the extra ``export`` are not installed, or the network takes no other size.
    """
    for package in ("onnx", "onnxscript"):
        import_extra(package)
    example = (torch.zeros(EXAMPLE_BATCH, *(sizes.example if sizes else size), 3, dtype=torch.uint8),)
    free: dict[int, Any] = {0: torch.export.Dim.DYNAMIC, **(sizes.free_sides() if sizes else {})}
    try:
        program = torch.export.export(network, example, dynamic_shapes={INPUT: free})
    except Exception as error:  # backbones refuse other sizes in many ways
        if sizes is None:
            raise
        reason = str(error).strip().partition("\n")[0]
        name = network.model.backbone.name
        raise UserError(f"--dynamic-size: the backbone {name} takes no other size ({reason}); leave it out") from error
    exported: Any = torch.onnx.export(
        program,
        dynamo=True,
        input_names=[INPUT],
        output_names=network.outputs,
        verbose=False,
    )
    exported.save(path, external_data=False)
