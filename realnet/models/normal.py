"""Features measured by what is normal, and maps fused in these units (docs/method.md, Normal statistics, Fusion)."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from realnet.models.gaussian import Moments

SIGNALS = ("logit", "residual", "distance")
"""What the fused map is made of: RRS's logit, the reconstruction's residual, the distance from normality."""
BLUR_SIGMA, BLUR_SIDE = 4.0, 33
"""Pixels at the input size; features are coarser than images, and their maps blocky without it."""
HALF_WAY = 4.0
"""Deviations from normality that the fused map shows as about 1/2; 0 deviations are 1/9."""


class ChannelScale(nn.Module):
    """Standardise each channel by the normal features' mean and deviation over all positions."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))

    @torch.no_grad()
    def fit(self, moments: Moments) -> "ChannelScale":
        """Take mean and deviation over images and positions."""
        mean = moments.mean()  # (P, C)
        spread = torch.diagonal(moments.covariance(), dim1=1, dim2=2).mean(dim=0)
        self.mean.copy_(mean.mean(dim=0))
        self.deviation.copy_((spread + mean.var(dim=0, correction=0)).sqrt().clamp_min(1e-6))
        return self

    def log_likelihood(self, features: Tensor) -> Tensor:
        """Return each map's mean log density a position and channel, (B,), but for the constant."""
        return -self(features).square().mean(dim=(1, 2, 3)) / 2 - self.deviation.log().mean()

    def forward(self, features: Tensor) -> Tensor:
        """Return features (B, C, h, w) with mean 0 and deviation 1 where they are normal."""
        return (features.float() - self.mean[:, None, None]) / self.deviation[:, None, None]


class Fusion(nn.Module):
    """Join maps of different scales into one: Σ_k w_k·(m_k - c_k)/s_k, then squashed to (0, 1).

    Centre c_k and scale s_k are the median of map k over held-out normal images, and how far its 84th percentile lies
    above it: one deviation, were it a Gaussian.
    """

    weights: Tensor
    centres: Tensor
    scales: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor([1.0, 0.0, 0.0]))  # the logit alone, until the fusion is fitted
        self.register_buffer("centres", torch.zeros(len(SIGNALS)))
        self.register_buffer("scales", torch.ones(len(SIGNALS)))

    def forward(self, signals: Mapping[str, Tensor]) -> Tensor:
        """Join maps (B, 1, H, W), by the names of ``SIGNALS``, into one in (0, 1)."""
        stacked = torch.cat([signals[name].float() for name in SIGNALS], dim=1)  # (B, 3, H, W)
        deviations = (stacked - self.centres[:, None, None]) / self.scales[:, None, None]
        return squash((self.weights[:, None, None] * deviations).sum(dim=1, keepdim=True))


def squash(deviations: Tensor) -> Tensor:
    """Map deviations z from normality to (0, 1), strictly rising: u/(κ + u) with u = (z + √(z² + 1))/2.

    What is normal lies near 0, so that heatmaps of it are cold. Unlike a sigmoid it does not saturate: strong
    anomalies keep their order.
    """
    root = (deviations.square() + 1).sqrt()
    positive = torch.where(deviations < 0, 0.5 / (root - deviations), (root + deviations) / 2)  # no cancellation
    return positive / (HALF_WAY + positive)


def root_mean_square(by_block: Sequence[Tensor], image_size: Sequence[int]) -> Tensor:
    """Return √(mean over all blocks' channels), smoothed, at the image's size: (B, 1, H, W).

    Args:
        by_block: squares (B, C_b, h_b, w_b), such as residuals or squared whitened features.
        image_size: (H, W).
    """
    size = max((squares.shape[-2:] for squares in by_block), key=lambda size: size[0] * size[1])
    number = sum(squares.shape[1] for squares in by_block)
    sums = [squares.float().sum(dim=1, keepdim=True) for squares in by_block]
    sums = [F.interpolate(part, size=size, mode="bilinear", align_corners=False) for part in sums]
    root = (torch.stack(sums).sum(dim=0) / number).sqrt()
    return smooth(F.interpolate(root, size=tuple(image_size), mode="bilinear", align_corners=False))


def smooth(maps: Tensor) -> Tensor:
    """Blur maps (B, 1, H, W) by a Gaussian of ``BLUR_SIGMA`` pixels; beyond the edge they are mirrored."""
    radius = min(BLUR_SIDE // 2, *(length - 1 for length in maps.shape[-2:]))
    offsets = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype)
    kernel = (-offsets.square() / (2 * BLUR_SIGMA**2)).exp()
    kernel = kernel / kernel.sum()
    padded = F.pad(maps, (radius, radius, radius, radius), mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel[None, None, None]), kernel[None, None, :, None])
