"""Fit the statistics of normal features before a detector's first training step, fold by fold.

Statistics that include an image make it look more normal than any test image. So each training image is measured by the
statistics of the folds that do not hold it (docs/method.md, Normal statistics).
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from itertools import groupby, islice, product
from operator import add
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from realnet.anomalies.foreground import foreground_mask
from realnet.anomalies.probes import draw_probe
from realnet.config import FeatureConfig, Foreground
from realnet.data.cache import ImageCache, PartOfCache
from realnet.data.images import Image, to_batch
from realnet.data.items import flipped_and_turned
from realnet.data.tiles import Tiling
from realnet.errors import Stopped
from realnet.metrics.curves import image_curve
from realnet.models.by_class import looks_of
from realnet.models.gaussian import Gaussians, Moments, by_position, shrink
from realnet.models.normal import ChannelScale, root_mean_square
from realnet.models.realnet import RealNet
from realnet.runtime import distributed
from realnet.runtime.distributed import World
from realnet.runtime.precision import in_float32
from realnet.runtime.progress import bar
from realnet.runtime.randomness import generator
from realnet.training.normal_features import NormalFeatures
from realnet.training.statistics_need import require_folds

logger = logging.getLogger("realnet")

ItemT = TypeVar("ItemT")
Kind = Literal["channel", "pooled", "position"]
EVERYWHERE = frozenset({"channel", "pooled"})
"""The kinds that measure all positions alike."""
SHRINKAGES = (0.0, 0.1, 0.5, 1.0)  # of these, ``auto`` prefers the first
TOLERANCE = 0.04
"""How much better the image AUROC of probes must be to give up the first choice for a later one: drawn probes rank
nearer ones wrongly (docs/method.md, Normal statistics)."""
NUM_JUDGED, PROBE_SEED = 16, 3
"""Images of each fold on which ``auto`` decides, each with a probe and without."""
BATCH = 8
MOST_TILES = 2048
"""Tiles that are looked at, of all photographs together, but at least one of each."""


class Choice(NamedTuple):
    """How features are normalised: the kind, and for ``position`` the shrinkage."""

    normalise: Kind
    shrinkage: float


class Judged(NamedTuple):
    """A normal image's fold, its features (1, C, h, w) by block, and those of the same image with a probe."""

    fold: int
    normal: dict[str, Tensor]
    probe: dict[str, Tensor]


