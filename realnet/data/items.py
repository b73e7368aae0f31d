"""Training items of the diffusion model and the classifier.

An item's key is (epoch, index), and (stage, seed, epoch, index) seed its random draws, so neither the number of workers
nor the number of processes changes an item.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from realnet.data.cache import CACHE_MIB, ImageCache
from realnet.data.images import Image, to_signed
from realnet.data.index import Entry
from realnet.data.order import ItemKey
from realnet.runtime.randomness import DRAWS, generator

logger = logging.getLogger(__name__)


class DiffusionItem(TypedDict):
    """A training item of the diffusion model and the classifier; (H, W) is the input size."""

    image: Tensor
    """(3, H, W) float32 in [-1, 1]."""
    noise: Tensor
    """(3, H, W) float32, standard normal."""
    t: int
    class_index: int


class DiffusionDataset(Dataset[DiffusionItem]):
    """Normal images of all classes, each with a timestep and noise (docs/method.md, Diffusion training)."""

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
        image_bits: int = 16,
        purpose: str = "diffusion",
        draws: int = DRAWS,
        cache_mib: int = CACHE_MIB,
    ) -> None:
        """Take entries of the given ``classes``; a class's index is its position there. ``num_steps`` is T.

        ``purpose``, ``seed`` and ``draws`` are for the items' :func:`realnet.runtime.randomness.generator`.
        """
        self.entries, self.image_size, self.num_steps = list(entries), image_size, num_steps
        self.seed, self.augment, self.purpose, self.draws = seed, augment, purpose, draws
        self.class_indexes = [list(classes).index(entry.class_name) for entry in self.entries]
        files = [image_root / entry.filename for entry in entries]
        self.images = ImageCache(files, image_size, bits=image_bits, budget_mib=cache_mib)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, key: ItemKey) -> DiffusionItem:
        epoch, index = key
        rng = generator(self.purpose, self.seed, epoch, index, draws=self.draws)
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
    """Flip along each axis with probability 1/2, then rotate by a random multiple of 90° (180° if not square)."""
    flips_height, flips_width = rng.random(2) < 0.5
    quarter_turns = int(rng.integers(4))
    height, width = image.shape[:2]
    image = image[:: -1 if flips_height else 1, :: -1 if flips_width else 1]
    # OpenCV does not accept views with negative strides
    return np.ascontiguousarray(np.rot90(image, quarter_turns if height == width else 2 * (quarter_turns % 2)))


def flipped_and_turned(image: Image) -> list[Image]:
    """Return all that :func:`flip_and_turn` may make of an image: 8 views, or 4 of one that is not square."""
    turns = range(4) if image.shape[0] == image.shape[1] else (0, 2)
    turned = [np.rot90(image, turn) for turn in turns]
    return [np.ascontiguousarray(view) for each in turned for view in (each, each[:, ::-1])]
