"""A class's test split, read and decoded once for all detectors and pictures."""

import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from realnet.config import RuntimeConfig
from realnet.data.images import Image, Mask, normalise, read_image, read_mask, resize_image, resize_mask
from realnet.data.index import Entry
from realnet.drawing.panels import panel_size
from realnet.drawing.thumbnails import THUMBNAIL_SIDE, thumbnail
from realnet.errors import UserError
from realnet.runtime import distributed
from realnet.runtime.contents import stamp
from realnet.runtime.distributed import World
from realnet.runtime.progress import bar
from realnet.runtime.signals import leave_signals_to_main


@dataclass(frozen=True)
class Truth:
    """The truth of the pixels of N test images.

    Attributes:
        masks: (N, H, W) bool at the input size; all False where ``has_mask`` is False.
        has_mask: (N,) bool, whether the truth of the pixels is known: normal images, and defects with a mask.
    """

    masks: NDArray[np.bool_]
    has_mask: NDArray[np.bool_]


@dataclass(frozen=True)
class Pictures:
    """The N test images at the sizes at which they are shown.

    Attributes:
        panels: (N, h, w, 3) uint8 RGB, for the heatmap files.
        canvases: (N, side, side, 3) uint8 RGB, with the report's thumbnails in the upper left corners.
        sizes: (N, 2) height and width of the thumbnails in pixels.
    """

    panels: Image
    canvases: Image
    sizes: NDArray[np.int64]

    def thumbnail(self, number: int) -> Image:
        """Return an image's thumbnail, uint8 RGB (H, W, 3)."""
        height, width = self.sizes[number]
        return self.canvases[number, :height, :width]


class _Item(TypedDict):
    """A decoded test image; (H, W) is the input size."""

    pixels: Image
    mask: Mask
    has_mask: bool
    panel: NotRequired[Image]
    canvas: NotRequired[Image]
    size: NotRequired[NDArray[np.int64]]


