"""The noise schedule: one beta for each of the T forward steps (docs/method.md, Diffusion process)."""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

NoiseSchedule = Literal["linear", "cosine"]

LINEAR_RANGE = (1e-4, 0.02)  # first and last beta at T = 1000
MAX_BETA = 0.999  # avoids a singularity of the cosine schedule at t = T


def betas(noise_schedule: NoiseSchedule, num_steps: int) -> NDArray[np.float64]:
    """Return the variance that each forward step adds (docs/method.md, Diffusion process).

    ``linear`` runs from 1e-4 to 0.02, scaled by 1000 / T so that the last noise level does not depend on T. ``cosine``
    is equation 17 of improved DDPM.

    Args:
        noise_schedule: the schedule's name.
        num_steps: T, at least 1.

    Returns:
        (T,) float64 in (0, 1).

    Raises:
        ValueError: for an unknown name, or for a T with which a beta lies outside (0, 1).
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
        raise ValueError(f"num_steps is {num_steps}: the linear schedule would end at beta {last:g}; give 21 or more")
    return np.linspace(first, last, num_steps, dtype=np.float64)


def _cosine(num_steps: int) -> NDArray[np.float64]:
    time = np.arange(num_steps + 1, dtype=np.float64) / num_steps
    alphas_cumprod = np.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.minimum(1 - alphas_cumprod[1:] / alphas_cumprod[:-1], MAX_BETA)
