"""Samplers as pure functions that receive their noise (docs/method.md, SDAS).

``p_sample`` and ``ddim_sample`` take one step, ``ddim_reverse`` one step of inversion; each has a loop over all steps.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from guided_diffusion.gaussian import GaussianDiffusion, NoisePredictor, PMeanVariance
from guided_diffusion.guidance import ClassifierGuidance, guided_prediction

StepNoise = Callable[[int], Tensor]
"""``step -> (B, C, H, W)``, standard normal noise; called once for each kept step that takes noise, downwards."""


@torch.no_grad()
def p_sample(
    diffusion: GaussianDiffusion,
    model: NoisePredictor,
    x: Tensor,
    t: Tensor,
    noise: Tensor,
    *,
    y: Tensor | None = None,
    anomaly_strength: float | Tensor = 0.0,
    guidance: ClassifierGuidance | None = None,
    clip_denoised: bool = True,
) -> Tensor:
    """Take one ancestral step: x_{t-1} = μ + [t>0]·√(1+s)·σ_t·z (paper, Eq. 4 to 6).

    See docs/method.md, Ancestral sampling. Guidance first adds σ_t²·scale·∇_x log p(y | x_t) to μ (ADM, algorithm 1).

    Args:
        diffusion: the process.
        model: predicts ε and the variance.
        x: (B, C, H, W), x_t.
        t: (B,) int64, kept steps.
        noise: (B, C, H, W), z, standard normal.
        y: (B,) int64, classes.
        anomaly_strength: s ≥ 0, one number or (B,); multiplies the noise's variance by 1 + s.
        guidance: the classifier to steer by; None leaves μ unchanged.
        clip_denoised: clip x̂₀ to [-1, 1].

    Raises:
        ValueError: for a negative strength, or guidance without classes.
    """
    prediction = diffusion.p_mean_variance(model, x, t, y=y, clip_denoised=clip_denoised)
    mean = prediction.mean
    if guidance is not None:
        mean = mean + prediction.variance * guidance.gradient(x, diffusion.original_timesteps(t), y)
    sigma = torch.exp(0.5 * prediction.log_variance)
    # The factors are in the published order, so that their product rounds the same.
    return mean + _is_noisy(t) * sigma * noise * _sqrt_per_image(anomaly_strength, shift=1.0)


@torch.no_grad()
def ddim_sample(
    diffusion: GaussianDiffusion,
    model: NoisePredictor,
    x: Tensor,
    t: Tensor,
    noise: Tensor,
    *,
    y: Tensor | None = None,
    eta: float = 0.0,
    anomaly_strength: float | Tensor = 0.0,
    guidance: ClassifierGuidance | None = None,
    clip_denoised: bool = True,
) -> Tensor:
    """Take one DDIM step (DDIM, equation 12) and add [t>0]·√s·σ_t·z (docs/method.md, DDIM sampling).

    DDIM's own noise has the deviation η·√β̃_t, the added noise √s·σ_t with the learned variance; both scale the same z.
    Guidance replaces ε by ε - √(1-ᾱ_t)·scale·∇_x log p(y | x_t) (ADM, algorithm 2). x̂₀ follows from the new ε and is
    not clipped again.

    Args:
        diffusion: the process.
        model: predicts ε and the variance.
        x: (B, C, H, W), x_t.
        t: (B,) int64, kept steps.
        noise: (B, C, H, W), z, standard normal.
        y: (B,) int64, classes.
        eta: η; 0 is deterministic, 1 is as noisy as ancestral sampling.
        anomaly_strength: s ≥ 0, one number or (B,).
        guidance: the classifier to steer by; None leaves ε unchanged.
        clip_denoised: clip x̂₀ to [-1, 1].

    Raises:
        ValueError: for a negative strength, or guidance without classes.
    """
    prediction = guided_prediction(diffusion, model, x, t, y=y, guidance=guidance, clip_denoised=clip_denoised)
    step = diffusion.at(t)
    variance = eta**2 * step.posterior_variance
    along = torch.sqrt(step.one_minus_alphas_cumprod_prev - variance) * prediction.eps
    mean = step.sqrt_alphas_cumprod_prev * prediction.pred_xstart + along
    return mean + _is_noisy(t) * (variance.sqrt() + _extra_deviation(prediction, anomaly_strength)) * noise


def extra_noise(prediction: PMeanVariance, noise: Tensor, anomaly_strength: float | Tensor) -> Tensor:
    """Return the anomaly's noise √s·σ_t·z of a sampler without noise of its own (docs/method.md, DDIM sampling)."""
    return _extra_deviation(prediction, anomaly_strength) * noise


def _extra_deviation(prediction: PMeanVariance, anomaly_strength: float | Tensor) -> Tensor:
    return _sqrt_per_image(anomaly_strength) * torch.exp(0.5 * prediction.log_variance)


