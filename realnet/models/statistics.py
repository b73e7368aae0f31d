"""What images are normalised by, and from one normalisation to another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

Colour = tuple[float, float, float]
"""Of red, green and blue, where white is 1."""


@dataclass(frozen=True)
class Statistics:
    """The mean and deviation of the images that a network was trained on."""

    mean: Colour
    std: Colour

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float]) -> Self:
        """Return what a library or a checkpoint says as lists, of one number or three."""
        return cls(_colour(mean), _colour(std))

    def __str__(self) -> str:
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        return f"mean {mean}, deviation {std}"


def _colour(values: Sequence[float]) -> Colour:
    red, green, blue = values if len(values) == 3 else (values[0],) * 3
    return float(red), float(green), float(blue)


IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Renormalise(nn.Module):
    """Turn images that are normalised by ImageNet's statistics into images normalised by others.

    (x·σ + μ - μ')/σ' as one multiplication and one addition, by colour. No part of any state dict.
    """

    def __init__(self, statistics: Statistics) -> None:
        super().__init__()
        triples = zip(IMAGENET.mean, IMAGENET.std, statistics.mean, statistics.std, strict=True)
        factors = [(std / own_std, (mean - own_mean) / own_std) for mean, std, own_mean, own_std in triples]
        scale, offset = torch.tensor(factors).T.reshape(2, 3, 1, 1)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("offset", offset, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        return image * self.get_buffer("scale") + self.get_buffer("offset")
