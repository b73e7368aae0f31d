"""A class's test split, read and decoded once for all detectors and pictures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from realnet.config import RuntimeConfig
from realnet.data.images import Image, to_batch
from realnet.drawing.panels import panel_size
from realnet.drawing.thumbnails import THUMBNAIL_SIDE
from realnet.evaluation.files import TestFiles
from realnet.runtime import distributed
from realnet.runtime.distributed import World
from realnet.runtime.files import scratch
from realnet.runtime.progress import bar
from realnet.runtime.signals import leave_signals_to_main
from realnet.runtime.threads import data_workers


@dataclass(frozen=True)
class Truth:
    """The truth of the pixels of N test images.

    Attributes:
        masks: (N, H, W) bool at the input size; all False where ``has_mask`` is False.
        has_mask: (N,) bool, whether the truth of the pixels is known: normal images, and defects with a mask.
        regions: (N, H, W) numbers of the masks' regions, from 1; None where those that the masks show count.
        counts: (N, 3), the ``RegionCounts`` of each mask.
    """

    masks: NDArray[np.bool_]
    has_mask: NDArray[np.bool_]
    regions: NDArray[np.uint16] | None
    counts: NDArray[np.int64]


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


class TestSplit:
    """A class's test images at a detector's input size, shared by the processes of a run.

    The first pass reads the files and keeps the decoded images in a temporary file, from which later passes read.

    Args:
        files: the images and their masks.
        runtime: runtime settings of the config.
        world: this process; it reads every ``world.size``-th image.
    """

    __test__ = False  # a class whose name pytest would collect

    def __init__(self, files: TestFiles, *, runtime: RuntimeConfig, world: World) -> None:
        self.files, self.entries, self.image_size = files, files.entries, files.image_size
        self._runtime, self._world = runtime, world
        self._mine = range(world.rank, len(self.entries), world.size)
        self._stamps: list[object] = []
        self._num_read = 0
        self._truth: Truth | None = None
        self._clear_truth(0)

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
        for part in self._parts(batch_size, description):
            yield part, to_batch(self._pixels[part])

    def photographs(self, description: str = "") -> Iterator[tuple[int, Image]]:
        """Yield this process's images one by one, uint8 RGB (H, W, 3), each with its number among them.

        Raises:
            UserError: as :meth:`batches`.
        """
        for part in self._parts(1, description):
            yield part.start, self._pixels[part.start]

    def truth(self) -> Truth:
        """Return the truth of all images; every process must call this, after a pass over :meth:`batches`."""
        if self._truth is None:
            regions = _joined(self._regions) if self.files.mask_resize == "regions" else None
            masks = _joined(self._masks) if regions is None else scratch(regions.shape, np.bool_)
            if regions is not None:
                np.greater(regions, 0, out=masks)
            self._truth = Truth(masks, _joined(self._has_mask), regions, _joined(self._counts))
        return self._truth

    def pictures(self) -> Pictures:
        """Return the pictures of all images; every process must call this, after a pass over :meth:`batches`."""
        return Pictures(_joined(self._panels), _joined(self._canvases), _joined(self._sizes))

    def _parts(self, batch_size: int, description: str) -> Iterator[slice]:
        """Yield slices of this process's images as soon as ``_pixels`` holds them."""
        number = self.num_own
        parts = [slice(start, min(start + batch_size, number)) for start in range(0, number, batch_size)]
        is_shown = self._world.is_main and bool(description)
        is_read = bool(number) and self._num_read == number and self._stamps == self.files.stamps(self._mine)
        if distributed.any_process(not is_read):
            self._num_read, self._truth = 0, None
        with bar(total=number, description=description, is_main=is_shown) as progress:
            for part in parts if self._num_read else self._read(parts, batch_size):
                yield part
                progress.update(part.stop - part.start)

    def _read(self, parts: Sequence[slice], batch_size: int) -> Iterator[slice]:
        loader = DataLoader(
            Subset(self.files, self._mine),
            batch_size=batch_size,
            num_workers=min(data_workers(self._runtime.num_workers), len(self._mine) // batch_size),
            worker_init_fn=leave_signals_to_main,
        )
        self._make_room()
        self._stamps = self.files.stamps(self._mine)  # before they are read: what is written meanwhile is newer
        for part, batch in zip(parts, loader, strict=True):
            self._pixels[part] = batch["pixels"].numpy()
            self._has_mask[part], self._counts[part] = batch["has_mask"].numpy(), batch["counts"].numpy()
            if self.files.mask_resize == "regions":
                self._regions[part] = batch["regions"].numpy()
            else:
                self._masks[part] = batch["mask"].numpy()
            if self.files.with_pictures:
                self._panels[part], self._canvases[part] = batch["panel"].numpy(), batch["canvas"].numpy()
                self._sizes[part] = batch["size"].numpy()
            self._num_read = part.stop
            yield part

    def _clear_truth(self, number: int) -> None:
        self._has_mask, self._counts = np.zeros(number, np.bool_), np.zeros((number, 3), np.int64)
        if self.files.mask_resize == "regions":
            self._regions = scratch((number, *self.image_size), np.uint16)
        else:
            self._masks = scratch((number, *self.image_size), np.bool_)

    def _make_room(self) -> None:
        number, shown = self.num_own, self.num_own if self.files.with_pictures else 0
        self._pixels = scratch((number, *self.image_size, 3))
        self._clear_truth(number)
        self._panels = scratch((shown, *panel_size(self.image_size), 3))
        self._canvases = scratch((shown, THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3))
        self._sizes = np.zeros((shown, 2), np.int64)


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
