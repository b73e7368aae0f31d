"""How fast the forward process adds noise: one beta for each of its T steps."""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

NoiseSchedule = Literal["linear", "cosine"]

LINEAR_RANGE = (1e-4, 0.02)  # of the first and the last beta at T = 1000 (DDPM, section 4)
MAX_BETA = 0.999  # keeps the cosine schedule from a singularity at t = T


def betas(noise_schedule: NoiseSchedule, num_steps: int) -> NDArray[np.float64]:
    """Return the variance that each forward step adds.

    ``linear`` runs from 1e-4 to 0.02, scaled by 1000 / T so that the last noise level does not depend on T. ``cosine``
    is improved DDPM's equation 17.

    Args:
        noise_schedule: the schedule's name.
        num_steps: T, at least 1.

    Returns:
        (T,) float64 in (0, 1).

    Raises:
        ValueError: for an unknown name, or for a T that leaves a beta outside (0, 1).
    """
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; give at least 1")
    if noise_schedule == "linear":
        return _linear(num_steps)
    if noise_schedule == "cosine":
        return _cosine(num_steps)
    raise ValueError(f"noise_schedule is {noise_schedule!r}; choose 'linear' or 'cosine'")


def _linear(num_steps: int) -> NDArray[np.float64]:
    first, last = (1000 / num_steps * beta for beta in LINEAR_RANGE)
    if last >= 1:
        raise ValueError(f"num_steps is {num_steps}: the linear schedule's last beta would be {last:g}; give over 20")
    return np.linspace(first, last, num_steps, dtype=np.float64)


def _cosine(num_steps: int) -> NDArray[np.float64]:
    time = np.arange(num_steps + 1, dtype=np.float64) / num_steps
    alphas_cumprod = np.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.minimum(1 - alphas_cumprod[1:] / alphas_cumprod[:-1], MAX_BETA)
