"""Torch datasets. A training item's key is (epoch, index), and its random draws are those of (seed, epoch, index).

So neither the number of workers nor the number of processes changes an item.
"""

import logging
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from realnet.anomalies.foreground import find_object
from realnet.data.images import Image, Mask, normalise, read_image, read_mask, resize_image, resize_mask, to_signed
from realnet.data.index import Entry
from realnet.data.order import ItemKey
from realnet.anomalies.synthesis import AnomalySynthesizer
from realnet.errors import UserError

logger = logging.getLogger(__name__)

CACHE_MIB = 1024
NUM_FOREGROUND_PROBES = 8


class DetectorItem(TypedDict):
    """A training item of the detector; H, W are the input size."""

    image: Tensor
    """(3, H, W) float32, ImageNet-normalised, with the anomaly."""
    clean: Tensor
    """(3, H, W) float32, the same without it."""
    mask: Tensor
    """(1, H, W) float32 in {0, 1}."""
    has_anomaly: bool
    index: int


class TestItem(TypedDict):
    """A test image and its truth; H, W are the input size."""

    image: Tensor
    """(3, H, W) float32, ImageNet-normalised."""
    mask: Tensor
    """(1, H, W) float32 in {0, 1}; all 0 where it is not known."""
    has_mask: bool
    """Whether the mask is known: normal images, and defects with a mask file."""
    label: int
    filename: str
    height: int
    """Of the file, before resizing."""
    width: int


class DiffusionItem(TypedDict):
    """A training item of the diffusion model and of the classifier; H, W are the input size."""

    image: Tensor
    """(3, H, W) float32 in [-1, 1]."""
    noise: Tensor
    """(3, H, W) float32, standard normal."""
    t: int
    class_index: int