class NormalStatistics:
    """The statistics of a class's features, by fold (docs/method.md, Normal statistics).

    Args:
        model: the detector of the class, after AFS; its normal features to compare with are chosen.
        images: the clean training images of the class, uint8 RGB (H, W, 3) each.
        held_out: normal images that training does not use, a fold of their own.
        config: the kind of statistics, shrinkage, ridge and number of folds.
        augment: whether training flips and rotates images; the statistics then include flipped and rotated images.
        tiling: the tiles in which the detector sees images; the statistics are those of the grid's tiles then, or of
            ``MOST_TILES`` of them, drawn evenly from the images.
        world: this process; the processes share the images.
        levels_of: returns the backbone's levels of images.

    Raises:
        UserError: for fewer images than folds or processes.
    """

    def __init__(
        self,
        model: RealNet,
        images: ImageCache | PartOfCache,
        config: FeatureConfig,
        *,
        held_out: ImageCache | None = None,
        foreground: Foreground,
        augment: bool,
        world: World,
        levels_of: Callable[[Tensor], Mapping[str, Tensor]],
        tiling: Tiling | None = None,
    ) -> None:
        require_folds(len(images), config.folds, world.size)
        self.model, self.images, self.config, self.world = model, images, config, world
        self.levels_of = levels_of
        self.held_out, self._tiling = held_out, tiling
        self.num_folds, self._augment, self.foreground = config.folds, augment, foreground
        self.whole, self._folds = nn.ModuleDict(), list[nn.ModuleDict]()
        self.looks = torch.zeros(0)

    def fit(self, chosen: Choice | None = None) -> Choice:
        """Fit ``whole``, of all images, and each fold by ``chosen``, or by a new choice; return the choice."""
        moments = self._moments()
        choice = chosen or self._choose(moments)
        whole = {name: sum_of(folds) for name, folds in moments.items()}
        self.whole = self._fitted(whole, choice)
        number = len(next(iter(moments.values())))
        self._folds = [self._fitted(_without(whole, moments, fold), choice) for fold in range(number)]
        return choice

    def without_held_out(self) -> nn.ModuleDict:
        """Return the statistics, by block, that have not seen the held-out images."""
        return self.whole if self.held_out is None else self._folds[-1]

    def _fitted(self, moments: Mapping[str, Moments], choice: Choice) -> nn.ModuleDict:
        """Return the statistics of features with these moments, by block."""
        made = self.model.empty_statistics(choice.normalise, self.images.image_size)
        for name, module in made.items():
            _fit(module, moments[name], choice, self.config.ridge)
        return made

    def normalise(self, selected: Mapping[str, Tensor], indexes: Tensor) -> dict[str, Tensor]:
        """Normalise features by the statistics of the folds that do not hold their images.

        Args:
            selected: (B, C, h, w) by block.
            indexes: (B,), the images' numbers among the class's, on the CPU.
        """
        folds = indexes % self.num_folds
        found: dict[str, Tensor] = {}
        for name, features in selected.items():
            whole = torch.empty(features.shape, dtype=torch.float32, device=features.device)
            for fold in folds.unique().tolist():
                rows = (folds == fold).nonzero()[:, 0].to(features.device)
                whole[rows] = in_float32(self._folds[fold][name], features[rows])
            found[name] = whole
        return found

    @torch.no_grad()
    def _moments(self) -> dict[str, list[Moments]]:
        """Return the moments of each fold, by block, over the images of all processes; keep normal features, too."""
        moments: dict[str, list[Moments]] = {}
        kept = NormalFeatures(len(self.images) * len(self._views(self.images[0], 0))) if self.model.nearest else None
        looks = []
        for fold, features in self._features():
            looks.append(looks_of({block.name: features[block.name] for block in self.model.afs.blocks}))
            if kept and fold < self.num_folds:
                kept.add(self.model.compared(features))
            for name, values in ((name, self._samples(values)) for name, values in features.items()):
                if name not in moments:
                    origin = distributed.mean(by_position(values).mean(dim=1))
                    number = self.num_folds + (self.held_out is not None)
                    moments[name] = [Moments.empty(origin) for _ in range(number)]
                moments[name][fold].add(values)
        self.looks = torch.cat([part.to(self.world.device) for part in distributed.gather(torch.cat(looks))])
        if kept:
            kept.fill(self.model.nearest, is_main=self.world.is_main)
        return {name: [_joined(fold, self.world.size) for fold in folds] for name, folds in moments.items()}

    @torch.no_grad()
    def _choose(self, moments: Mapping[str, Sequence[Moments]]) -> Choice:
        """Return the choice that ``auto`` makes: the first candidate that separates probes about as well as any."""
        config = self.config
        shrinkages = SHRINKAGES if config.shrinkage == "auto" else (config.shrinkage,)
        if config.normalise == "channel" or config.normalise == "pooled":
            return Choice(config.normalise, 0.0)
        candidates = [Choice("position", value) for value in shrinkages]
        if config.normalise == "auto":
            candidates.append(Choice("channel", 0.0))
        if len(candidates) == 1:
            return candidates[0]
        judged = self._judged()
        figures = {choice: self._separation(choice, moments, judged) for choice in candidates}
        best = next(choice for choice in candidates if figures[choice] >= max(figures.values()) - TOLERANCE)
        listed = ", ".join(f"{_text(choice)} {value:.3f}" for choice, value in figures.items())
        logger.info("features are measured by %s; image AUROC of probes on held-out folds: %s", _text(best), listed)
        return best

    def _judged(self) -> list[Judged]:
        """Return the images on which candidates are compared, some of each fold."""
        found = []
        for fold in range(self.num_folds):
            members = range(fold, len(self.images), self.num_folds)
            for number in np.linspace(0, len(members) - 1, min(NUM_JUDGED, len(members))).astype(int):
                image = self.images[members[number]]
                numbers = generator("normal statistics", PROBE_SEED, fold, int(number))
                probe, mask = draw_probe(image, foreground_mask(image, self.foreground), numbers)
                if mask.any():
                    features = self.selected([image, probe])
                    normal, odd = ({name: f[i : i + 1] for name, f in features.items()} for i in (0, 1))
                    found.append(Judged(fold, normal, odd))
        return found

    def _separation(self, choice: Choice, moments: Mapping[str, Sequence[Moments]], judged: Sequence[Judged]) -> float:
        """Return the image AUROC of probes by the distance alone, each image measured by folds without it."""
        scores: list[tuple[float, float]] = []
        whole = {name: sum_of(folds) for name, folds in moments.items()}
        for fold in range(self.num_folds):
            modules = self._fitted(_without(whole, moments, fold), choice)
            mine = (one for one in judged if one.fold == fold)
            scores += [(self._score(one.normal, modules), self._score(one.probe, modules)) for one in mine]
        if not scores:
            return 0.0
        return image_curve(np.array(scores).T.ravel(), np.repeat([0, 1], len(scores))).auroc

    def _score(self, features: Mapping[str, Tensor], modules: nn.ModuleDict) -> float:
        squares = [modules[block.name](features[block.name]).square() for block in self.model.afs.blocks]
        return float(root_mean_square(squares, self.images.image_size).max())

    @torch.no_grad()
    def selected(self, images: Sequence[Image]) -> dict[str, Tensor]:
        """Return the features of images that have statistics, float32 and not normalised, by block."""
        batch = to_batch(images).to(self.world.device)
        features = self.model.measured(self.levels_of(batch), batch.shape[-2:])
        return {name: values.float() for name, values in features.items()}

    def _features(self) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """Yield (fold, batch of selected features by block), not normalised, of this process's share of the images."""
        jobs = [(fold, i) for fold in range(self.num_folds) for i in range(fold, len(self.images), self.num_folds)]
        jobs += [(self.num_folds, i) for i in range(len(self.held_out or ()))]
        mine = jobs[self.world.rank :: self.world.size]
        with bar(total=len(mine), description="normal features", is_main=self.world.is_main) as progress:
            for fold, members in groupby(mine, key=lambda job: job[0]):
                images = self.images if fold < self.num_folds or self.held_out is None else self.held_out
                for part in batched((index for _, index in members), 1 if self._tiling else BATCH):
                    if self.world.size == 1 and self.world.stop.asked:
                        raise Stopped("stopped before the first step; run the same command again to continue")
                    views = [view for index in part for view in self._views(images[index], index)]
                    for some in batched(views, BATCH if self._tiling else len(views)):
                        yield fold, self.selected(some)
                    progress.update(len(part))

    def _samples(self, features: Tensor) -> Tensor:
        """Reshape features for the moments: with ``channel`` and ``pooled``, each position is a sample of its own."""
        if self.config.normalise not in EVERYWHERE:
            return features
        return features.movedim(1, 3).reshape(-1, features.shape[1], 1, 1)

    def _views(self, image: Image, index: int) -> list[Image]:
        """Return what training may see of an image, with augmentation flipped and rotated: it, or some of its tiles."""
        views = flipped_and_turned(image) if self._augment else [image]
        if self._tiling is None:
            return views
        places = list(product(views, self._tiling.corners))
        number = max(1, MOST_TILES // (len(self.images) + len(self.held_out or ())))
        numbers = generator("tiles of normal statistics", index)
        drawn = sorted(numbers.choice(len(places), min(number, len(places)), replace=False))
        return [self._tiling.cut(*places[place]) for place in drawn]


def sum_of(folds: Sequence[Moments]) -> Moments:
    """Return the moments of all folds together."""
    return reduce(add, folds)


def _without(whole: Mapping[str, Moments], moments: Mapping[str, Sequence[Moments]], fold: int) -> dict[str, Moments]:
    """Return the moments of all folds but one, by block."""
    return {name: whole[name] - folds[fold] for name, folds in moments.items()}


def batched(items: Iterable[ItemT], number: int) -> Iterator[list[ItemT]]:
    """Yield lists of ``number`` items; from Python 3.12 on, ``itertools.batched`` does this."""
    rest = iter(items)
    while part := list(islice(rest, number)):
        yield part


def _joined(mine: Moments, num_processes: int) -> Moments:
    if num_processes == 1:
        return mine
    count = sum(distributed.gather(mine.count))
    first, second = (distributed.mean(value) * num_processes for value in (mine.first, mine.second))
    return Moments(mine.origin, count, first, second)


def _fit(module: nn.Module, moments: Moments, choice: Choice, ridge: float) -> None:
    if isinstance(module, Gaussians):
        module.fit(moments.mean(), shrink(moments.covariance(), choice.shrinkage, ridge))
    elif isinstance(module, ChannelScale):
        module.fit(moments, ridge)


def _text(choice: Choice) -> str:
    return f"position (shrinkage {choice.shrinkage:g})" if choice.normalise == "position" else choice.normalise
