"""Decoded images kept in memory, within a budget."""

import mmap
import multiprocessing
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from realnet.data.images import Image, read_image, resize_image

CACHE_MIB = 1024


class ImageCache:
    """Cache of resized training images as uint8; images beyond the memory budget are decoded at each access.

    Forked workers share it, so each image is decoded once for all of them; spawned workers each have their own.

    Args:
        files: image files.
        image_size: (height, width) to resize to.
        bits: bits that 16-bit values use (``read_image``).
        budget_mib: most memory to use, in MiB.
    """

    def __init__(
        self, files: Sequence[Path], image_size: tuple[int, int], *, bits: int, budget_mib: int = CACHE_MIB
    ) -> None:
        self.files, self.image_size, self.bits, self.budget_mib = list(files), image_size, bits, budget_mib
        shape = (*image_size, 3)
        self.capacity = min(len(self.files), budget_mib * 2**20 // int(np.prod(shape)))
        self._pixels = _shared_bytes((self.capacity, *shape))
        self._is_filled = _shared_bytes((self.capacity,))
        self._order = _shared_lock()
        self._seen: set[int] = set()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Image:
        """Return an image as uint8 RGB (H, W, 3); the caller must not modify it."""
        if index < self.capacity and self._is_here(index):
            return self._pixels[index]
        image = resize_image(read_image(self.files[index], self.bits), self.image_size)
        if index < self.capacity:
            self._pixels[index] = image
            with self._order:
                self._is_filled[index] = 1
        return image

    def part(self, indexes: Sequence[int]) -> "PartOfCache":
        """Return some of the images, numbered from 0, which are kept here."""
        return PartOfCache(self, indexes)

    def _is_here(self, index: int) -> bool:
        """Tell whether an image is cached; the lock keeps processors such as ARM's from showing the flag too early."""
        if index not in self._seen:
            with self._order:
                if not self._is_filled[index]:
                    return False
            self._seen.add(index)
        return True

    def __reduce__(self) -> tuple[Any, ...]:
        return _make_cache, (self.files, self.image_size, self.bits, self.budget_mib)


class PartOfCache:
    """Some of the images of a cache."""

    def __init__(self, whole: ImageCache, indexes: Sequence[int]) -> None:
        self._whole, self._indexes, self.image_size = whole, indexes, whole.image_size

    def __len__(self) -> int:
        return len(self._indexes)

    def __getitem__(self, index: int) -> Image:
        """Return an image, as the cache does."""
        return self._whole[self._indexes[index]]


def _shared_bytes(shape: tuple[int, ...]) -> Image:
    """Return zeros in memory shared with forked processes; the system allocates a page only when it is written."""
    size = int(np.prod(shape))
    return np.frombuffer(mmap.mmap(-1, max(size, 1)), np.uint8, count=size).reshape(shape)


def _shared_lock() -> AbstractContextManager:
    """Return a lock shared with forked processes; where there are none, nothing is shared."""
    has_fork = "fork" in multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("fork").Lock() if has_fork else nullcontext()


def _make_cache(files: Sequence[Path], image_size: tuple[int, int], bits: int, budget_mib: int) -> ImageCache:
    return ImageCache(files, image_size, bits=bits, budget_mib=budget_mib)
