"""Decide whether the diffusion model is ready, by the DDIM round trip and by samples (docs/method.md, Readiness).

A model is ready if both hold:

- Round trip: DDIM rebuilds normal images from their inversions. The mean squared error is at most ``READY_ERROR`` times
  the variance of the images about their mean image. An untrained network destroys the image and has an error of 1 or
  more, but a network that has learnt almost nothing can have a small one.
- Samples: at strength 0 they look like normal images. Their distance (:func:`likeness.sample_distance`) is at most
  ``READY_DISTANCE``, twice that of normal images. Obvious noise or wrong colours exceed it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from guided_diffusion.sampling import ddim_reverse_loop, ddim_sample_loop, p_sample_loop
from realnet.config import DiffusionConfig
from realnet.data.images import Image
from realnet.data.items import DiffusionDataset
from realnet.data.order import spread
from realnet.drawing.grids import enlarged, label_grid
from realnet.errors import UserError
from realnet.models import checkpoint
from realnet.models.build import build_diffusion
from realnet.runtime.distributed import World
from realnet.runtime.precision import Precision
from realnet.runtime.progress import stoppable_bar
from realnet.sdas.likeness import sample_distance
from realnet.sdas.sampler import to_pixels

READY_ERROR = 0.1
READY_DISTANCE = 2.0
LIMITS = {"relative_error": READY_ERROR, "sample_distance": READY_DISTANCE}
"""The most that each figure of a ready model may be."""
NUM_PANEL_IMAGES = 8
NUM_REFERENCES = 32  # normal images of each class to compare its samples with

Readiness = Literal["ready", "unready", "unknown"]
HealthHistory = Sequence[Mapping[str, float]]
"""Validations in order, each with its step and :class:`Figures`; empty before the first."""


@dataclass(frozen=True)
class Figures:
    """The figures of a validation (docs/method.md, Readiness).

    Attributes:
        round_trip_error: mean squared error of the round trip, for images in [-1, 1].
        relative_error: ``round_trip_error`` divided by the variance of the images about their mean image.
        sample_distance: distance of strength-0 samples from normal images; normal images themselves have 1.
    """

    round_trip_error: float
    relative_error: float
    sample_distance: float


@dataclass(frozen=True)
class Health:
    """The result of a validation; ``panels`` holds two labelled pictures, ``round_trip`` and ``strengths``."""

    figures: Figures
    panels: Mapping[str, Image]


class _Batch(NamedTuple):
    """Images (B, 3, H, W) in [-1, 1] on the CPU, and their common class numbers (B,)."""

    source: Tensor
    inversion: Tensor
    rebuilt: Tensor
    sample: Tensor
    classes: Tensor


def recorded(path: Path) -> HealthHistory:
    """Return the validations in the checkpoint of a diffusion model; none if there is no such file or no record."""
    try:
        return checkpoint.load(path, kind="diffusion", mapped=True).facts.get("health", ()) if path.is_file() else ()
    except UserError:  # a damaged file, or another's
        return ()


def readiness(history: HealthHistory | None) -> Readiness:
    """Tell whether the last validation meets both criteria; ``unknown`` if nothing was measured that fails one.

    A model that has not reached its first validation is ``unready``; of one without a record (None), nothing is known.
    """
    if history is not None and not history:
        return "unready"
    last = history[-1] if history else {}
    met = [last[name] <= limit for name, limit in LIMITS.items() if name in last]
    if not all(met):
        return "unready"
    return "ready" if len(met) == len(LIMITS) else "unknown"


def verdict(history: HealthHistory | None) -> str:
    """Describe the last validation of a health history, and the trend, in words."""
    if history is None:
        return "not known to be ready: the checkpoint has no record of validations"
    if not history:
        return "not ready: its training has not reached the first validation"
    words = {"ready": "ready", "unready": "not ready: train longer", "unknown": "not known to be ready"}[
        readiness(history)
    ]
    error = _figure(history, "relative_error", "round-trip error {:.3f} of the images' variance", READY_ERROR)
    distance = _figure(
        history, "sample_distance", "distance of strength-0 samples {:.1f} times that of normal images", READY_DISTANCE
    )
    return f"{words}; {error}; {distance}"


def _figure(history: HealthHistory, name: str, words: str, limit: float) -> str:
    """Describe a figure in words: its value, its limit, and its trend since the validation before."""
    values = [entry[name] for entry in history[-2:] if name in entry]
    if not values:
        return f"no {name} on record"
    said = f"{words.format(values[-1])} (ready at {limit:g} or less"
    if len(values) < 2:
        return f"{said})"
    before, now = values
    trend = "falling" if now < 0.95 * before else "rising" if now > 1.05 * before else "steady"
    return f"{said}; {trend} from {before:.3g})"


def check_health(
    model: nn.Module,
    config: DiffusionConfig,
    dataset: DiffusionDataset,
    world: World,
) -> Health:
    """Measure a model on ``num_batches`` batches of normal images and on as many samples of strength 0.

    The normal images are evenly spread over the dataset (docs/method.md, Readiness).

    Raises:
        Stopped: after a signal.
    """
    batch_size = config.train.batch_size
    chosen = spread(len(dataset), min(batch_size * config.validation.num_batches, len(dataset)))
    batches = [chosen[start : start + batch_size] for start in range(0, len(chosen), batch_size)]
    sampler = _Sampler(model, config, world.precision)
    parts = sampler.batches(dataset, stoppable_bar(batches, "health check", world))
    whole = _Batch(*map(torch.cat, zip(*parts, strict=True)))
    error = float((whole.source - whole.rebuilt).square().mean())
    variance = float((whole.source - whole.source.mean(dim=0)).square().mean())
    figures = Figures(
        round_trip_error=error,
        relative_error=error / max(variance, 1e-8),
        sample_distance=sample_distance(whole.sample, whole.classes, *_references(dataset)),
    )
    return Health(
        figures, {"round_trip": _round_trip_panel(whole), "strengths": _strengths_panel(sampler, dataset, world)}
    )


class _Sampler:
    """A model with its respaced diffusion process; returns images on the CPU."""

    def __init__(self, model: nn.Module, config: DiffusionConfig, precision: Precision) -> None:
        self.config, self.device = config, precision.device
        self.diffusion = build_diffusion(config.process, config.validation.respacing)
        self.predict = precision.running(model)

    def batches(self, dataset: DiffusionDataset, chosen: Iterable[Sequence[int]]) -> Iterator[_Batch]:
        noise = self.noise()
        for indexes in chosen:
            items = [dataset[0, index] for index in indexes]
            source, classes = torch.stack([i["image"] for i in items]), torch.tensor([i["class_index"] for i in items])
            y = classes.to(self.device)
            inverted = ddim_reverse_loop(self.diffusion, self.predict, source.to(self.device), y=y)
            rebuilt = ddim_sample_loop(self.diffusion, self.predict, inverted, y=y)
            yield _Batch(source, inverted.cpu(), rebuilt.cpu(), self.sample(classes, noise), classes)

    def sample(self, classes: Tensor, noise: Callable[[int], Tensor], *, strength: float = 0.0) -> Tensor:
        """Sample one image for each entry of ``classes`` (B,), with noise from ``noise``."""
        y = classes.to(self.device)

        def step_noise(_step: int) -> Tensor:
            return noise(len(y)).to(self.device)

        x = p_sample_loop(self.diffusion, self.predict, step_noise(-1), step_noise, y=y, anomaly_strength=strength)
        return x.cpu()

    def noise(self) -> Callable[[int], Tensor]:
        """Return a new source of noise (B, 3, H, W); all sources return the same sequence."""
        generator = torch.Generator().manual_seed(self.config.seed)
        return lambda number: torch.randn(number, 3, *self.config.image_size, generator=generator)


def _references(dataset: DiffusionDataset) -> tuple[Tensor, Tensor]:
    """Return normal images, evenly spread over each class, and their classes."""
    classes = np.array(dataset.class_indexes)
    members = (np.flatnonzero(classes == index) for index in np.unique(classes))
    chosen = [
        int(indexes[number])
        for indexes in members
        for number in spread(len(indexes), min(NUM_REFERENCES, len(indexes)))
    ]
    return torch.stack([dataset[0, index]["image"] for index in chosen]), torch.from_numpy(classes[chosen])


def _round_trip_panel(images: _Batch) -> Image:
    rows = {"source": images.source, "inversion": images.inversion, "reconstruction": images.rebuilt}
    return _grid({label: image[:NUM_PANEL_IMAGES] for label, image in rows.items()}, title="DDIM round trip")


def _strengths_panel(sampler: _Sampler, dataset: DiffusionDataset, world: World) -> Image:
    """Sample every strength from the same noise: one row per strength, one or more columns per class."""
    names = dict(zip(dataset.class_indexes, (entry.class_name for entry in dataset.entries), strict=True))
    columns = (sorted(names) * NUM_PANEL_IMAGES)[:NUM_PANEL_IMAGES]
    classes = torch.tensor(columns)
    rows = {
        f"strength {strength:g}": sampler.sample(classes, sampler.noise(), strength=strength)
        for strength in stoppable_bar(sampler.config.validation.strengths, "health check", world)
    }
    return _grid(rows, column_labels=[names[index] for index in columns], title="samples of one noise")


def _grid(rows: Mapping[str, Tensor], *, title: str, column_labels: Sequence[str] = ()) -> Image:
    """Draw rows of images (B, 3, H, W), enlarging small ones."""
    pictures = [[enlarged(picture) for picture in to_pixels(images)] for images in rows.values()]
    return label_grid(pictures, row_labels=list(rows), column_labels=column_labels, title=title)
