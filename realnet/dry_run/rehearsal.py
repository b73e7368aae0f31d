"""Find the memory that each stage needs on its device, by a rehearsal on hollow tensors (``meter.py``).

A figure is the peak of one step: weights, gradients, Adam's moments, the average of the weights, and the activations,
gradients and copies in another number format that are alive at the worst moment. It does not include workspaces of
kernels, the device's libraries and the loading of images. On a CPU, it does not include freed memory that the process
keeps (:func:`realnet.runtime.threads.keep_freed_memory`), which is up to a third (benchmarks/README.md).
"""

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guided_diffusion.sampling import p_sample
from realnet.config import ClassifierConfig, DiffusionConfig, RealNetConfig, SampleConfig, TrainingConfig
from realnet.detection.maps import anomaly_maps
from realnet.dry_run.meter import peak_bytes
from realnet.models.build import build_classifier, build_diffusion, build_unet
from realnet.models.realnet import RealNet
from realnet.runtime.precision import Precision
from realnet.sdas.sampler import Sampler
from realnet.training.classifier_task import classify
from realnet.training.diffusion_task import diffusion_losses
from realnet.training.pairs import detect_joined, detector_losses

ADAM_MOMENTS = 2
CPU = torch.device("cpu")  # the device that hollow tensors report


def diffusion_training(config: DiffusionConfig, num_classes: int, precision: Precision) -> int:
    """Return the bytes that a step of diffusion training needs at its peak."""
    with torch.device("meta"):
        model = build_unet(config, num_classes)
    diffusion, batch = build_diffusion(config.process), config.train.batch_size

    def loss() -> Tensor:
        image, noise, t, y = _images(batch, config), _images(batch, config), _classes(batch), _classes(batch)
        return diffusion_losses(model, diffusion, image, noise, t, y).sum()

    num_averages = 0 if config.runtime.ema_on_cpu and precision.device != CPU else 1
    return _training(model, loss, config, precision, copies=ADAM_MOMENTS + num_averages)


def classifier_training(config: ClassifierConfig, num_classes: int, precision: Precision) -> int:
    """Return the bytes that a step of classifier training needs at its peak."""
    with torch.device("meta"):
        model = build_classifier(config, num_classes)
    diffusion, batch = build_diffusion(config.process), config.train.batch_size

    def loss() -> Tensor:
        logits = classify(model, diffusion, _images(batch, config), _images(batch, config), _classes(batch))
        return F.cross_entropy(logits, _classes(batch))

    return _training(model, loss, config, precision)


def detector_training(model: RealNet, config: RealNetConfig, precision: Precision) -> int:
    """Return the bytes that a step of detector training needs at its peak, if every item has an anomaly.

    The model cannot be used afterwards.
    """
    batch = config.train.batch_size

    def loss() -> Tensor:
        detection, clean = detect_joined(model, _images(2 * batch, config), _classes(batch))
        mask = torch.empty(batch, 1, *config.input_size)
        return detector_losses(detection, clean, mask, config.loss).sum()

    return _training(model.train(), loss, config, precision)


def detection(model: RealNet, image_size: tuple[int, int], batch: int, precision: Precision) -> int:
    """Return the bytes that scoring a batch of images needs at its peak; the model cannot be used afterwards."""
    one = model.of_class(0)  # hollow images have no class

    def work() -> Tensor:
        return anomaly_maps(one, torch.empty(batch, 3, *image_size), Precision(precision.dtype, CPU)).maps

    return peak_bytes(work, precision.cast(model.eval(), exact=model.exact_parts()))


def sampling(sampler: Sampler, config: SampleConfig, precision: Precision) -> int:
    """Return the bytes that a step of sampling needs at its peak; the sampler cannot be used afterwards."""
    number_format, batch, guidance = Precision(precision.dtype, CPU), config.batch_size, sampler.guidance
    called = [sampler.unet, *([guidance.classifier] if guidance else [])]
    networks = [precision.cast(network) for network in called if isinstance(network, nn.Module)]
    predict = number_format.running(sampler.unet)
    guided = replace(guidance, classifier=number_format.running(guidance.classifier)) if guidance else None

    def work() -> Tensor:
        x, noise = (torch.empty(batch, 3, *sampler.image_size) for _ in range(2))
        t = torch.zeros(batch, dtype=torch.long)
        return p_sample(sampler.diffusion, predict, x, t, noise, y=_classes(batch), guidance=guided)

    return peak_bytes(work, *networks)


def _training(
    model: nn.Module,
    loss: Callable[[], Tensor],
    config: TrainingConfig,
    precision: Precision,
    *,
    copies: int = ADAM_MOMENTS,
) -> int:
    """Return the peak of the second or a later step, when Adam's moments exist."""

    def work() -> Tensor:
        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        kept = torch.empty(copies, sum(parameter.nbytes for parameter in learned), dtype=torch.uint8)
        if config.train.accumulation > 1:  # the gradients of earlier micro-batches exist already
            for parameter in learned:
                parameter.grad = torch.empty_like(parameter)
        with Precision(precision.dtype, CPU).autocast():
            value = loss()
        value.backward()
        return kept

    return peak_bytes(work, model)


def _images(batch: int, config: DiffusionConfig | ClassifierConfig | RealNetConfig) -> Tensor:
    size = config.input_size if isinstance(config, RealNetConfig) else config.image_size
    return torch.empty(batch, 3, *size)


def _classes(batch: int) -> Tensor:
    return torch.empty(batch, dtype=torch.long)
