"""Class-conditional guided diffusion (ADM) with strength-controllable sampling (docs/method.md, Diffusion model, SDAS).

``schedule`` and ``respacing`` choose the noise levels, ``gaussian`` holds the diffusion process and its training loss,
``sampling`` and ``multistep`` the samplers, ``guidance`` what steers them, ``unet`` and ``classifier`` the networks.
This package knows nothing about defects, config files or distributed training.
"""

from guided_diffusion.classifier import NoisyClassifier
from guided_diffusion.gaussian import GaussianDiffusion, PMeanVariance, TrainingLosses
from guided_diffusion.guidance import ClassifierGuidance, classifier_gradient
from guided_diffusion.multistep import dpm_sample_loop
from guided_diffusion.sampling import (
    ddim_reverse,
    ddim_reverse_loop,
    ddim_sample,
    ddim_sample_loop,
    p_sample,
    p_sample_loop,
)
from guided_diffusion.unet import UNet

__all__ = [
    "ClassifierGuidance",
    "GaussianDiffusion",
    "NoisyClassifier",
    "PMeanVariance",
    "TrainingLosses",
    "UNet",
    "classifier_gradient",
    "ddim_reverse",
    "ddim_reverse_loop",
    "ddim_sample",
    "ddim_sample_loop",
    "dpm_sample_loop",
    "p_sample",
    "p_sample_loop",
]
