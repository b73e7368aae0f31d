"""Divergence and likelihood terms of the variational bound, element by element (docs/method.md, Diffusion loss)."""

import math

import torch
from torch import Tensor

HALF_BIN = 1 / 255  # half the distance between two 8-bit levels on [-1, 1]
SMALLEST = 1e-12


def normal_kl(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """Return KL(N1 ‖ N2) of two diagonal Gaussians (docs/method.md, Diffusion loss).

    The result is in nats, element by element, in the broadcast shape of the arguments.
    """
    log_ratio = log_variance2 - log_variance1
    return 0.5 * (log_ratio - 1 + torch.exp(-log_ratio) + (mean1 - mean2) ** 2 * torch.exp(-log_variance2))


def discretised_gaussian_log_likelihood(x: Tensor, *, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Return the log-probability that a Gaussian gives to the 8-bit levels of an image (DDPM, equation 13).

    Args:
        x: (B, C, H, W) in [-1, 1], each value at the centre of one of 256 bins; the outermost bins reach to infinity.
        mean: (B, C, H, W).
        log_scale: (B, C, H, W), logarithm of the standard deviation.

    Returns:
        (B, C, H, W) in nats.
    """
    inverse_scale = torch.exp(-log_scale)
    below_upper = _standard_normal_cdf((x - mean + HALF_BIN) * inverse_scale)
    below_lower = _standard_normal_cdf((x - mean - HALF_BIN) * inverse_scale)
    probability = torch.where(x > 0.999, 1 - below_lower, below_upper - below_lower)
    return torch.where(x < -0.999, below_upper, probability).clamp(min=SMALLEST).log()


def _standard_normal_cdf(x: Tensor) -> Tensor:
    # The tanh approximation instead of erf, as in the published losses.
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
