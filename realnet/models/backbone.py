"""The frozen feature extractor: any timm model, or any torchvision model as ``torchvision/<name>``."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from realnet.errors import UserError
from realnet.models import checkpoint, packages
from realnet.models import weights as files
from realnet.models.extractors import TORCHVISION, build_extractor, measure
from realnet.models.levels import ImageSize, Output, returned
from realnet.models.statistics import IMAGENET, Renormalise, Statistics


@dataclass(frozen=True)
class Level:
    """A feature level; ``layer1`` is the finest (docs/method.md, Backbone)."""

    name: str
    channels: int
    stride: int


def measure_levels(name: str, image_size: ImageSize | None = None) -> tuple[Level, ...]:
    """Return a backbone's levels without its weights (docs/method.md, Backbone).

    Raises:
        UserError: as :class:`Backbone`.
    """
    return _named(measure(name, image_size))


def find_level(levels: Sequence[Level], name: str, backbone: str) -> Level:
    """Return a level by its name (docs/method.md, Backbone).

    Raises:
        UserError: where the backbone has no such level; names those it has.
    """
    for level in levels:
        if level.name == name:
            return level
    known = ", ".join(f"{level.name} ({level.channels} channels, stride {level.stride})" for level in levels)
    raise UserError(f"the backbone {backbone} has no level {name!r}; it has {known}; blocks: auto takes what fits")


class Backbone(nn.Module):
    """Extract feature levels; frozen, and always in eval mode (docs/method.md, Backbone).

    Args:
        name: a timm model (``wide_resnet50_2.racm_in1k``) or ``torchvision/<name>``.
        weights: ``hub`` (the model's own, downloaded once), ``package`` (:mod:`realnet.models.packages`), ``none``
            (random, the same at each start), ``given`` (a checkpoint will bring them), or a file with the model's
            state dict.
        image_size: (height, width) of the images to come; None: that which the model is made for.
        statistics: what its images are normalised by; None: the model's own.

    Raises:
        UserError: for an unknown model, one without feature levels, one that does not take the image size, and for
            weights that are absent or do not fit.
    """

    def __init__(
        self,
        name: str,
        weights: str = "hub",
        *,
        image_size: ImageSize | None = None,
        statistics: Statistics | None = None,
    ) -> None:
        super().__init__()
        self.name, self.weights = name, weights
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            extractor = build_extractor(name, pretrained=weights == "hub", image_size=image_size)
        self.feature_extractor, self._outputs = extractor.network, extractor.outputs
        self.levels = _named(extractor.outputs)
        if weights == "package":
            packages.load_package(self.feature_extractor, name)
            statistics = statistics or packages.find_package(name).statistics
        elif weights not in {"hub", "none", "given"}:
            files.load_file(self.feature_extractor, Path(weights), name)
        self.statistics = statistics or extractor.statistics
        self._renormalise = nn.Identity() if self.statistics == IMAGENET else Renormalise(self.statistics)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Backbone":  # noqa: ARG002 - torch's signature
        """Stay in eval mode."""
        return super().train(False)

    def level(self, name: str) -> Level:
        """Return a level by its name.

        Raises:
            UserError: where the model has no such level; names those it has.
        """
        return find_level(self.levels, name, self.name)

    @cached_property
    def checksum(self) -> str:
        """A SHA-256 over the weights, which are frozen."""
        return checkpoint.checksum(self.feature_extractor.state_dict())

    def identity(self) -> str:
        """Return which features these are: the checksum, and the images' statistics where they are not ImageNet's."""
        return self.checksum + ("" if self.statistics == IMAGENET else f", images of {self.statistics}")

    def facts(self) -> dict[str, Any]:
        """Return what a checkpoint says of the backbone that its detector was trained on."""
        return {
            "name": self.name,
            "license": self.license(),
            "checksum": self.checksum,
            "mean": list(self.statistics.mean),
            "std": list(self.statistics.std),
            "levels": self.listed_levels(),
        }

    def license(self) -> str:
        """Return the licence of the weights, as far as their source says."""
        if self.weights == "none":
            return "none needed: random weights"
        if self.weights == "package":
            package = packages.find_package(self.name)
            return f"{package.license} ({package.source})"
        if self.weights != "hub":
            return f"that of the file {Path(self.weights).name}"
        if self.name.startswith(TORCHVISION):
            return "BSD-3-Clause (torchvision)"
        stated: Any = getattr(self.feature_extractor, "pretrained_cfg", {})
        return f"{stated.get('license') or 'not stated'} (timm)"

    def listed_levels(self) -> list[list[str | int]]:
        """Return the levels as plain values: name, channels, stride."""
        return [[level.name, level.channels, level.stride] for level in self.levels]

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Map ImageNet-normalised images (B, 3, H, W) to the levels (B, channels, H/stride, W/stride), by name.

        A model that was trained on images of other statistics gets them normalised by these.
        """
        maps = returned(self.feature_extractor(self._renormalise(image)))
        return {level.name: output.read(maps) for level, output in zip(self.levels, self._outputs, strict=True)}


def _named(outputs: Sequence[Output]) -> tuple[Level, ...]:
    return tuple(Level(f"layer{i}", output.channels, output.stride) for i, output in enumerate(outputs, start=1))
