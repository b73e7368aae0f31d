"""Simple detectors on the same features, PaDiM and nearest neighbours, to show what training gains.

Fitting them to normal images takes seconds to minutes; they use no anomalies.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from realnet.config import RealNetConfig
from realnet.detection.checkpoints import ReferenceName
from realnet.errors import UserError
from realnet.models.backbone import Level
from realnet.models.gaussian import Moments, PositionGaussian, by_position
from realnet.models.known_features import KnownFeatures
from realnet.models.nearest import STRIDES, NearestNeighbour, average_3x3, greedy_coreset
from realnet.models.normal import smooth


class ReferenceOutput(NamedTuple):
    """Anomaly maps (B, H, W), of any scale, and image scores (B,)."""

    maps: Tensor
    scores: Tensor


class Reference(ABC):
    """A detector that is fitted to normal features.

    Args:
        known: the feature extractor, ready for use.
        levels: the levels of the backbone to use.
        image_size: (H, W) of the images and maps.
        seed: seed of random choices.
    """

    def __init__(
        self, known: KnownFeatures, levels: Sequence[Level], image_size: tuple[int, int], *, seed: int = 0
    ) -> None:
        self.known, self.levels, self.image_size = known, list(levels), image_size
        self.generator = torch.Generator().manual_seed(seed)

    @abstractmethod
    def fit(self, images: Iterable[Tensor]) -> None:
        """Fit to batches of normal images (B, 3, H, W), ImageNet-normalised."""

    @abstractmethod
    def predict(self, images: Tensor) -> ReferenceOutput:
        """Score images (B, 3, H, W), ImageNet-normalised."""

    @torch.inference_mode()
    def _levels(self, images: Tensor) -> list[Tensor]:
        features = self.known(images)
        return [features[level.name] for level in self.levels]

    def _smooth(self, distances: Tensor) -> Tensor:
        """Resize distance maps (B, 1, h, w) to the image's size and smooth them; return (B, H, W)."""
        maps = F.interpolate(distances, size=self.image_size, mode="bilinear", align_corners=False)
        return smooth(maps)[:, 0]


class PaDiM(Reference):
    """A Gaussian of normal features at each position (PaDiM, arXiv 2011.08785).

    Levels are resized to the finest one, and ``NUM_CHANNELS`` of their channels are chosen at random. ``RIDGE`` is
    added to the diagonal of the covariance. The map holds Mahalanobis distances, and the image score is its maximum.
    """

    NUM_CHANNELS, RIDGE = 100, 0.01

    def fit(self, images: Iterable[Tensor]) -> None:
        """Fit the mean and covariance of each position in one pass over the images."""
        number = sum(level.channels for level in self.levels)
        self.channels = torch.randperm(number, generator=self.generator)[: self.NUM_CHANNELS].sort().values
        moments: Moments | None = None
        for batch in images:
            features = self._embed(batch)
            if moments is None:
                moments, self._size = Moments.empty(by_position(features).mean(dim=1)), features.shape[-2:]
            moments.add(features)
        if moments is None or moments.count < 2:
            raise UserError("PaDiM needs at least 2 normal training images; add images, or leave --references out")
        covariance = moments.covariance()
        torch.diagonal(covariance, dim1=1, dim2=2).add_(self.RIDGE)
        gaussian = PositionGaussian(covariance.shape[1], self._size).to(covariance.device)
        self._gaussian = gaussian.fit(moments.mean(), covariance)

    def predict(self, images: Tensor) -> ReferenceOutput:
        """Return maps of Mahalanobis distances, and their maxima as scores."""
        white = self._gaussian(self._embed(images))
        maps = self._smooth(white.square().sum(dim=1, keepdim=True).sqrt())
        return ReferenceOutput(maps, maps.amax(dim=(1, 2)))

    def _embed(self, images: Tensor) -> Tensor:
        levels = self._levels(images)
        size = max((level.shape[-2:] for level in levels), key=lambda size: size[0] * size[1])
        joined = torch.cat([F.interpolate(level, size=size, mode="nearest") for level in levels], dim=1)
        return joined[:, self.channels.to(joined.device)]


class Nearest(Reference):
    """The distance to the nearest feature in a coreset of normal features (PatchCore, arXiv 2106.08265).

    Features are averaged with their neighbours. As in PatchCore's paper, the levels of strides 8 and 16 are joined at
    the size of the finer one; a backbone without such levels uses all of them. The image score is the largest distance,
    weighted by how isolated its nearest neighbour is (PatchCore, Eq. 7).
    """

    SHARE, NUM_SUPPORT = 0.01, 9

    def fit(self, images: Iterable[Tensor]) -> None:
        """Collect the features of all images and keep a greedy coreset with a share of ``SHARE``."""
        self.levels = [level for level in self.levels if level.stride in STRIDES] or self.levels
        rows = [self._embed(batch).movedim(1, 3).flatten(0, 2) for batch in images]
        if not rows:
            raise UserError("nearest neighbours need a normal training image; add images, or leave --references out")
        features = torch.cat(rows)
        chosen = greedy_coreset(features, max(1, round(self.SHARE * len(features))), self.generator)
        self._nearest = NearestNeighbour(features[chosen])

    def predict(self, images: Tensor) -> ReferenceOutput:
        """Return maps of distances to the nearest normal feature, and their weighted maxima as scores."""
        features = self._embed(images)
        distances = self._nearest(features)
        maps = self._smooth(distances)
        worst, position = distances.flatten(1).max(dim=1)
        rows = features.flatten(2).gather(2, position[:, None, None].expand(-1, features.shape[1], 1))[..., 0]
        return ReferenceOutput(maps, worst * self._isolation(rows))

    def _isolation(self, rows: Tensor) -> Tensor:
        """Return the weights (B,) of the worst features (B, C), one for each image."""
        memory = self._nearest.memory
        neighbour = torch.cdist(rows, memory).argmin(dim=1)
        support = torch.cdist(memory[neighbour], memory).topk(min(self.NUM_SUPPORT, len(memory)), largest=False).indices
        distances = torch.cdist(rows[:, None], memory[support])[:, 0]  # the nearest one comes first
        return 1 - distances.softmax(dim=1)[:, 0] if len(memory) > 1 else torch.ones(len(rows), device=rows.device)

    def _embed(self, images: Tensor) -> Tensor:
        levels = [average_3x3(level) for level in self._levels(images)]
        size = max((level.shape[-2:] for level in levels), key=lambda size: size[0] * size[1])
        resized = [F.interpolate(level, size=size, mode="bilinear", align_corners=False) for level in levels]
        return torch.cat(resized, dim=1)


def require_whole(config: RealNetConfig) -> None:
    """Raise UserError if a detector sees photographs in tiles."""
    if config.tiles:
        raise UserError(
            "--references see photographs whole, as PaDiM knows each position of them, and this detector sees tiles; "
            "leave --references out, or give --set tiles=null --references only to learn what whole photographs show"
        )


def build_reference(
    name: ReferenceName, known: KnownFeatures, image_size: tuple[int, int], *, seed: int = 0
) -> Reference:
    """Build a reference detector on the known levels of a backbone, not yet fitted.

    Raises:
        UserError: if the backbone has no such level.
    """
    kinds: Mapping[ReferenceName, type[Reference]] = {"padim": PaDiM, "nearest": Nearest}
    levels = [known.backbone.level(level) for level in known.levels]
    return kinds[name](known, levels, image_size, seed=seed)
