"""Training items of the detector: normal images, with or without a local anomaly."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from realnet.anomalies.foreground import find_object
from realnet.anomalies.synthesis import AnomalySynthesizer, JointSynthesizer
from realnet.data.cache import CACHE_MIB, ImageCache
from realnet.data.images import mask_to_tensor, normalise
from realnet.data.index import Entry
from realnet.data.items import flip_and_turn
from realnet.data.order import ItemKey
from realnet.runtime.randomness import DRAWS, generator

logger = logging.getLogger(__name__)


NUM_FOREGROUND_PROBES = 8


class DetectorItem(TypedDict):
    """A training item of the detector; (H, W) is the input size, with tiles that of a tile."""

    image: Tensor
    """(3, H, W) float32, ImageNet-normalised, with the anomaly if there is one."""
    clean: Tensor
    """(3, H, W) float32, the same image without the anomaly."""
    mask: Tensor
    """(1, H, W) float32 in {0, 1}."""
    has_anomaly: bool
    index: int


class DetectorTrainDataset(Dataset[DetectorItem]):
    """Normal images of one class or several, with or without a local anomaly (docs/method.md, Detector training).

    With a synthesizer of tiles, an item is a tile of an image, drawn anew in each epoch (docs/method.md, Tiles).

    For AFS, which takes no ``normal`` items, set ``only_anomalous`` before the loader's workers start.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        image_root: Path,
        *,
        image_size: tuple[int, int],
        synthesizer: AnomalySynthesizer | JointSynthesizer,
        seed: int,
        augment: bool = False,
        only_anomalous: bool = False,
        image_bits: int = 16,
        draws: int = DRAWS,
        cache_mib: int = CACHE_MIB,
    ) -> None:
        self.entries, self.image_size, self.synthesizer = list(entries), image_size, synthesizer
        self.seed, self.augment, self.only_anomalous, self.draws = seed, augment, only_anomalous, draws
        files = [image_root / entry.filename for entry in entries]
        self.images = ImageCache(files, image_size, bits=image_bits, budget_mib=cache_mib)
        self._members: dict[str, list[int]] = {}
        for index, entry in enumerate(self.entries):
            self._members.setdefault(entry.class_name, []).append(index)
        for name, members in self._members.items():
            if synthesizer.of(name).foreground == "auto":
                _report_auto_foreground(self.images, members, name)

    @property
    def groups(self) -> list[list[int]] | None:
        """Return the items of each class, which batches hold alike (:class:`EpochOrder`); None for a single class."""
        return list(self._members.values()) if len(self._members) > 1 else None

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, key: ItemKey) -> DetectorItem:
        epoch, index = key
        rng = item_generator(self.seed, epoch, index, draws=self.draws)
        image = self.images[index]
        if self.augment:
            image = flip_and_turn(image, rng)
        synthesizer = self.synthesizer.of(self.entries[index].class_name)
        anomaly = synthesizer.synthesize(image, rng, only_anomalous=self.only_anomalous)
        clean, has_anomaly = normalise(synthesizer.tile_at(image, anomaly.corner)), bool(anomaly.mask.any())
        return DetectorItem(
            image=normalise(anomaly.image) if has_anomaly else clean,
            clean=clean,
            mask=mask_to_tensor(anomaly.mask),
            has_anomaly=has_anomaly,
            index=index,
        )


def item_generator(seed: int, epoch: int, index: int, *, draws: int = DRAWS) -> np.random.Generator:
    """Return the generator of an item's draws; with ``draws`` 1, that of version 1.0."""
    return generator("detector", seed, epoch, index, draws=draws)


def _report_auto_foreground(images: ImageCache, members: Sequence[int], class_name: str) -> None:
    """Log, once per dataset, how often the rule ``auto`` finds an object in images of this class, its ``members``."""
    probes = [images[index] for index in members[:: -(-len(members) // NUM_FOREGROUND_PROBES)]]
    fallbacks = sum(find_object(probe) is None for probe in probes)
    logger.info(
        "foreground rule 'auto' of class %s: no object found in %d of %d images, so all of their pixels are foreground",
        class_name,
        fallbacks,
        len(probes),
    )
