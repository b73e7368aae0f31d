"""Score sampled images beside normal ones of their class, and put them in order (docs/method.md, Quality of images).

No image is looked at here: each is described by numbers (:mod:`realnet.sdas.descriptions`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from realnet.errors import UserError
from realnet.metrics.two_samples import LEAST_SAMPLE, ROWS_AT_ONCE, Estimate, energy_distance

COPY = 0.5
"""An image is a copy below this distance; 1 is what normal images commonly have from the next one."""
FOLDS = 8
"""Parts of the normal images, each measured by the Gaussian of the others."""
SHRINKAGE = 0.1
"""Of the Gaussian's covariance towards a sphere, since there are fewer images than numbers that describe them."""
LEAST_NORMAL = 4
"""The fewest different normal images to compare with."""
ROUNDING = 1e-5
"""Distance of equal images' descriptions, as a share of their length."""


@dataclass(frozen=True)
class Descriptions:
    """The numbers that describe N images, by L levels of features (docs/method.md, Quality of images).

    Attributes:
        appearance: (N, L, K), which tells what is seen, wherever it is.
        layout: (N, L, K), which tells also where it is.
    """

    appearance: Tensor
    layout: Tensor


@dataclass(frozen=True)
class ImageScore:
    """The scores of an image (docs/method.md, Quality of images).

    Attributes:
        nearest_normal: distance from the nearest normal image; normal images commonly have 1 from each other.
        nearest_earlier: distance, in the same unit, from the nearest image before it in the folder; None for the first.
        off_manifold: distance from the distribution of normal images, which themselves commonly have 1.
        rank: place among the folder's images, from 1, the best.
    """

    nearest_normal: float
    nearest_earlier: float | None
    off_manifold: float
    rank: int

    @property
    def is_copy(self) -> bool:
        """Tell whether the image repeats a normal image or an earlier one."""
        return min(self.nearest_normal, torch.inf if self.nearest_earlier is None else self.nearest_earlier) < COPY


@dataclass(frozen=True)
class Quality:
    """The scores of a folder's images, in their order, and how far the folder is from normal images as a whole.

    Attributes:
        scores: one for each image.
        realism: the energy distance of all images from the normal ones, 0 if they cannot be told apart; None for fewer
            than three images.
        widest: the largest ``off_manifold`` of a normal image.
    """

    scores: tuple[ImageScore, ...]
    realism: Estimate | None
    widest: float


def judge(samples: Descriptions, normal: Descriptions) -> Quality:
    """Score samples beside normal images, each of which counts once (docs/method.md, Quality of images).

    Raises:
        UserError: if fewer than ``LEAST_NORMAL`` normal images differ.
    """
    differ = _is_new(normal.appearance) & _is_new(normal.layout)
    if differ.sum() < LEAST_NORMAL:
        raise UserError(
            f"{differ.sum()} different normal images are too few to compare with; add some ({LEAST_NORMAL})"
        )
    normal = Descriptions(normal.appearance[differ], normal.layout[differ])
    layout, normal_layout = _on_one_scale(samples.layout, normal.layout)
    unit = _nearest_other(normal_layout).median().clamp_min(1e-9)
    nearest, earlier = _nearest(layout, normal_layout) / unit, _nearest_earlier(layout) / unit
    looks, normal_looks = _on_one_scale(samples.appearance, normal.appearance)
    own = _cross_fitted(normal_looks)
    off = _mahalanobis(looks, normal_looks) / own.median()
    rank = _ranks(nearest.minimum(earlier), off)
    rows = zip(nearest.tolist(), earlier.tolist(), off.tolist(), rank, strict=True)
    scores = (ImageScore(n, e if e < torch.inf else None, o, r) for n, e, o, r in rows)
    realism = energy_distance(looks, normal_looks) if len(looks) >= LEAST_SAMPLE else None
    return Quality(tuple(scores), realism, float((own / own.median()).max()))


def _is_new(vectors: Tensor) -> Tensor:
    """Tell of each of (N, L, K) whether it differs from all before it by more than rounding."""
    rows = vectors.double().flatten(1)
    return _nearest_earlier(rows) > ROUNDING * rows.norm(dim=1)


def _ranks(nearest: Tensor, off_manifold: Tensor) -> list[int]:
    """Return each image's place: first those that are no copies, the nearest to the manifold first; then the copies."""
    is_copy = nearest < COPY
    keys = torch.where(is_copy, -nearest, off_manifold).tolist()
    order = sorted(range(len(keys)), key=lambda index: (bool(is_copy[index]), keys[index]))
    places = dict(zip(order, range(1, len(order) + 1), strict=True))
    return [places[index] for index in range(len(order))]


def _on_one_scale(samples: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
    """Return (N, L, K) as float64 (N, L·K), with each level's numbers about the normal mean, in their deviation."""
    samples, normal = samples.double(), normal.double()
    mean = normal.mean(dim=0)
    deviation = (normal - mean).square().sum(dim=2).mean(dim=0).sqrt().clamp_min(1e-9)[:, None]
    return ((samples - mean) / deviation).flatten(1), ((normal - mean) / deviation).flatten(1)


def _nearest(rows: Tensor, others: Tensor) -> Tensor:
    return torch.cat([torch.cdist(part, others).amin(dim=1) for part in rows.split(ROWS_AT_ONCE)])


def _nearest_other(rows: Tensor) -> Tensor:
    """Return each row's distance from the nearest of the other rows, (N,)."""
    return _nearest_allowed(rows, torch.ne)


def _nearest_earlier(rows: Tensor) -> Tensor:
    """Return each row's distance from the nearest of the rows before it, (N,); infinity for the first."""
    return _nearest_allowed(rows, torch.gt)


def _nearest_allowed(rows: Tensor, allows: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return each row's distance from the nearest row that is allowed, by the numbers of both rows."""
    numbers = torch.arange(len(rows))
    parts = zip(rows.split(ROWS_AT_ONCE), numbers.split(ROWS_AT_ONCE), strict=True)
    found = [
        torch.cdist(part, rows).masked_fill(~allows(own[:, None], numbers), torch.inf).amin(dim=1)
        for part, own in parts
    ]
    return torch.cat(found)


def _cross_fitted(normal: Tensor) -> Tensor:
    """Return the distance (M,) of each normal image from the Gaussian of the folds that do not hold it."""
    fold = torch.arange(len(normal)) % min(FOLDS, len(normal))
    distances = normal.new_empty(len(normal))
    for number in fold.unique():
        is_held = fold == number
        distances[is_held] = _mahalanobis(normal[is_held], normal[~is_held])
    return distances.clamp_min(1e-9)


def _mahalanobis(rows: Tensor, normal: Tensor) -> Tensor:
    """Return the Mahalanobis distance (N,) of rows from the Gaussian of normal ones, with a shrunk covariance."""
    mean, covariance = normal.mean(dim=0), torch.cov(normal.mT)
    sphere = covariance.diagonal().mean().clamp_min(1e-9) * torch.eye(len(covariance), dtype=normal.dtype)
    factor = torch.linalg.cholesky((1 - SHRINKAGE) * covariance + SHRINKAGE * sphere)
    return torch.linalg.solve_triangular(factor, (rows - mean).mT, upper=False).square().mean(dim=0).sqrt()
