"""Fit the statistics of normal features of each class that a detector is trained on, and normalise by them.

See docs/method.md, Unified detector.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from realnet.config import RealNetConfig
from realnet.data.cache import ImageCache
from realnet.data.tiles import tiling_of
from realnet.models.build import store_for
from realnet.models.by_class import joined
from realnet.models.known_features import KnownFeatures
from realnet.models.realnet import RealNet
from realnet.runtime.distributed import World
from realnet.training.detector_data import DetectorData
from realnet.training.normal_statistics import EVERYWHERE, Choice, NormalStatistics
from realnet.training.statistics_need import require_memory


def statistics_by_class(
    model: RealNet, images: ImageCache, data: DetectorData, config: RealNetConfig, world: World
) -> "StatisticsByClass":
    """Return the statistics, not yet fitted, of a detector's classes.

    Args:
        model: the detector, after AFS.
        images: of ``data.train``.
        data: the images of each class.
        config: of the detector.
        world: this process; the processes share the images.

    Raises:
        UserError: for fewer images of a class than folds or processes, or if the statistics do not fit into memory.
    """
    parts = data.by_class()
    store = None if config.train.augment or config.tiles else store_for(config.runtime)  # which are drawn anew
    known = KnownFeatures(model.backbone, [*model.afs.level_names(), *model.deep.level_names()], store)
    if config.features.normalise not in EVERYWHERE:
        require_memory(model, config.image_size, config.features.folds, world.device, len(parts))
    members: dict[str, list[int]] = {part.class_name: [] for part in parts}
    for number, entry in enumerate(data.train):
        members[entry.class_name].append(number)

    def of(number: int, part: DetectorData) -> NormalStatistics:
        held_out = [part.image_root / entry.filename for entry in part.held_out]
        return NormalStatistics(
            model.of_class(number),
            images.part(members[part.class_name]),
            config.features,
            held_out=ImageCache(held_out, config.image_size, bits=part.image_bits) if held_out else None,
            foreground=part.synthesizer.foreground,
            augment=config.train.augment,
            tiling=tiling_of(config),
            world=world,
            levels_of=known,
        )

    found = [of(number, part) for number, part in enumerate(parts)]
    return StatisticsByClass(model, images, found, list(members.values()))


class StatisticsByClass:
    """The statistics of one class or several, by which their training images are normalised.

    Args:
        model: the detector, after AFS; its ``normal`` modules are replaced, and its rule is fitted.
        images: the clean training images of all classes.
        parts: the statistics of each class.
        members: the numbers of each class's images in the training set, in the order of its statistics' images.
    """

    def __init__(
        self, model: RealNet, images: ImageCache, parts: Sequence[NormalStatistics], members: Sequence[Sequence[int]]
    ) -> None:
        self.model, self.images, self.parts = model, images, parts
        self._classes, self._places = torch.zeros(2, len(images), dtype=torch.long)
        for number, own in enumerate(members):
            self._classes[own], self._places[own] = number, torch.arange(len(own))

    def fit(self, chosen: Sequence[Choice] | None = None) -> list[Choice]:
        """Fit the statistics of each class by ``chosen``, or by new choices; return the choices."""
        known: Sequence[Choice | None] = chosen or [None] * len(self.parts)
        choices = [part.fit(one) for part, one in zip(self.parts, known, strict=True)]
        self.model.normal = joined([part.whole for part in self.parts])
        if self.model.rule:
            self.model.rule.fit([part.looks for part in self.parts])
        return choices

    def without_held_out(self) -> nn.ModuleDict:
        """Return the statistics, by block, that have not seen the held-out images."""
        return joined([part.without_held_out() for part in self.parts])

    def normalise(self, selected: Mapping[str, Tensor], indexes: Tensor) -> dict[str, Tensor]:
        """Normalise features by the statistics of their images' classes and folds (:class:`NormalStatistics`).

        Args:
            selected: (B, C, h, w) by block.
            indexes: (B,), the images' numbers in the training set, on the CPU.
        """
        classes, places = self._classes[indexes], self._places[indexes]
        found = {name: torch.empty(f.shape, dtype=torch.float32, device=f.device) for name, f in selected.items()}
        for number in classes.unique().tolist():
            own = (classes == number).nonzero()[:, 0]
            rows = {name: features[own.to(features.device)] for name, features in selected.items()}
            for name, features in self.parts[number].normalise(rows, places[own]).items():
                found[name][own.to(features.device)] = features
        return found

    @torch.no_grad()
    def of_images(self, indexes: Sequence[int]) -> dict[str, Tensor]:
        """Return the normalised features (B, C, h, w) of clean training images, by block."""
        found = self.parts[0].selected([self.images[index] for index in indexes])
        return self.normalise({block.name: found[block.name] for block in self.model.afs.blocks}, torch.tensor(indexes))