class ImageCache:
    """The resized training images as bytes, each decoded once for all workers, within a budget.

    The memory is shared with workers that are forked; where they are spawned each has its own.
    """

    def __init__(self, files: Sequence[Path], image_size: tuple[int, int], *, budget_mib: int = CACHE_MIB) -> None:
        self.files, self.image_size, self.budget_mib = list(files), image_size, budget_mib
        shape = (*image_size, 3)
        self.capacity = min(len(self.files), budget_mib * 2**20 // int(np.prod(shape)))
        self._pixels = _shared_bytes((self.capacity, *shape))
        self._is_filled = _shared_bytes((self.capacity,))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Image:
        """Return an image, RGB (H, W, 3), which the caller must not change."""
        if index < self.capacity and self._is_filled[index]:
            return self._pixels[index]
        image = resize_image(read_image(self.files[index]), self.image_size)
        if index < self.capacity:
            self._pixels[index] = image
            self._is_filled[index] = 1
        return image

    def __reduce__(self) -> tuple[Any, ...]:
        return _make_cache, (self.files, self.image_size, self.budget_mib)


class DetectorTrainDataset(Dataset[DetectorItem]):
    """Normal images of one class, each with a local anomaly or none.

    Set ``only_anomalous`` (before the loader's workers start) for AFS, whose batches hold no ``normal`` items.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        image_root: Path,
        *,
        image_size: tuple[int, int],
        synthesizer: AnomalySynthesizer,
        seed: int,
        augment: bool = False,
        only_anomalous: bool = False,
        cache_mib: int = CACHE_MIB,
    ) -> None:
        self.entries, self.image_size, self.synthesizer = list(entries), image_size, synthesizer
        self.seed, self.augment, self.only_anomalous = seed, augment, only_anomalous
        self.images = ImageCache([image_root / e.filename for e in entries], image_size, budget_mib=cache_mib)
        if synthesizer.foreground == "auto" and self.entries:
            _report_auto_foreground(self.images, self.entries[0].class_name)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, key: ItemKey) -> DetectorItem:
        epoch, index = key
        rng = np.random.default_rng((self.seed, epoch, index))
        image = self.images[index]
        if self.augment:
            image = flip_and_turn(image, rng)
        anomaly = self.synthesizer.synthesize(image, rng, only_anomalous=self.only_anomalous)
        clean, has_anomaly = normalise(image), bool(anomaly.mask.any())
        return DetectorItem(
            image=normalise(anomaly.image) if has_anomaly else clean,
            clean=clean,
            mask=_to_tensor(anomaly.mask),
            has_anomaly=has_anomaly,
            index=index,
        )


class TestDataset(Dataset[TestItem]):
    """A test split, in the order of its entries; the key is the index alone."""

    __test__ = False  # a class whose name pytest would collect

    def __init__(self, entries: Sequence[Entry], image_root: Path, *, image_size: tuple[int, int]) -> None:
        self.entries, self.image_root, self.image_size = list(entries), image_root, image_size

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> TestItem:
        entry = self.entries[index]
        image = read_image(self.image_root / entry.filename)
        height, width = image.shape[:2]
        return TestItem(
            image=normalise(resize_image(image, self.image_size)),
            mask=_to_tensor(resize_mask(self._mask(entry, (height, width)), self.image_size)),
            has_mask=entry.label == 0 or entry.maskname is not None,
            label=entry.label,
            filename=entry.filename,
            height=height,
            width=width,
        )

    def _mask(self, entry: Entry, size: tuple[int, int]) -> Mask:
        if entry.label == 0 or entry.maskname is None:
            return np.zeros(size, np.bool_)
        mask = read_mask(self.image_root / entry.maskname)
        if mask.shape != size:
            raise UserError(
                f"the mask {self.image_root / entry.maskname} is {mask.shape[0]}x{mask.shape[1]} pixels, its image "
                f"{entry.filename} {size[0]}x{size[1]}; give both the same size"
            )
        return mask


class DiffusionDataset(Dataset[DiffusionItem]):
    """Normal images of all classes with the timestep and the noise of their training step."""

    def __init__(
        self,
        entries: Sequence[Entry],
        image_root: Path,
        *,
        classes: Sequence[str],
        image_size: tuple[int, int],
        num_steps: int,
        seed: int,
        augment: bool = False,
        cache_mib: int = CACHE_MIB,
    ) -> None:
        """Take entries whose class names are among ``classes``, whose order numbers them; ``num_steps`` is T."""
        self.entries, self.image_size, self.num_steps = list(entries), image_size, num_steps
        self.seed, self.augment = seed, augment
        self.class_indexes = [list(classes).index(entry.class_name) for entry in self.entries]
        self.images = ImageCache([image_root / e.filename for e in entries], image_size, budget_mib=cache_mib)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, key: ItemKey) -> DiffusionItem:
        epoch, index = key
        rng = np.random.default_rng((self.seed, epoch, index))
        image = self.images[index]
        if self.augment:
            image = flip_and_turn(image, rng)
        return DiffusionItem(
            image=to_signed(image),
            noise=torch.from_numpy(rng.standard_normal((3, *self.image_size), dtype=np.float32)),
            t=int(rng.integers(self.num_steps)),
            class_index=self.class_indexes[index],
        )


def flip_and_turn(image: Image, rng: np.random.Generator) -> Image:
    """Flip each way half of the time and turn by a multiple of 90° (of 180° where the image is no square)."""
    flips_height, flips_width = rng.random(2) < 0.5
    quarter_turns = int(rng.integers(4))
    height, width = image.shape[:2]
    image = image[:: -1 if flips_height else 1, :: -1 if flips_width else 1]
    # OpenCV takes no views with negative strides
    return np.ascontiguousarray(np.rot90(image, quarter_turns if height == width else 2 * (quarter_turns % 2)))


def _to_tensor(mask: Mask) -> Tensor:
    return torch.from_numpy(mask[None].astype(np.float32))


def _shared_bytes(shape: tuple[int, ...]) -> Image:
    """Return zeros in memory that forked processes share (of which the system gives only what is written)."""
    size = int(np.prod(shape))
    return np.frombuffer(mmap.mmap(-1, max(size, 1)), np.uint8, count=size).reshape(shape)


def _make_cache(files: Sequence[Path], image_size: tuple[int, int], budget_mib: int) -> ImageCache:
    return ImageCache(files, image_size, budget_mib=budget_mib)


def _report_auto_foreground(images: ImageCache, class_name: str) -> None:
    """Say once, where the dataset is made, what the rule ``auto`` does to this class."""
    probes = [images[index] for index in range(0, len(images), -(-len(images) // NUM_FOREGROUND_PROBES))]
    fallbacks = sum(find_object(probe) is None for probe in probes)
    logger.info(
        "foreground rule 'auto' of class %s: finds no object in %d of %d images, which count as foreground whole",
        class_name,
        fallbacks,
        len(probes),
    )
