"""The detector's losses (docs/method.md, Detector loss)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits (B, 2, H, W) to a mask (B, 1, H, W) in {0, 1}, a scalar.

    See docs/method.md, Detector loss.
    """
    return F.cross_entropy(logits.float(), mask[:, 0].long())


def focal_loss(logits: Tensor, mask: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Return mean(-(1-p)^γ·log p), p = Σ_c y_c·softmax_c + 1e-5, one-hot y clamped to [1e-5, 1-1e-5].

    It can replace the cross-entropy (docs/method.md, Detector loss).

    Args:
        logits: (B, 2, H, W).
        mask: (B, 1, H, W) in {0, 1}.
        gamma: γ; the larger it is, the less the pixels count that are already right.
    """
    one_hot = torch.cat([1 - mask, mask], dim=1).float().clamp(1e-5, 1 - 1e-5)
    p = (one_hot * logits.float().softmax(dim=1)).sum(dim=1) + 1e-5
    return (-(1 - p).pow(gamma) * p.log()).mean()


def reconstruction_loss(reconstructed: Mapping[str, Tensor], clean: Mapping[str, Tensor]) -> Tensor:
    """Return Σ_blocks mean((recon(F_anomalous) - F_clean)²), a scalar (docs/method.md, Detector loss).

    Args:
        reconstructed: recon(F_anomalous), (B, C, h, w) by block.
        clean: F_clean, (B, C, h, w) by block.
    """
    return torch.stack([F.mse_loss(reconstructed[name].float(), clean[name].float()) for name in clean]).sum()
