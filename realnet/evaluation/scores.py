"""Score a class's test split and sum it up in metrics (method.md, section 4)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Subset

from realnet.runtime import distributed
from realnet.metrics import curves as metrics
from realnet.config import EvaluationConfig, RuntimeConfig
from realnet.data.items import TestDataset
from realnet.data.index import Entry
from realnet.runtime.distributed import Process
from realnet.errors import UserError, message_of
from realnet.detection.maps import DIVERGED, anomaly_maps
from realnet.metrics.curves import ScoreCurve
from realnet.models.realnet import RealNet
from realnet.runtime.precision import Precision
from realnet.runtime.progress import bar
from realnet.runtime.signals import leave_signals_to_main

METRICS = ("image_auroc", "pixel_auroc", "aupro", "image_ap", "pixel_ap", "image_f1_max", "pixel_f1_max")


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
    anomaly_maps: NDArray[np.float32]
    image_scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_]
    has_mask: NDArray[np.bool_]


@dataclass(frozen=True)
class Metric:
    """A metric's value in [0, 1], or the reason why there is none."""

    value: float | None
    reason: str | None = None

    def __str__(self) -> str:
        return "–" if self.value is None else f"{self.value:.4f}"


@dataclass(frozen=True)
class Undefined:
    """Stands for a curve that the data do not give, and says why."""

    reason: str


@dataclass(frozen=True)
class Curves:
    """What every metric of a class is read off."""

    image: ScoreCurve | Undefined
    pixel: ScoreCurve | Undefined


class _Share(NamedTuple):
    """One process's part of ``ClassScores``."""

    anomaly_maps: NDArray[np.float32]
    masks: NDArray[np.bool_]
    has_mask: NDArray[np.bool_]


@contextmanager
def alike() -> Iterator[None]:
    """End a block on all processes alike: where it refuses something on one, none goes on without the others.

    Nothing in the block may wait for another process.

    Raises:
        UserError: what the processes refused, equal messages once.
    """
    refusal = ""
    try:
        yield
    except UserError as error:
        refusal = message_of(error)
    if refusals := dict.fromkeys(filter(None, distributed.gather(refusal))):
        raise UserError("\n".join(refusals))


def score_class(
    model: RealNet,
    dataset: TestDataset,
    *,
    config: EvaluationConfig,
    runtime: RuntimeConfig,
    precision: Precision,
    process: Process,
    description: str = "",
) -> ClassScores:
    """Score a test split; several processes share the images, and each gets the whole result.

    Args:
        model: any mode; it is given back in the same.
        dataset: the test split.
        config: batch size and image score.
        runtime: the processes that load images.
        precision: the number format in use.
        process: this process.
        description: names the progress bar; "" shows none.

    Raises:
        UserError: on all processes alike, where an image or a mask cannot be used.
    """
    was_training = model.training
    model.eval()
    try:
        with alike():
            share = _score_share(model, dataset, config, runtime, precision, process, description)
    finally:
        model.train(was_training)
    shares = distributed.gather(share)
    maps, masks, has_mask = (_interleaved(parts) for parts in zip(*shares, strict=True))
    return ClassScores(
        entries=dataset.entries,
        anomaly_maps=maps,
        image_scores=metrics.image_scores(maps, config.score_pool),
        labels=np.array([entry.label for entry in dataset.entries], np.int64),
        masks=masks,
        has_mask=has_mask,
    )


def not_numbers(scores: ClassScores) -> str:
    """Say how many images the network gives NaN for, and why; "" where there are none."""
    number = int(np.count_nonzero(~np.isfinite(scores.image_scores)))
    return f"the detector gives NaN for {number} of {len(scores.image_scores)} images: {DIVERGED}" if number else ""


