"""Score a class's test split and sum it up in metrics."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import DataLoader, Subset

from realnet import distributed, metrics
from realnet.config import EvaluationConfig, RuntimeConfig
from realnet.data.datasets import TestDataset
from realnet.data.index import Entry
from realnet.distributed import Process
from realnet.inference import score_batches
from realnet.models.realnet import RealNet
from realnet.precision import Precision

METRICS = ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro")


@dataclass(frozen=True)
class ClassScores:
    """What a detector says of a test split, beside the truth.

    Attributes:
        entries: the images, in the order of the arrays.
        anomaly_maps: (N, H, W) float32 in [0, 1].
        image_scores: (N,).
        labels: (N,) in {0, 1}.
        masks: (N, H, W) bool; all False where ``has_mask`` is False.
        has_mask: (N,) whether the pixels' truth is known: normal images, and defects with a mask.
    """

    entries: Sequence[Entry]
    anomaly_maps: np.ndarray
    image_scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    has_mask: np.ndarray


@dataclass(frozen=True)
class Metric:
    """A metric's value in [0, 1], or the reason why there is none."""

    value: float | None
    reason: str | None = None

    def __str__(self) -> str:
        return "–" if self.value is None else f"{self.value:.4f}"


def score_class(
    model: RealNet,
    dataset: TestDataset,
    *,
    config: EvaluationConfig,
    runtime: RuntimeConfig,
    precision: Precision,
    process: Process,
) -> ClassScores:
    """Score a test split; several processes share the images, and each gets the whole result."""
    mine = range(process.rank, len(dataset), process.world_size)
    loader = DataLoader(
        Subset(dataset, mine),
        batch_size=config.batch_size,
        num_workers=min(runtime.num_workers, len(mine) // config.batch_size),
        pin_memory=process.device.type == "cuda",
    )
    was_training = model.training
    maps, masks, has_mask = [], [], []
    for scored in score_batches(model, loader, precision):
        maps.append(scored.anomaly_maps)
        masks.append(scored.batch["mask"][:, 0].numpy() > 0)
        has_mask.append(np.asarray(scored.batch["has_mask"]))
    model.train(was_training)
    size = dataset.image_size
    parts = distributed.gather(
        (_join(maps, size, np.float32), _join(masks, size, np.bool_), np.concatenate(has_mask or [np.zeros(0, bool)]))
    )
    order = np.argsort(
        np.concatenate([np.arange(r, len(dataset), process.world_size) for r in range(process.world_size)])
    )
    anomaly_maps, all_masks, all_has_mask = (np.concatenate(part)[order] for part in zip(*parts, strict=True))
    return ClassScores(
        entries=dataset.entries,
        anomaly_maps=anomaly_maps,
        image_scores=metrics.image_scores(anomaly_maps, config.score_pool),
        labels=np.array([entry.label for entry in dataset.entries]),
        masks=all_masks,
        has_mask=all_has_mask,
    )


def summarise(scores: ClassScores, *, fpr_limit: float = 0.3) -> dict[str, Metric]:
    """Return every metric of a class, in the order of ``METRICS``."""
    return dict(zip(METRICS, _values(scores, fpr_limit), strict=True))


def mean_over_classes(by_class: Sequence[dict[str, Metric]]) -> dict[str, Metric]:
    """Return the mean of each metric over the classes that have it."""
    return {name: _mean([metrics_of[name].value for metrics_of in by_class]) for name in METRICS}


def _values(scores: ClassScores, fpr_limit: float) -> Iterator[Metric]:
    image = _try(lambda: metrics.image_curve(scores.image_scores, scores.labels))
    known = scores.has_mask.astype(bool)
    reason = "no defect image has a mask" if not scores.masks.any() else None
    pixel = (
        Metric(None, reason)
        if reason
        else _try(lambda: metrics.pixel_curve(scores.anomaly_maps[known], scores.masks[known]))
    )
    for curve in (image, pixel):
        if isinstance(curve, Metric):
            yield from (curve, curve, curve)
        else:
            yield from (Metric(curve.auroc), Metric(curve.ap), Metric(curve.f1_max.value))
    yield pixel if isinstance(pixel, Metric) else Metric(pixel.aupro(fpr_limit))


def _try(make: Callable[[], metrics.ScoreCurve]) -> metrics.ScoreCurve | Metric:
    try:
        return make()
    except metrics.MetricUndefined as error:
        return Metric(None, str(error))


def _mean(values: Sequence[float | None]) -> Metric:
    present = [value for value in values if value is not None]
    return Metric(float(np.mean(present))) if present else Metric(None, "no class has it")


def _join(parts: Sequence[np.ndarray], size: tuple[int, int], dtype: type) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros((0, *size), dtype)