@torch.no_grad()
def ddim_reverse(
    diffusion: GaussianDiffusion,
    model: NoisePredictor,
    x: Tensor,
    t: Tensor,
    *,
    y: Tensor | None = None,
    clip_denoised: bool = True,
) -> Tensor:
    """Take one deterministic DDIM step upwards, from x_t to x_{t+1} (docs/method.md, DDIM inversion).

    Args:
        diffusion: the process.
        model: predicts ε.
        x: (B, C, H, W), x_t.
        t: (B,) int64, kept steps; ᾱ after the last one is 0.
        y: (B,) int64, classes.
        clip_denoised: clip x̂₀ to [-1, 1].
    """
    prediction = diffusion.p_mean_variance(model, x, t, y=y, clip_denoised=clip_denoised)
    step = diffusion.at(t)
    alphas_cumprod_next = step.alphas_cumprod_next
    return alphas_cumprod_next.sqrt() * prediction.pred_xstart + (1 - alphas_cumprod_next).sqrt() * prediction.eps


def p_sample_loop(
    diffusion: GaussianDiffusion,
    model: NoisePredictor,
    x: Tensor,
    noise: StepNoise,
    *,
    y: Tensor | None = None,
    anomaly_strength: float | Tensor = 0.0,
    guidance: ClassifierGuidance | None = None,
) -> Tensor:
    """Sample images from noise by ``p_sample`` at every kept step (docs/method.md, Ancestral sampling).

    Args:
        diffusion: the process.
        model: predicts ε and the variance.
        x: (B, C, H, W), standard normal: x_T.
        noise: returns the noise of each step; with one generator per image, an image does not depend on its batch.
        y: (B,) int64, classes.
        anomaly_strength: s ≥ 0, one number or (B,); 0 gives normal images.
        guidance: the classifier to steer by; None: no guidance.

    Returns:
        (B, C, H, W), about in [-1, 1].
    """
    for step in reversed(range(diffusion.num_steps)):
        t = everywhere(step, x)
        x = p_sample(diffusion, model, x, t, noise(step), y=y, anomaly_strength=anomaly_strength, guidance=guidance)
    return x


def ddim_sample_loop(
    diffusion: GaussianDiffusion,
    model: NoisePredictor,
    x: Tensor,
    noise: StepNoise | None = None,
    *,
    y: Tensor | None = None,
    eta: float = 0.0,
    anomaly_strength: float | Tensor = 0.0,
    guidance: ClassifierGuidance | None = None,
) -> Tensor:
    """Sample images, or rebuild inverted ones, by ``ddim_sample`` at every kept step (docs/method.md, DDIM sampling).

    Args:
        diffusion: the process.
        model: predicts ε and the variance.
        x: (B, C, H, W), x_T.
        noise: returns the noise of each step; may be None if η and s are 0.
        y: (B,) int64, classes.
        eta: η; 0 is deterministic, 1 is as noisy as ancestral sampling.
        anomaly_strength: s ≥ 0, one number or (B,).
        guidance: the classifier to steer by; None: no guidance.

    Returns:
        (B, C, H, W), about in [-1, 1].

    Raises:
        ValueError: if η or s is not 0 and ``noise`` is None.
    """
    if noise is None and (eta != 0 or isinstance(anomaly_strength, Tensor) or anomaly_strength != 0):
        raise ValueError(f"eta {eta} and anomaly_strength {anomaly_strength} need noise; pass it, or set both to 0")
    for step in reversed(range(diffusion.num_steps)):
        x = ddim_sample(
            diffusion,
            model,
            x,
            everywhere(step, x),
            torch.zeros_like(x) if noise is None else noise(step),
            y=y,
            eta=eta,
            anomaly_strength=anomaly_strength,
            guidance=guidance,
        )
    return x


def ddim_reverse_loop(
    diffusion: GaussianDiffusion,
    model: NoisePredictor,
    x: Tensor,
    *,
    y: Tensor | None = None,
) -> Tensor:
    """Invert images (B, C, H, W) in [-1, 1] to noise, which DDIM turns back (docs/method.md, DDIM inversion)."""
    for step in range(diffusion.num_steps):
        x = ddim_reverse(diffusion, model, x, everywhere(step, x), y=y)
    return x


def _is_noisy(t: Tensor) -> Tensor:
    """Return [t>0], (B, 1, 1, 1): the last step adds no noise."""
    return (t > 0).float()[:, None, None, None]


def _sqrt_per_image(anomaly_strength: float | Tensor, *, shift: float = 0.0) -> float | Tensor:
    """Return √(shift + s), a number or (B, 1, 1, 1). Tensors are not checked, as that would wait for the device."""
    if isinstance(anomaly_strength, Tensor):
        return (shift + anomaly_strength).sqrt().reshape(-1, 1, 1, 1)
    if anomaly_strength < 0:
        raise ValueError(f"anomaly_strength is {anomaly_strength}; give 0 (normal images) or more")
    return math.sqrt(shift + anomaly_strength)


def everywhere(step: int, x: Tensor) -> Tensor:
    """Return a kept step for each image of a batch, (B,) int64 (docs/method.md, SDAS)."""
    return torch.full((len(x),), step, dtype=torch.long, device=x.device)
