"""The feature levels of a network, measured on hollow images rather than taken from what the network claims."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

ImageSize = tuple[int, int]
Shape = tuple[int, int, int, int]
GROWTH = 448  # px, a multiple of every stride that is in use: 7, 14 and the powers of two up to 64


@dataclass(frozen=True)
class Output:
    """How a level lies in what a network returns.

    Attributes:
        position: its number among the returned maps.
        channels: of the map.
        stride: pixels of the image that a step of the map spans.
        channels_last: (B, H, W, C) instead of (B, C, H, W).
        sides: (height, width) of the map.
    """

    position: int
    channels: int
    stride: int
    channels_last: bool
    sides: tuple[int, int]

    def read(self, maps: Sequence[Tensor]) -> Tensor:
        """Return this level of a network's maps as (B, C, H, W)."""
        found = maps[self.position]
        return found.permute(0, 3, 1, 2) if self.channels_last else found


def returned(features: Any) -> list[Tensor]:
    """Return the maps that a network gave, in its order."""
    return list(features.values() if isinstance(features, Mapping) else features)


def probe(network: nn.Module, image_size: ImageSize) -> tuple[Output, ...]:
    """Measure the maps that a network gives, by stride, and of one stride by depth.

    Whatever the network raises for ``image_size`` is passed on.

    Args:
        network: on the meta device this costs nothing but the calls.
        image_size: (height, width).

    Raises:
        ValueError: where an output is no map of features.
    """
    shapes = _shapes(network, image_size)
    try:
        larger: list[Shape] | list[None] = _shapes(network, (image_size[0] + GROWTH, image_size[1] + GROWTH))
    except Exception:  # made for one size: networks say so in many ways
        larger = [None] * len(shapes)
    prefers_last = str(getattr(network, "output_fmt", "NCHW")).endswith("NHWC")
    outputs = [
        output_of(position, shape, other, image_size, prefers_last=prefers_last)
        for position, (shape, other) in enumerate(zip(shapes, larger, strict=True))
    ]
    return tuple(sorted(outputs, key=lambda output: output.stride))


@torch.no_grad()
def _shapes(network: nn.Module, image_size: ImageSize) -> list[Shape]:
    device = next(network.parameters()).device
    maps = returned(network(torch.zeros(1, 3, *image_size, device=device)))
    for found in maps:
        if not isinstance(found, Tensor) or found.ndim != 4:
            kind = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"a level of it is {kind}, no map (B, C, H, W)")
    return [shape_of(found) for found in maps]


def shape_of(found: Tensor) -> Shape:
    """Return the shape of a map, whichever of its axes are its sides."""
    batch, *others = found.shape
    return batch, others[0], others[1], others[2]


def output_of(
    position: int, shape: Shape, larger: Shape | None, image_size: ImageSize, *, prefers_last: bool = False
) -> Output:
    """Tell channels from sides by what grows with the image, and the stride by how fast it grows.

    Args:
        position: among the network's maps.
        shape: of the map of an image of ``image_size``.
        larger: of that of an image larger by ``GROWTH``; None: the network takes none.
        image_size: (height, width).
        prefers_last: whether the network says that its channels come last, which counts where nothing grows.
    """
    if larger is None or larger == shape:  # made for one size, or resizes its images itself
        last = prefers_last
        stride = nearest_stride(image_size[0] / shape[1 if last else 2])
    else:
        last = shape[1] != larger[1]
        stride = nearest_stride(GROWTH / (larger[1 if last else 2] - shape[1 if last else 2]))
    return Output(position, shape[3 if last else 1], stride, last, shape[1:3] if last else shape[2:4])


def nearest_stride(ratio: float) -> int:
    """Return a whole ratio itself, else the nearest power of two: maps without padding lack some of their border."""
    return int(ratio) if ratio.is_integer() else 2 ** max(0, round(math.log2(ratio)))