def curves_of(scores: ClassScores) -> Curves:
    """Sort the scores of images and of pixels; images whose pixels' truth is not known count for the first alone."""
    if broken := not_numbers(scores):
        return Curves(Undefined(broken), Undefined(broken))
    image = _defined(lambda: metrics.image_curve(scores.image_scores, scores.labels))
    reason = _no_pixel_truth(scores)
    if reason:
        return Curves(image, Undefined(reason))
    maps, masks = scores.anomaly_maps, scores.masks
    if not scores.has_mask.all():
        maps, masks = maps[scores.has_mask], masks[scores.has_mask]
    return Curves(image, _defined(lambda: metrics.pixel_curve(maps, masks)))


def summarise(curves: Curves, *, fpr_limit: float = 0.3) -> dict[str, Metric]:
    """Return every metric of a class, in the order of ``METRICS``; ``fpr_limit`` is where AUPRO ends."""
    return {
        "image_auroc": _read(curves.image, lambda curve: curve.auroc),
        "pixel_auroc": _read(curves.pixel, lambda curve: curve.auroc),
        "aupro": _read(curves.pixel, lambda curve: curve.aupro(fpr_limit)),
        "image_ap": _read(curves.image, lambda curve: curve.ap),
        "pixel_ap": _read(curves.pixel, lambda curve: curve.ap),
        "image_f1_max": _read(curves.image, lambda curve: curve.f1_max.value),
        "pixel_f1_max": _read(curves.pixel, lambda curve: curve.f1_max.value),
    }


def mean_over_classes(by_class: Sequence[dict[str, Metric]]) -> dict[str, Metric]:
    """Return the mean of each metric over the classes that have it."""
    return {name: _mean([of_class[name].value for of_class in by_class]) for name in METRICS}


def _score_share(
    model: RealNet,
    dataset: TestDataset,
    config: EvaluationConfig,
    runtime: RuntimeConfig,
    precision: Precision,
    process: Process,
    description: str,
) -> _Share:
    mine = range(process.rank, len(dataset), process.world_size)
    loader = DataLoader(
        Subset(dataset, mine),
        batch_size=config.batch_size,
        num_workers=min(runtime.num_workers, len(mine) // config.batch_size),
        worker_init_fn=leave_signals_to_main,
        pin_memory=process.device.type == "cuda",
    )
    shape = (len(mine), *dataset.image_size)
    share = _Share(np.zeros(shape, np.float32), np.zeros(shape, np.bool_), np.zeros(len(mine), np.bool_))
    done = 0
    with bar(total=len(mine), description=description, is_main=process.is_main and bool(description)) as progress:
        for batch in loader:
            part = slice(done, done := done + len(batch["image"]))
            share.anomaly_maps[part] = anomaly_maps(model, batch["image"], precision).cpu().numpy()
            share.masks[part] = batch["mask"][:, 0].numpy() > 0
            share.has_mask[part] = batch["has_mask"].numpy()
            progress.update(part.stop - part.start)
    return share


def _interleaved(parts: Sequence[NDArray]) -> NDArray:
    """Put rank r's items back to the places r, r + world size and so on."""
    if len(parts) == 1:
        return parts[0]
    whole = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype)
    for rank, part in enumerate(parts):
        whole[rank :: len(parts)] = part
    return whole


def _no_pixel_truth(scores: ClassScores) -> str:
    """Say why the pixels of these images have no truth; "" where they have."""
    if not len(scores.labels):
        return "no images"
    if not scores.labels.any():
        return "no defect image"
    return "" if scores.has_mask[scores.labels == 1].any() else "no defect image has a mask"


def _defined(make: Callable[[], ScoreCurve]) -> ScoreCurve | Undefined:
    try:
        return make()
    except metrics.MetricUndefined as error:
        return Undefined(str(error))


def _read(curve: ScoreCurve | Undefined, value: Callable[[ScoreCurve], float]) -> Metric:
    return Metric(None, curve.reason) if isinstance(curve, Undefined) else Metric(value(curve))


def _mean(values: Sequence[float | None]) -> Metric:
    present = [value for value in values if value is not None]
    return Metric(float(np.mean(present))) if present else Metric(None, "no class has it")
