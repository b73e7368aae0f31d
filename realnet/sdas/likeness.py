"""Measure how far samples are from normal images (docs/method.md, Readiness); normal images themselves have distance 1.

Features describe an image: the mean and spread of each channel, and the amplitude in octaves of detail. Each feature is
measured in units of its variation among the normal images of the class. No network is needed, and noise, blur and wrong
colours all raise the distance. On the toy set, noise of deviation 0.1 (images in [-1, 1]) gives 1.7, and 0.2 gives 3.4;
colours that are off by 0.1 give 1.7, and 0.2 gives 2.8.
"""

import math

import torch
from torch import Tensor

NUM_OCTAVES = 4
LEAST_SPREAD, LEAST_LOG_SPREAD = 0.02, 0.1
"""The smallest visible differences: of channel means and spreads (2.5 grey levels), and of log amplitudes (10 %)."""


def sample_distance(samples: Tensor, sample_classes: Tensor, normal: Tensor, normal_classes: Tensor) -> float:
    """Return the distance of samples from normal images, relative to the spread of normal images.

    √mean(((f - μ_class) / σ_class)²) over samples and features f (docs/method.md, Readiness). It is about 1 if samples
    vary as normal images do.

    Args:
        samples: (B, 3, H, W), clipped to [-1, 1].
        sample_classes: (B,), class numbers.
        normal: (N, 3, H, W) in [-1, 1], at least one image of each class in ``sample_classes``.
        normal_classes: (N,), class numbers.
    """
    found, expected = features(samples.clamp(-1, 1)), features(normal)
    parts = []
    for index in sample_classes.unique():
        of_class = expected[normal_classes == index]
        spread = of_class.std(dim=0, correction=0).clamp_min(1)
        parts.append((found[sample_classes == index] - of_class.mean(dim=0)) / spread)
    return float(torch.cat(parts).square().mean().sqrt())


def features(images: Tensor) -> Tensor:
    """Return features (B, 6 + octaves) of images (B, 3, H, W) in [-1, 1], in units of smallest visible differences."""
    mean, spread = images.mean(dim=(2, 3)), images.std(dim=(2, 3))
    power = torch.fft.rfft2(images - mean[:, :, None, None], norm="ortho").abs().square().mean(dim=1)
    octave = _octaves(images.shape[2], images.shape[3])
    amplitudes = [power[:, octave == number].mean(dim=1) for number in range(NUM_OCTAVES)]
    logs = 0.5 * (torch.stack(amplitudes, dim=1) + 1e-6).log()
    return torch.cat([mean / LEAST_SPREAD, spread / LEAST_SPREAD, logs / LEAST_LOG_SPREAD], dim=1)


def _octaves(height: int, width: int) -> Tensor:
    """Number the octaves of ``rfft2``: 0 from 1/4 cycle per pixel up, 1 from 1/8, …; the mean has -1."""
    rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)
    frequency = (rows.square() + columns.square()).sqrt()
    number = (-(frequency.clamp_min(1e-9) * 2).log() / math.log(2)).floor().clamp_min(0)
    return torch.where(frequency > 0, number, -1)
