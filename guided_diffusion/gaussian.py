"""The Gaussian diffusion process: noising, the learned reverse step, and the training loss.

See docs/method.md, Diffusion process, Diffusion loss.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from guided_diffusion import schedule
from guided_diffusion.losses import discretised_gaussian_log_likelihood, normal_kl
from guided_diffusion.respacing import count_of, respaced_betas, space_by_snr, space_timesteps

Array = NDArray[np.float64]

NoisePredictor = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""``(x_t, original timesteps, y) -> (B, C or 2C, H, W)``: ε̂, followed by the variance's v if there are 2C channels."""


class Step(NamedTuple):
    """Coefficients at a batch's steps t, each (B, 1, 1, 1) float32 (docs/method.md, Diffusion process)."""

    sqrt_alphas_cumprod: Tensor
    sqrt_one_minus_alphas_cumprod: Tensor
    sqrt_recip_alphas_cumprod: Tensor
    sqrt_recipm1_alphas_cumprod: Tensor
    sqrt_alphas_cumprod_prev: Tensor
    one_minus_alphas_cumprod_prev: Tensor
    alphas_cumprod_next: Tensor
    log_betas: Tensor
    posterior_variance: Tensor
    posterior_log_variance_clipped: Tensor
    posterior_mean_coef1: Tensor
    posterior_mean_coef2: Tensor


@dataclass(frozen=True)
class PMeanVariance:
    """The reverse step p(x_{t-1} | x_t), every field (B, C, H, W) (docs/method.md, Diffusion process).

    Attributes:
        mean: μ, the posterior mean for ``pred_xstart``.
        variance: σ².
        log_variance: log σ².
        pred_xstart: x̂₀, in [-1, 1] if it was clipped.
        eps: ε, computed again from ``pred_xstart`` if that was clipped; else the network's own output.
    """

    mean: Tensor
    variance: Tensor
    log_variance: Tensor
    pred_xstart: Tensor
    eps: Tensor


@dataclass(frozen=True)
class TrainingLosses:
    """Losses per image, each (B,): ``loss`` = ``mse`` + ``vb``, the latter in bits per dimension.

    See docs/method.md, Diffusion loss.
    """

    loss: Tensor
    mse: Tensor
    vb: Tensor


