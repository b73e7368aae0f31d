"""Is the diffusion model ready? The deterministic DDIM round trip, and samples of several strengths.

A model is called ready when its round-trip error, the mean squared difference between normal images and what DDIM
rebuilds from their inversion, is at most ``READY_ERROR`` of the variance of those images about their mean image (both
in [-1, 1]). An untrained network destroys the image in the inversion and scores about 1 or more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from guided_diffusion.gaussian import NoisePredictor
from guided_diffusion.sampling import ddim_reverse_loop, ddim_sample_loop, p_sample_loop
from realnet.config import DiffusionConfig
from realnet.data.datasets import DiffusionDataset
from realnet.data.images import Image
from realnet.networks import build_diffusion
from realnet.precision import Precision
from realnet.sampling import to_pixels
from realnet.visuals import label_grid

READY_ERROR = 0.1
NUM_PANEL_IMAGES = 8


@dataclass(frozen=True)
class Health:
    """What a validation of the diffusion model found.

    Attributes:
        round_trip_error: mean squared error of the round trip, images in [-1, 1].
        relative_error: the same over the variance of the images about their mean image.
        panels: labelled pictures by name: ``round_trip`` and ``strengths``.
    """

    round_trip_error: float
    relative_error: float
    panels: Mapping[str, Image]


def is_ready(record: Sequence[Mapping[str, float]]) -> bool:
    """Tell whether the last validation of a health record meets the criterion; an empty record does not."""
    return bool(record) and record[-1]["relative_error"] <= READY_ERROR


def verdict(record: Sequence[Mapping[str, float]]) -> str:
    """Put the last entry of a health record, and the trend, into words.

    Args:
        record: validations in order, each with ``relative_error``; empty for a file without a record.
    """
    if not record:
        return "not known to be ready: the checkpoint holds no validation"
    error = record[-1]["relative_error"]
    words = "ready" if is_ready(record) else "not ready: train longer"
    figure = f"round-trip error {error:.3f} of the images' variance (ready at {READY_ERROR} or less)"
    if len(record) < 2:
        return f"{words}; {figure}"
    before = record[-2]["relative_error"]
    trend = "falling" if error < 0.95 * before else "rising" if error > 1.05 * before else "steady"
    return f"{words}; {figure}, {trend} from {before:.3f}"


def check_health(model: nn.Module, config: DiffusionConfig, dataset: DiffusionDataset, precision: Precision) -> Health:
    """Run the round trip on ``num_batches`` batches of normal images, spread over the data set, and draw the panels."""
    validation = config.validation
    number = min(len(dataset), config.train.batch_size * validation.num_batches)
    chosen = np.linspace(0, len(dataset) - 1, number).round().astype(int).tolist()
    diffusion = build_diffusion(config.process, validation.respacing)

    def predict(x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        with precision.autocast():
            return model(x, timesteps, y)

    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, number, config.train.batch_size):
        items = [dataset[0, index] for index in chosen[start : start + config.train.batch_size]]
        x = torch.stack([item["image"] for item in items]).to(precision.device)
        y = torch.tensor([item["class_index"] for item in items], device=precision.device)
        inverted = ddim_reverse_loop(diffusion, predict, x, y=y)
        rebuilt = ddim_sample_loop(diffusion, predict, inverted, y=y)
        parts.append((x.cpu(), inverted.cpu(), rebuilt.cpu()))
    source, inversion, reconstruction = (torch.cat(images) for images in zip(*parts, strict=True))
    error = float((source - reconstruction).square().mean())
    variance = float((source - source.mean(dim=0)).square().mean())
    rows = [to_pixels(images[:NUM_PANEL_IMAGES]) for images in (source, inversion, reconstruction)]
    labels = ["source", "inversion", "rebuilt"]
    return Health(
        round_trip_error=error,
        relative_error=error / max(variance, 1e-8),
        panels={
            "round_trip": label_grid(rows, row_labels=labels, title="DDIM round trip"),
            "strengths": _strength_panel(predict, config, len(set(dataset.class_indexes)), precision),
        },
    )


def _strength_panel(predict: NoisePredictor, config: DiffusionConfig, num_classes: int, precision: Precision) -> Image:
    """Sample every strength from one noise: a row each, a column for each class (two for few classes)."""
    diffusion = build_diffusion(config.process, config.validation.respacing)
    classes = [i % num_classes for i in range(max(num_classes, min(NUM_PANEL_IMAGES, 2 * num_classes)))][
        :NUM_PANEL_IMAGES
    ]
    generator = torch.Generator().manual_seed(config.seed)
    shape = (len(classes), 3, *config.image_size)
    noise = torch.randn(diffusion.num_steps + 1, *shape, generator=generator)
    y = torch.tensor(classes, device=precision.device)
    rows = [
        to_pixels(
            p_sample_loop(
                diffusion,
                predict,
                noise[-1].to(precision.device),
                lambda step: noise[step].to(precision.device),
                y=y,
                anomaly_strength=strength,
            )
        )
        for strength in config.validation.strengths
    ]
    labels = [f"strength {strength:g}" for strength in config.validation.strengths]
    return label_grid(
        rows, row_labels=labels, column_labels=[f"class {i}" for i in classes], title="samples of one noise"
    )