class TestSplit:
    """A class's test images at a detector's input size, shared by the processes of a run.

    The first pass reads the files and keeps the decoded images in a temporary file, from which later passes read.

    Args:
        entries: the test images.
        image_root: folder that their filenames are relative to.
        image_size: (H, W), the detector's input size.
        runtime: runtime settings of the config.
        world: this process; it reads every ``world.size``-th image.
        with_pictures: also keep the images that heatmaps and reports show.
    """

    __test__ = False  # a class whose name pytest would collect

    def __init__(
        self,
        entries: Sequence[Entry],
        image_root: Path,
        *,
        image_size: tuple[int, int],
        runtime: RuntimeConfig,
        world: World,
        with_pictures: bool = False,
    ) -> None:
        self.entries, self.image_size, self.with_pictures = list(entries), image_size, with_pictures
        self._files = _Files(self.entries, image_root, image_size, with_pictures)
        self._runtime, self._world = runtime, world
        self._mine = range(world.rank, len(self.entries), world.size)
        self._stamps: list[object] = []
        self._num_read = 0
        self._masks, self._has_mask = np.zeros((0, *image_size), np.bool_), np.zeros(0, np.bool_)
        self._truth: Truth | None = None

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def num_own(self) -> int:
        """Return the number of images that this process reads and scores."""
        return len(self._mine)

    def batches(self, batch_size: int, description: str = "") -> Iterator[tuple[slice, Tensor]]:
        """Yield this process's images (B, 3, H, W), ImageNet-normalised, each batch with its slice of them.

        Args:
            batch_size: images in a batch.
            description: names the progress bar; "" shows none.

        Raises:
            UserError: if an image or a mask cannot be used.
        """
        number = self.num_own
        parts = [slice(start, min(start + batch_size, number)) for start in range(0, number, batch_size)]
        is_shown = self._world.is_main and bool(description)
        is_read = bool(number) and self._num_read == number and self._stamps == self._files.stamps(self._mine)
        if distributed.any_process(not is_read):
            self._num_read, self._truth = 0, None
        with bar(total=number, description=description, is_main=is_shown) as progress:
            for part in parts if self._num_read else self._read(parts, batch_size):
                yield part, torch.stack([normalise(image) for image in self._pixels[part]])
                progress.update(part.stop - part.start)

    def truth(self) -> Truth:
        """Return the truth of all images; every process must call this, after a pass over :meth:`batches`."""
        if self._truth is None:
            self._truth = Truth(_joined(self._masks), _joined(self._has_mask))
        return self._truth

    def pictures(self) -> Pictures:
        """Return the pictures of all images; every process must call this, after a pass over :meth:`batches`."""
        return Pictures(_joined(self._panels), _joined(self._canvases), _joined(self._sizes))

    def _read(self, parts: Sequence[slice], batch_size: int) -> Iterator[slice]:
        loader = DataLoader(
            Subset(self._files, self._mine),
            batch_size=batch_size,
            num_workers=min(self._runtime.num_workers, len(self._mine) // batch_size),
            worker_init_fn=leave_signals_to_main,
        )
        self._make_room()
        self._stamps = self._files.stamps(self._mine)  # before they are read: what is written meanwhile is newer
        for part, batch in zip(parts, loader, strict=True):
            self._pixels[part] = batch["pixels"].numpy()
            self._masks[part], self._has_mask[part] = batch["mask"].numpy(), batch["has_mask"].numpy()
            if self.with_pictures:
                self._panels[part], self._canvases[part] = batch["panel"].numpy(), batch["canvas"].numpy()
                self._sizes[part] = batch["size"].numpy()
            self._num_read = part.stop
            yield part

    def _make_room(self) -> None:
        number, shown = self.num_own, self.num_own if self.with_pictures else 0
        self._pixels = _spool((number, *self.image_size, 3))
        self._masks, self._has_mask = np.zeros((number, *self.image_size), np.bool_), np.zeros(number, np.bool_)
        self._panels = _spool((shown, *panel_size(self.image_size), 3))
        self._canvases = _spool((shown, THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3))
        self._sizes = np.zeros((shown, 2), np.int64)


class _Files(Dataset[_Item]):
    """The files of a test split, decoded by the workers of a DataLoader."""

    def __init__(
        self, entries: Sequence[Entry], image_root: Path, image_size: tuple[int, int], with_pictures: bool
    ) -> None:
        self.entries, self.image_root, self.image_size = entries, image_root, image_size
        self.with_pictures = with_pictures

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> _Item:
        entry = self.entries[index]
        image = read_image(self.image_root / entry.filename)
        height, width = image.shape[:2]
        item = _Item(
            pixels=np.array(resize_image(image, self.image_size)),
            mask=np.array(resize_mask(self._mask(entry, (height, width)), self.image_size)),
            has_mask=entry.label == 0 or entry.maskname is not None,
        )
        if self.with_pictures:
            small, canvas = thumbnail(image), np.zeros((THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3), np.uint8)
            canvas[: small.shape[0], : small.shape[1]] = small
            item |= {"panel": np.array(resize_image(image, panel_size(self.image_size))), "canvas": canvas}
            item["size"] = np.array(small.shape[:2])
        return item

    def stamps(self, indexes: Iterable[int]) -> list[object]:
        """Return what changes when an image or its mask is written again."""
        names = [name for i in indexes for name in (self.entries[i].filename, self.entries[i].maskname) if name]
        return [stamp(self.image_root / name) for name in names]

    def _mask(self, entry: Entry, size: tuple[int, int]) -> Mask:
        if entry.label == 0 or entry.maskname is None:
            return np.zeros(size, np.bool_)
        mask = read_mask(self.image_root / entry.maskname)
        if mask.shape != size:
            raise UserError(
                f"the mask {self.image_root / entry.maskname} is {mask.shape[0]}x{mask.shape[1]} pixels, its image "
                f"{entry.filename} is {size[0]}x{size[1]}; give both the same size"
            )
        return mask


def interleave(shares: Sequence[NDArray]) -> NDArray:
    """Merge the shares of all ranks: those of rank r go to positions r, r + number of ranks, and so on."""
    if len(shares) == 1:
        return shares[0]
    whole = np.empty((sum(map(len, shares)), *shares[0].shape[1:]), shares[0].dtype)
    for rank, share in enumerate(shares):
        whole[rank :: len(shares)] = share
    return whole


def _joined(mine: NDArray) -> NDArray:
    return interleave(distributed.gather(mine))


def _spool(shape: tuple[int, ...]) -> Image:
    """Return uint8 zeros in a temporary file, which disappears with the process; in memory where there is no room."""
    if 0 in shape or not hasattr(os, "posix_fallocate"):
        return np.zeros(shape, np.uint8)
    try:
        with tempfile.TemporaryFile() as file:
            os.posix_fallocate(file.fileno(), 0, math.prod(shape))  # a full disk shows here, not as a bus error later
            return np.memmap(file, np.uint8, "r+", shape=shape)
    except OSError:
        return np.zeros(shape, np.uint8)
