"""Do samples look like normal images? A distance that 1 stands for normal images themselves.

An image is described by the mean and the spread of its channels and by its amplitude in octaves of detail, and each of
these is measured by how much it varies among the normal images of the class. It takes no network, and noise, blur and
false colours all show in it: on the toy set 0.1 of noise (of [-1, 1]) gives 1.7 and 0.2 gives 3.4; colours that are 0.1
off give 1.7, and 0.2 gives 2.8.
"""

import math

import torch
from torch import Tensor

NUM_OCTAVES = 4
LEAST_SPREAD, LEAST_LOG_SPREAD = 0.02, 0.1
"""Of channel means and spreads (2.5 grey levels), and of log amplitudes (10 %): nobody sees less."""


def sample_distance(samples: Tensor, sample_classes: Tensor, normal: Tensor, normal_classes: Tensor) -> float:
    """Return how far samples are from normal images, over how far these are from their class's mean.

    √mean(((f - μ_class) / σ_class)²) over samples and features f; 1 where samples are spread as normal images are.

    Args:
        samples: (B, 3, H, W) in [-1, 1], clipped to it.
        sample_classes: (B,).
        normal: (N, 3, H, W), at least one of each class in ``sample_classes``.
        normal_classes: (N,).
    """
    found, expected = features(samples.clamp(-1, 1)), features(normal)
    parts = []
    for index in sample_classes.unique():
        of_class = expected[normal_classes == index]
        spread = of_class.std(dim=0, correction=0).clamp_min(1)
        parts.append((found[sample_classes == index] - of_class.mean(dim=0)) / spread)
    return float(torch.cat(parts).square().mean().sqrt())


def features(images: Tensor) -> Tensor:
    """Describe images (B, 3, H, W) in [-1, 1] by (B, 6 + octaves) numbers, in units of what can be seen at all."""
    mean, spread = images.mean(dim=(2, 3)), images.std(dim=(2, 3))
    power = torch.fft.rfft2(images - mean[:, :, None, None], norm="ortho").abs().square().mean(dim=1)
    octave = _octaves(images.shape[2], images.shape[3])
    amplitudes = [power[:, octave == number].mean(dim=1) for number in range(NUM_OCTAVES)]
    logs = 0.5 * (torch.stack(amplitudes, dim=1) + 1e-6).log()
    return torch.cat([mean / LEAST_SPREAD, spread / LEAST_SPREAD, logs / LEAST_LOG_SPREAD], dim=1)


def _octaves(height: int, width: int) -> Tensor:
    """Number the frequencies of ``rfft2``: 0 from a quarter cycle a pixel on, 1 from an eighth …; -1 for the mean."""
    rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)
    frequency = (rows.square() + columns.square()).sqrt()
    number = (-(frequency.clamp_min(1e-9) * 2).log() / math.log(2)).floor().clamp_min(0)
    return torch.where(frequency > 0, number, -1)
