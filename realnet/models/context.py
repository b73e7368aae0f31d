"""The coarse pass beside the tiles: a whole photograph, measured by what is normal at each place (Tiles)."""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from realnet.models.gaussian import Moments, PositionGaussian, shrink
from realnet.models.normal import root_mean_square

NUM_CHANNELS, SEED = 100, 0
"""So many of all selected channels are drawn, as in PaDiM: a covariance has the square of their number."""
STRIDE = 16
"""Pixels of the shrunk photograph from one place to the next."""
SHRINKAGE = 0.5
UNFITTED = -100.0
"""The offset of maps that are 0 everywhere, until they are fitted."""


class Context(nn.Module):
    """Find what is wrong with a photograph as a whole, such as a missing part (docs/method.md, Tiles).

    Each place has a Gaussian of the normal features there (PaDiM, arXiv 2011.08785). The distance d from it, in
    deviations, becomes a map sigmoid(a·d + b) for each map of the tiles, in whose unit it then is.

    Args:
        num_channels: selected channels of all blocks together.
        image_size: (height, width) of the shrunk photograph, which is a tile's.
    """

    channels: Tensor
    slopes: Tensor
    offsets: Tensor

    def __init__(self, num_channels: int, image_size: Sequence[int]) -> None:
        super().__init__()
        self.image_size = (image_size[0], image_size[1])
        numbers = torch.Generator().manual_seed(SEED)
        drawn = torch.randperm(num_channels, generator=numbers, device="cpu")[:NUM_CHANNELS].sort().values
        self.gaussian = PositionGaussian(len(drawn), [math.ceil(side / STRIDE) for side in image_size])
        self.register_buffer("channels", drawn.to(self.gaussian.mean.device))
        self.register_buffer("slopes", torch.zeros(2))
        self.register_buffer("offsets", torch.full((2,), UNFITTED))

    def features(self, selected: Mapping[str, Tensor]) -> Tensor:
        """Return the drawn channels of the selected features (B, C, h, w), by block, averaged at each place."""
        pooled = [F.adaptive_avg_pool2d(values.float(), self.gaussian.size) for values in selected.values()]
        return torch.cat(pooled, dim=1)[:, self.channels]

    @torch.no_grad()
    def fit(self, moments: Moments, ridge: float) -> None:
        """Store the Gaussian of each place, by the moments of normal photographs' features."""
        self.gaussian.fit(moments.mean(), shrink(moments.covariance(), SHRINKAGE, ridge))

    def distances(self, selected: Mapping[str, Tensor]) -> Tensor:
        """Return how far photographs are from normal ones, (B, 1, H, W), in deviations, from selected features."""
        return root_mean_square([self.gaussian(self.features(selected)).square()], self.image_size)

    def forward(self, selected: Mapping[str, Tensor]) -> Tensor:
        """Return maps (B, 2, H, W) in (0, 1): in the unit of the tiles' anomaly map, and of their scored map."""
        distances = self.distances(selected)
        return torch.sigmoid(self.slopes[:, None, None] * distances + self.offsets[:, None, None])
