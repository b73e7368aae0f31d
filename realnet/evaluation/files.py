"""The files of a test split: each image, and the truth of its pixels, decoded to the sizes that are needed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from realnet.config import MaskRule
from realnet.data.headers import image_size
from realnet.data.images import NON_ZERO, Image, Mask, read_image, read_mask, resize_image
from realnet.data.index import Entry
from realnet.data.regions import Regions, label_regions, resize_nearest, resize_regions
from realnet.drawing.panels import panel_size
from realnet.drawing.thumbnails import THUMBNAIL_SIDE, thumbnail
from realnet.errors import UserError
from realnet.runtime.contents import stamp

MaskResize = Literal["nearest", "regions"]


class TestItem(TypedDict):
    """A decoded test image; (H, W) is the input size."""

    pixels: Image
    mask: Mask
    has_mask: bool
    counts: NDArray[np.int64]
    regions: NotRequired[Regions]
    panel: NotRequired[Image]
    canvas: NotRequired[Image]
    size: NotRequired[NDArray[np.int64]]


@dataclass(frozen=True)
class TestFiles(Dataset[TestItem]):
    """The files of a test split, decoded by the workers of a DataLoader.

    Attributes:
        entries: the test images.
        image_root: folder that their filenames are relative to.
        image_size: (H, W), the detector's input size.
        mask_rule: which pixels of a mask file are defects.
        mask_resize: ``evaluation.mask_resize`` of the config.
        image_bits: bits that 16-bit values use (``read_image``).
        with_pictures: also return the images that heatmaps and reports show.
    """

    __test__ = False  # a class whose name pytest would collect

    entries: Sequence[Entry]
    image_root: Path
    image_size: tuple[int, int]
    mask_rule: MaskRule = NON_ZERO
    mask_resize: MaskResize = "nearest"
    image_bits: int = 16
    with_pictures: bool = False

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> TestItem:
        entry = self.entries[index]
        image = read_image(self.image_root / entry.filename, self.image_bits)
        height, width = image.shape[:2]
        own = label_regions(self._mask(entry, (height, width)))
        resize = resize_regions if self.mask_resize == "regions" else resize_nearest
        regions, counts = resize(own, self.image_size)
        item = TestItem(
            pixels=np.array(resize_image(image, self.image_size)),
            mask=regions > 0,
            has_mask=entry.label == 0 or entry.maskname is not None,
            counts=np.array(counts),
        )
        if self.mask_resize == "regions":
            item["regions"] = regions
        if self.with_pictures:
            small, canvas = thumbnail(image), np.zeros((THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3), np.uint8)
            canvas[: small.shape[0], : small.shape[1]] = small
            item |= {"panel": np.array(resize_image(image, panel_size(self.image_size))), "canvas": canvas}
            item["size"] = np.array(small.shape[:2])
        return item

    def regions_of(self, index: int) -> Regions:
        """Return the regions of an image's mask at the file's own size; all 0 without a mask.

        Raises:
            UserError: if the image or its mask cannot be used.
        """
        entry = self.entries[index]
        return label_regions(self._mask(entry, image_size(self.image_root / entry.filename)))

    def stamps(self, indexes: Iterable[int]) -> list[object]:
        """Return what changes when an image or its mask is written again."""
        names = [name for i in indexes for name in (self.entries[i].filename, self.entries[i].maskname) if name]
        return [stamp(self.image_root / name) for name in names]

    def _mask(self, entry: Entry, size: tuple[int, int]) -> Mask:
        if entry.label == 0 or entry.maskname is None:
            return np.zeros(size, np.bool_)
        mask = read_mask(self.image_root / entry.maskname, self.mask_rule)
        if mask.shape != size:
            raise UserError(
                f"the mask {self.image_root / entry.maskname} is {mask.shape[0]}x{mask.shape[1]} pixels, its image "
                f"{entry.filename} is {size[0]}x{size[1]}; give both the same size"
            )
        return mask
