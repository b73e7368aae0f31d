"""Gaussians of normal features, one for each position (docs/method.md, Normal statistics)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from realnet.errors import UserError

POSITIONS_AT_ONCE = 256
"""Positions whose covariances are factorised together, which bounds the memory beside the result."""


@dataclass
class Moments:
    """Sums over normal features at each of P positions, for mean and covariance (docs/method.md, Normal statistics).

    Features are summed relative to ``origin``. Float32 then suffices, because a covariance is not the small difference
    of two large numbers.

    Attributes:
        origin: (P, C), any features near the mean.
        count: how many feature maps have been added.
        first: (P, C), Σ (f - origin).
        second: (P, C, C), Σ (f - origin)(f - origin)ᵀ.
    """

    origin: Tensor
    count: int
    first: Tensor
    second: Tensor

    @classmethod
    def empty(cls, origin: Tensor) -> "Moments":
        """Return the moments of no features, relative to an origin (P, C)."""
        positions, channels = origin.shape
        return cls(origin, 0, torch.zeros_like(origin), origin.new_zeros(positions, channels, channels))

    def add(self, features: Tensor) -> None:
        """Add feature maps (B, C, h, w) with h·w = P."""
        centred = by_position(features) - self.origin[:, None]  # (P, B, C)
        self.count += len(features)
        self.first += centred.sum(dim=1)
        self.second.baddbmm_(centred.mT, centred)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.origin, self.count + other.count, self.first + other.first, self.second + other.second)

    def __sub__(self, other: "Moments") -> "Moments":
        return Moments(self.origin, self.count - other.count, self.first - other.first, self.second - other.second)

    def mean(self) -> Tensor:
        """Return the mean at each position, (P, C)."""
        return self.origin + self.first / self.count

    def covariance(self) -> Tensor:
        """Return the unbiased covariance at each position, (P, C, C)."""
        mean = self.first / self.count
        centred = self.second - self.count * mean[:, :, None] * mean[:, None, :]
        return centred.div_(max(self.count - 1, 1))


def by_position(features: Tensor) -> Tensor:
    """Return feature maps (B, C, h, w) as (P, B, C), by position (docs/method.md, Normal statistics)."""
    return features.flatten(2).permute(2, 0, 1).contiguous()


def shrink(covariance: Tensor, shrinkage: float, ridge: float) -> Tensor:
    """Shrink covariances towards their mean over the positions, in place; return them.

    Σ_p ← (1 - α)·Σ_p + α·(tr Σ_p / tr Σ̄)·Σ̄ + ε·(tr Σ̄ / C)·I, with Σ̄ the mean over the positions: each position keeps
    its own variance (docs/method.md, Normal statistics).

    Args:
        covariance: Σ_p, (P, C, C).
        shrinkage: α in [0, 1].
        ridge: ε > 0, which keeps the covariance of few images invertible.
    """
    pooled = covariance.mean(dim=0)
    variance = torch.diagonal(pooled).mean().clamp_min(1e-12)
    for part in covariance.split(POSITIONS_AT_ONCE):
        scales = torch.diagonal(part, dim1=1, dim2=2).mean(dim=1) / variance
        part.mul_(1 - shrinkage).add_(shrinkage * scales[:, None, None] * pooled)
        torch.diagonal(part, dim1=1, dim2=2).add_(ridge * variance)
    return covariance


class Gaussians(nn.Module):
    """Gaussians of normal features at P places (docs/method.md, Normal statistics).

    w_p = L_p⁻¹ (f_p - μ_p) with Σ_p = L_p L_pᵀ: normal features have zero mean and unit covariance afterwards, and
    ‖w_p‖² is the squared Mahalanobis distance.

    Args:
        places: P.
        channels: C of the features.
    """

    mean: Tensor
    whitening: Tensor

    def __init__(self, places: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(places, channels))
        self.register_buffer("whitening", torch.eye(channels).repeat(places, 1, 1))

    @torch.no_grad()
    def fit(self, mean: Tensor, covariance: Tensor) -> Self:
        """Store the mean (P, C) and the positive definite covariance (P, C, C) of each place; return the module."""
        self.mean.copy_(mean)
        identity = torch.eye(covariance.shape[1], device=covariance.device, dtype=covariance.dtype)
        for start in range(0, len(covariance), POSITIONS_AT_ONCE):
            part = slice(start, start + POSITIONS_AT_ONCE)
            factor, failed = torch.linalg.cholesky_ex(covariance[part])
            if failed.any():
                raise UserError(
                    "the covariance of normal features cannot be inverted; set features.ridge or features.shrinkage "
                    "higher, or add images"
                )
            self.whitening[part] = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)
        return self


class PositionGaussian(Gaussians):
    """Whiten features by the Gaussian of the normal ones at their position (docs/method.md, Normal statistics).

    Args:
        channels: C.
        size: (h, w) of the feature maps.
    """

    def __init__(self, channels: int, size: Sequence[int]) -> None:
        super().__init__(size[0] * size[1], channels)
        self.size = (size[0], size[1])

    def forward(self, features: Tensor) -> Tensor:
        """Return whitened features (B, C, h, w)."""
        centred = by_position(features.float()) - self.mean[:, None]
        white = torch.bmm(centred, self.whitening.mT)  # (P, B, C)
        return white.permute(1, 2, 0).unflatten(2, self.size).contiguous()


class PooledGaussian(Gaussians):
    """Whiten features by one Gaussian of the normal ones at all positions (docs/method.md, Normal statistics).

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(1, channels)

    def forward(self, features: Tensor) -> Tensor:
        """Return whitened features (B, C, h, w), of any height and width."""
        centred = features.float().movedim(1, 3) - self.mean  # (B, h, w, C)
        return (centred @ self.whitening[0].mT).movedim(3, 1).contiguous()
