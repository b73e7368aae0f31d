"""DPM-Solver++(2M): a sampler of second order that remembers its last prediction (docs/method.md, DPM-Solver++).

Lu et al., "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models", arXiv 2211.01095.
"""

import math

import torch
from torch import Tensor

from guided_diffusion.gaussian import GaussianDiffusion, NoisePredictor
from guided_diffusion.guidance import ClassifierGuidance, guided_prediction
from guided_diffusion.sampling import StepNoise, everywhere, extra_noise


@torch.no_grad()
def dpm_sample_loop(
    diffusion: GaussianDiffusion,
    model: NoisePredictor,
    x: Tensor,
    noise: StepNoise | None = None,
    *,
    y: Tensor | None = None,
    anomaly_strength: float | Tensor = 0.0,
    guidance: ClassifierGuidance | None = None,
) -> Tensor:
    """Sample images from noise by DPM-Solver++(2M) over the kept steps (paper, algorithm 2).

    The steps should be about even in log-SNR (respacing ``snrN``): D below reaches half a step beyond what is known.

    It needs one evaluation of the network for each step, as DDIM does; its first and its last step are DDIM's. After
    each step but the last, √s·σ_t·z is added, as in ``ddim_sample``.

    Args:
        diffusion: the process.
        model: predicts ε and the variance.
        x: (B, C, H, W), x_T.
        noise: returns the noise of each step; may be None if s is 0.
        y: (B,) int64, classes.
        anomaly_strength: s ≥ 0, one number or (B,).
        guidance: the classifier to steer by; it changes ε as in ``ddim_sample``.

    Returns:
        (B, C, H, W), about in [-1, 1].

    Raises:
        ValueError: if s is negative, or is not 0 and ``noise`` is None.
    """
    if noise is None and (isinstance(anomaly_strength, Tensor) or anomaly_strength != 0):
        raise ValueError(f"anomaly_strength {anomaly_strength} needs noise; pass it, or set it to 0")
    earlier: Tensor | None = None
    for step in reversed(range(diffusion.num_steps)):
        t = everywhere(step, x)
        prediction = guided_prediction(diffusion, model, x, t, y=y, guidance=guidance)
        x_start = prediction.pred_xstart
        x = second_order_step(diffusion, x, x_start, earlier, step)
        if step and noise is not None:
            x = x + extra_noise(prediction, noise(step), anomaly_strength)
        earlier = x_start
    return x


def second_order_step(
    diffusion: GaussianDiffusion, x: Tensor, x_start: Tensor, earlier: Tensor | None, step: int
) -> Tensor:
    """Return x_{t-1} from x_t: σ_{t-1}/σ_t·x_t - α_{t-1}·(e^{-h} - 1)·D, exact for a D that does not change.

    D extends the line through the last two predictions of x_0, over λ = log(α/σ), by half a step (paper, algorithm 2).
    λ is infinite where no noise is left, so the last step takes D = x̂_0, as does the first.

    Args:
        diffusion: the process.
        x: (B, C, H, W), x_t.
        x_start: x̂_0 of this step.
        earlier: x̂_0 of the step before; None in the first step.
        step: t, a kept step.
    """
    level, level_after = diffusion.alphas_cumprod[step], diffusion.alphas_cumprod_prev[step]
    if step == 0:
        return x_start
    h = _log_snr(level_after) - _log_snr(level)
    direction = x_start
    if earlier is not None:
        ratio = (_log_snr(level) - _log_snr(diffusion.alphas_cumprod[step + 1])) / h
        direction = x_start + (x_start - earlier) / (2 * ratio)
    return math.sqrt((1 - level_after) / (1 - level)) * x - math.sqrt(level_after) * math.expm1(-h) * direction


def _log_snr(level: float) -> float:
    """Return λ = log(α/σ) for ᾱ = α²."""
    return 0.5 * math.log(level / (1 - level))