@dataclass(frozen=True, eq=False)
class GaussianDiffusion:
    """A diffusion process over the steps that respacing keeps (docs/method.md, Diffusion process).

    ``t`` always indexes the kept steps; the network receives the original timesteps. Arrays are (T,) float64. A batch's
    coefficients are gathered on its own device, without host synchronisation.

    Attributes:
        betas: variance that each kept step adds.
        timestep_map: int64, the original timestep of each kept step.
    """

    betas: Array
    timestep_map: NDArray[np.int64]
    _tables: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False)
    _timesteps: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def create(
        cls,
        *,
        noise_schedule: schedule.NoiseSchedule = "linear",
        num_steps: int = 1000,
        respacing: str | Sequence[int] = "",
    ) -> Self:
        """Build a process of ``num_steps`` steps, or of those of them that ``respacing`` keeps.

        ``snrN`` keeps N steps evenly spread in log-SNR (``space_by_snr``); ``space_timesteps`` explains the others.

        Raises:
            ValueError: for an unknown schedule, an impossible respacing, or one that keeps fewer than 2 steps.
        """
        alphas_cumprod = np.cumprod(1 - schedule.betas(noise_schedule, num_steps), dtype=np.float64)
        number = count_of(respacing, "snr") if isinstance(respacing, str) else None
        kept = space_timesteps(num_steps, respacing) if number is None else space_by_snr(alphas_cumprod, number)
        if len(kept) < 2:
            raise ValueError(f"timestep_respacing {respacing!r} keeps {len(kept)} of {num_steps} steps; keep 2 or more")
        return cls(respaced_betas(alphas_cumprod, kept), np.asarray(kept, dtype=np.int64))

    @property
    def num_steps(self) -> int:
        """The number of kept steps."""
        return len(self.betas)

    @cached_property
    def alphas_cumprod(self) -> Array:
        """ᾱ_t, the share of x_0's variance that is left."""
        return np.cumprod(1 - self.betas, dtype=np.float64)

    @cached_property
    def alphas_cumprod_prev(self) -> Array:
        """ᾱ of the previous step; 1 before the first."""
        return np.append(1.0, self.alphas_cumprod[:-1])

    @cached_property
    def alphas_cumprod_next(self) -> Array:
        """ᾱ of the next step; 0 after the last."""
        return np.append(self.alphas_cumprod[1:], 0.0)

    @cached_property
    def posterior_variance(self) -> Array:
        """β̃_t of q(x_{t-1} | x_t, x_0) (DDPM, equation 7); 0 at t = 0."""
        return self.betas * (1 - self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_log_variance_clipped(self) -> Array:
        """Log β̃_t; at t = 0, where β̃_t is 0, the value of t = 1."""
        return np.log(np.append(self.posterior_variance[1], self.posterior_variance[1:]))

    @cached_property
    def posterior_mean_coef1(self) -> Array:
        """The weight of x_0 in the posterior mean (DDPM, equation 7)."""
        return self.betas * np.sqrt(self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_mean_coef2(self) -> Array:
        """The weight of x_t in the posterior mean (DDPM, equation 7)."""
        return (1 - self.alphas_cumprod_prev) * np.sqrt(1 - self.betas) / (1 - self.alphas_cumprod)

    def at(self, t: Tensor) -> Step:
        """Gather the coefficients of the steps ``t``, (B,) int64 in [0, T)."""
        if t.device not in self._tables:
            self._tables[t.device] = self._table().to(t.device)
        return Step(*self._tables[t.device][:, t, None, None, None])

    def original_timesteps(self, t: Tensor) -> Tensor:
        """Return the original timesteps (B,) of the kept steps ``t``, which the network expects; both int64."""
        if t.device not in self._timesteps:
            self._timesteps[t.device] = torch.from_numpy(self.timestep_map).to(t.device)
        return self._timesteps[t.device][t]

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Draw x_t ~ q(x_t | x_0): √ᾱ·x_0 + √(1-ᾱ)·ε (DDPM, equation 4); images (B, C, H, W)."""
        step = self.at(t)
        return step.sqrt_alphas_cumprod * x_start + step.sqrt_one_minus_alphas_cumprod * noise

    def predict_xstart_from_eps(self, x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Solve ``q_sample`` for x_0: return √(1/ᾱ)·x_t - √(1/ᾱ-1)·ε, (B, C, H, W)."""
        step = self.at(t)
        return step.sqrt_recip_alphas_cumprod * x_t - step.sqrt_recipm1_alphas_cumprod * eps

    def predict_eps_from_xstart(self, x_t: Tensor, t: Tensor, x_start: Tensor) -> Tensor:
        """Solve ``q_sample`` for ε: return (√(1/ᾱ)·x_t - x_0) / √(1/ᾱ-1), (B, C, H, W)."""
        step = self.at(t)
        return (step.sqrt_recip_alphas_cumprod * x_t - x_start) / step.sqrt_recipm1_alphas_cumprod

    def q_posterior_mean(self, x_start: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the mean of q(x_{t-1} | x_t, x_0) (DDPM, equation 7)."""
        step = self.at(t)
        return step.posterior_mean_coef1 * x_start + step.posterior_mean_coef2 * x_t

    def p_mean_variance(
        self, model: NoisePredictor, x_t: Tensor, t: Tensor, *, y: Tensor | None = None, clip_denoised: bool = True
    ) -> PMeanVariance:
        """Predict the reverse step with one evaluation of the network.

        Args:
            model: predicts ε and, with 2C output channels, the variance's v.
            x_t: (B, C, H, W).
            t: (B,) int64, kept steps.
            y: (B,) int64, classes; None for an unconditional network.
            clip_denoised: clip x̂₀ to [-1, 1].
        """
        output = model(x_t, self.original_timesteps(t), y).float()
        return self.mean_variance(output, x_t, t, clip_denoised=clip_denoised)

    def mean_variance(self, output: Tensor, x_t: Tensor, t: Tensor, *, clip_denoised: bool = True) -> PMeanVariance:
        """Turn a network's output (B, C or 2C, H, W) into the reverse step.

        With 2C channels, log σ² = frac·log β + (1-frac)·log β̃ with frac = (v+1)/2 (improved DDPM, equation 15). With C
        channels, log σ² = log β̃.

        Raises:
            ValueError: for another number of channels.
        """
        eps, v = _split(output, x_t.shape[1])
        step = self.at(t)
        log_variance = step.posterior_log_variance_clipped.expand_as(x_t)
        if v is not None:
            frac = (v + 1) / 2
            log_variance = frac * step.log_betas + (1 - frac) * log_variance
        x_start = self.predict_xstart_from_eps(x_t, t, eps)
        if clip_denoised:
            x_start = x_start.clamp(-1, 1)
            eps = self.predict_eps_from_xstart(x_t, t, x_start)
        mean = self.q_posterior_mean(x_start, x_t, t)
        return PMeanVariance(mean, log_variance.exp(), log_variance, x_start, eps)

    def training_losses(
        self, model: NoisePredictor, x_start: Tensor, t: Tensor, noise: Tensor, *, y: Tensor | None = None
    ) -> TrainingLosses:
        """Return the hybrid loss of each image (improved DDPM, equation 16, both terms with weight 1).

        The second term, ``vb``, trains only the variance, since ε̂ is detached in it. It is 0 for a network without a
        learned variance.

        Args:
            model: predicts ε and, with 2C output channels, the variance's v.
            x_start: (B, C, H, W) in [-1, 1].
            t: (B,) int64, kept steps.
            noise: (B, C, H, W), standard normal.
            y: (B,) int64, classes; None for an unconditional network.
        """
        x_t = self.q_sample(x_start, t, noise)
        output = model(x_t, self.original_timesteps(t), y).float()
        eps, v = _split(output, x_start.shape[1])
        mse = _mean_per_image((noise - eps) ** 2)
        if v is None:
            return TrainingLosses(mse, mse, torch.zeros_like(mse))
        vb = self._variational_bound(torch.cat([eps.detach(), v], dim=1), x_start, x_t, t)
        return TrainingLosses(mse + vb, mse, vb)

    def _variational_bound(self, output: Tensor, x_start: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return a term of the bound in bits per dimension, (B,): KL(q ‖ p); at t = 0, -log p of the 8-bit levels."""
        model = self.mean_variance(output, x_t, t, clip_denoised=False)
        true_mean = self.q_posterior_mean(x_start, x_t, t)
        kl = normal_kl(true_mean, self.at(t).posterior_log_variance_clipped, model.mean, model.log_variance)
        log_likelihood = discretised_gaussian_log_likelihood(
            x_start, mean=model.mean, log_scale=0.5 * model.log_variance
        )
        nats = torch.where(t == 0, _mean_per_image(-log_likelihood), _mean_per_image(kl))
        return nats / math.log(2)

    def _table(self) -> Tensor:
        """Compute all coefficients in float64, then store them as (fields of Step, T) float32."""
        now, before, after = self.alphas_cumprod, self.alphas_cumprod_prev, self.alphas_cumprod_next
        rows = {
            "sqrt_alphas_cumprod": np.sqrt(now),
            "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - now),
            "sqrt_recip_alphas_cumprod": np.sqrt(1 / now),
            "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / now - 1),
            "sqrt_alphas_cumprod_prev": np.sqrt(before),
            "one_minus_alphas_cumprod_prev": 1 - before,
            "alphas_cumprod_next": after,
            "log_betas": np.log(self.betas),
            "posterior_variance": self.posterior_variance,
            "posterior_log_variance_clipped": self.posterior_log_variance_clipped,
            "posterior_mean_coef1": self.posterior_mean_coef1,
            "posterior_mean_coef2": self.posterior_mean_coef2,
        }
        return torch.from_numpy(np.stack([rows[name] for name in Step._fields])).float()


def _split(output: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    if output.shape[1] == channels:
        return output, None
    if output.shape[1] == 2 * channels:
        eps, v = output.chunk(2, dim=1)
        return eps, v
    raise ValueError(
        f"the network returned {output.shape[1]} channels for images of {channels} channels; "
        f"it must return {channels} (fixed variance) or {2 * channels} (learned variance)"
    )


def _mean_per_image(values: Tensor) -> Tensor:
    return values.flatten(1).mean(dim=1)
