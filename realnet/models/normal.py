"""Features measured by what is normal, and maps fused in these units (docs/method.md, Normal statistics, Fusion)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from realnet.models.gaussian import Moments

SIGNALS = ("logit", "residual", "distance", "nearest", "deep")
"""The maps that fusion joins: RRS's logit, the reconstruction's residual, and the distances from normality: from the
Gaussian at the position, from the nearest normal feature anywhere, and of deep features from their Gaussian."""
BLUR_SIGMA, BLUR_SIDE = 4.0, 33
"""In pixels of the input; features are coarser than images, so their maps are blocky without a blur."""
HALF_WAY = 4.0
"""Deviations from normality that the fused map shows as about 1/2; 0 deviations are 1/9."""
CENTRING = 0.5
"""The share of an image's median that its map is lowered by."""


class ChannelScale(nn.Module):
    """Standardise each channel by the normal features' mean and deviation over all positions.

    See docs/method.md, Normal statistics.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))

    @torch.no_grad()
    def fit(self, moments: Moments, ridge: float) -> "ChannelScale":
        """Store mean and deviation over images and positions; return the module.

        A variance is at least ``ridge`` times the mean of all channels': a channel that hardly varies would outweigh
        the others, and rounding may make its variance negative.
        """
        mean = moments.mean()  # (P, C)
        spread = torch.diagonal(moments.covariance(), dim1=1, dim2=2).mean(dim=0)
        variance = spread + mean.var(dim=0, correction=0)
        self.mean.copy_(mean.mean(dim=0))
        self.deviation.copy_(variance.maximum(ridge * variance.mean()).clamp_min(1e-12).sqrt())
        return self

    def forward(self, features: Tensor) -> Tensor:
        """Return standardised features (B, C, h, w); normal ones have mean 0 and deviation 1."""
        return (features.float() - self.mean[:, None, None]) / self.deviation[:, None, None]


class Fusion(nn.Module):
    """Join maps of different scales: Σ_k w_k·(m_k - c_k)/s_k, squashed to (0, 1) (docs/method.md, Fusion).

    The centre c_k is the mean of map k over held-out normal images at each pixel: maps are hot along the edges. The
    scale s_k is one deviation from it: the distance from the median to the 84th percentile. What finds pixels best is
    not what tells images apart best, so the anomaly map and the image score have weights of their own.

    Args:
        image_size: (H, W) of the maps.
        has_deep: whether the detector has deep features, the last of ``SIGNALS``.
    """

    weights: Tensor
    score_weights: Tensor
    centres: Tensor
    scales: Tensor

    def __init__(self, image_size: Sequence[int], *, has_deep: bool = False) -> None:
        super().__init__()
        self.signals = SIGNALS if has_deep else SIGNALS[:-1]
        alone = torch.eye(len(self.signals))[0]  # the logit, until the fusion is fitted
        self.register_buffer("weights", alone)
        self.register_buffer("score_weights", alone.clone())
        self.register_buffer("centres", torch.zeros(len(self.signals), *image_size))
        self.register_buffer("scales", torch.ones(len(self.signals)))

    def forward(self, signals: Tensor) -> Tensor:
        """Join maps (B, K, H, W), in the order of ``signals``.

        Returns:
            (B, 2, H, W) in (0, 1): the anomaly map, and the map that the image score is taken from.
        """
        deviations = (signals - self.centres) / self.scales[:, None, None]
        joined, scored = (
            (weights[:, None, None] * deviations).sum(dim=1, keepdim=True)
            for weights in (self.weights, self.score_weights)
        )
        return torch.cat([squash(centred(joined)), squash(scored)], dim=1)


def centred(maps: Tensor) -> Tensor:
    """Lower each map of (B, 1, H, W) by half of its median (docs/method.md, Fusion).

    Images differ in style as a whole, and a threshold of pixels is the same for all of them.
    """
    medians = _median(maps.flatten(1))
    return maps - CENTRING * medians[:, None, None, None]


def _median(values: Tensor) -> Tensor:
    """Return the (lower) median of each row of (N, P); an export sorts, because ONNX has no median."""
    if torch.compiler.is_exporting():
        return values.sort(dim=1).values.narrow(1, (values.shape[1] - 1) // 2, 1).squeeze(1)
    return values.median(dim=1).values


def squash(deviations: Tensor) -> Tensor:
    """Map deviations z from normality to (0, 1), strictly rising: u/(κ + u) with u = (z + √(z² + 1))/2.

    Normal pixels come out near 0, so their heatmaps are cold. Unlike a sigmoid, this function does not saturate, so
    strong anomalies keep their order (docs/method.md, Fusion). κ is ``HALF_WAY``.
    """
    root = (deviations.square() + 1).sqrt()
    positive = torch.where(deviations < 0, 0.5 / (root - deviations), (root + deviations) / 2)  # no cancellation
    return positive / (HALF_WAY + positive)


def root_mean_square(by_block: Sequence[Tensor], image_size: Sequence[int]) -> Tensor:
    """Return √(mean over the channels of all blocks), smoothed, (B, 1, H, W) (docs/method.md, Fusion).

    Args:
        by_block: squares (B, C_b, h_b, w_b): residuals or squared whitened features.
        image_size: (H, W) of the result.
    """
    size = max((squares.shape[-2:] for squares in by_block), key=lambda size: size[0] * size[1])
    number = sum(squares.shape[1] for squares in by_block)
    sums = [squares.float().sum(dim=1, keepdim=True) for squares in by_block]
    sums = [F.interpolate(part, size=size, mode="bilinear", align_corners=False) for part in sums]
    root = (torch.stack(sums).sum(dim=0) / number).sqrt()
    return smooth(F.interpolate(root, size=tuple(image_size), mode="bilinear", align_corners=False))


def smooth(maps: Tensor) -> Tensor:
    """Blur maps (B, 1, H, W) by a Gaussian of ``BLUR_SIGMA`` pixels, mirrored at the edges (docs/method.md, Fusion)."""
    radius = min(BLUR_SIDE // 2, *(length - 1 for length in maps.shape[-2:]))
    offsets = torch.arange(-radius, radius + 1, device=maps.device, dtype=torch.float32)
    kernel = (-offsets.square() / (2 * BLUR_SIGMA**2)).exp()
    kernel = kernel / kernel.sum()
    padded = F.pad(maps.float(), (radius, radius, radius, radius), mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel[None, None, None]), kernel[None, None, :, None])
