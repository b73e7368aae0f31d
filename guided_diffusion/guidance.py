"""Steer samples to their class by a classifier of noisy images (docs/method.md, Guidance)."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_diffusion.gaussian import GaussianDiffusion, NoisePredictor, PMeanVariance

Classifier = Callable[[Tensor, Tensor], Tensor]
"""``(x_t, original timesteps) -> (B, classes)`` logits."""


def classifier_gradient(classifier: Classifier, x: Tensor, t_original: Tensor, *, y: Tensor, scale: float) -> Tensor:
    """Return scale·∇_x log p(y | x_t), in x's shape (docs/method.md, Guidance).

    Args:
        classifier: maps noisy images to logits.
        x: (B, C, H, W), x_t.
        t_original: (B,) int64, timesteps of the original process.
        y: (B,) int64, the classes to steer to.
        scale: the guidance scale.
    """
    # The sampler may run under no_grad or inference_mode, but this gradient is needed.
    with torch.inference_mode(False), torch.enable_grad():
        x = x.clone().detach().requires_grad_()
        log_probabilities = F.log_softmax(classifier(x, t_original.clone()).float(), dim=1)
        chosen = log_probabilities.gather(1, y.clone()[:, None])
        return scale * torch.autograd.grad(chosen.sum(), x)[0]


@dataclass(frozen=True)
class ClassifierGuidance:
    """A noise-aware classifier that steers samples to their class (docs/method.md, Guidance).

    Attributes:
        classifier: maps noisy images to logits.
        scale: weight of the gradient; 1 follows Bayes' rule.
    """

    classifier: Classifier
    scale: float = 1.0

    def gradient(self, x: Tensor, t_original: Tensor, y: Tensor | None) -> Tensor:
        """Return scale·∇_x log p(y | x_t).

        Raises:
            ValueError: if ``y`` is None.
        """
        if y is None:
            raise ValueError("guidance needs the images' classes, but y is None; pass y or sample without guidance")
        return classifier_gradient(self.classifier, x, t_original, y=y, scale=self.scale)


def guided_prediction(
    diffusion: GaussianDiffusion,
    model: NoisePredictor,
    x: Tensor,
    t: Tensor,
    *,
    y: Tensor | None,
    guidance: ClassifierGuidance | None,
    clip_denoised: bool = True,
) -> PMeanVariance:
    """Return the network's prediction with ε and x̂₀ guided (ADM, algorithm 2); ``mean`` stays as it was."""
    prediction = diffusion.p_mean_variance(model, x, t, y=y, clip_denoised=clip_denoised)
    if guidance is None:
        return prediction
    gradient = guidance.gradient(x, diffusion.original_timesteps(t), y)
    eps = prediction.eps - diffusion.at(t).sqrt_one_minus_alphas_cumprod * gradient
    return replace(prediction, eps=eps, pred_xstart=diffusion.predict_xstart_from_eps(x, t, eps))
