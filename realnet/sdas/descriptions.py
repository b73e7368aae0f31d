"""Describe image files by the features of a detector's backbone, each file's content once (Quality of images)."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from realnet.config import RealNetConfig, dump, paths
from realnet.data.images import normalise, read_image, resize_image
from realnet.errors import Stopped, UserError
from realnet.models.backbone import Backbone
from realnet.models.build import build_backbone, settle
from realnet.runtime import contents, distributed
from realnet.runtime.distributed import World
from realnet.runtime.files import whole
from realnet.runtime.placement import make_ready
from realnet.runtime.progress import bar
from realnet.runtime.randomness import generator
from realnet.sdas.quality import Descriptions

NUMBERS = 128
"""Numbers that describe an image's appearance, and its layout, by each level."""
GRID = 4
"""Cells along each side of the layout."""
FILES_AT_ONCE = 512
"""Files after which their descriptions are kept, so that a run that is ended loses no more."""
Known = dict[str, NDArray[np.float32]]
"""Descriptions (2, L, K), appearance and layout, by the checksum of a file's content."""


class Describer:
    """Describe images as the detector of a class would see them at the size of the sampled ones.

    Args:
        config: of the detector, which names backbone, levels and image size.
        image_size: (H, W) of the sampled images; normal ones are reduced to it first, so that sharpness compares.
        image_bits: bits that the values of 16-bit files use.
        world: this process; the processes share the images.
    """

    def __init__(self, config: RealNetConfig, image_size: tuple[int, int], world: World, *, image_bits: int) -> None:
        self.config, self.image_size, self.world, self.image_bits = settle(config), image_size, world, image_bits

    @cached_property
    def key(self) -> str:
        """Describe, in one line, all that a description depends on apart from the file's content."""
        weights = Path(self.config.backbone.weights)
        content = contents.digest([weights], Path()) if weights.is_file() else "none"
        sizes = [self.image_size, self.config.image_size, self.image_bits, NUMBERS, GRID]
        return f"{dump(self.config.backbone)} file: {content} levels: {self._levels} sizes: {sizes}".replace("\n", " ")

    @cached_property
    def _levels(self) -> list[str]:
        assert isinstance(self.config.blocks, dict)
        return list(dict.fromkeys(level for block in self.config.blocks.values() for level in block.levels))

    @cached_property
    def _backbone(self) -> Backbone:
        exact = replace(self.world.precision, dtype=torch.float32)  # and TF32 as it is, which sampling depends on
        return make_ready(build_backbone(self.config), exact, self.config.runtime)

    def describe(self, files: Sequence[Path], folder: Path, title: str) -> Descriptions:
        """Return the descriptions of files; those of earlier runs are kept in ``folder``, by the files' contents.

        Raises:
            UserError: on all processes, if a file cannot be read, or the backbone cannot be built.
            Stopped: after a signal; what is described so far is kept.
        """
        names = contents.checksums(files, folder)
        for file, name in zip(files, names, strict=True):
            if not name:
                raise UserError(f"{file} cannot be read; restore it")
        known = _read(folder / paths.SDAS_DESCRIPTIONS, self.key)
        absent = {name: file for name, file in zip(names, files, strict=True) if name not in known}
        self._complete(known, absent, list(dict.fromkeys(names)), folder, title)
        described = torch.from_numpy(np.stack([known[name] for name in names]))
        return Descriptions(appearance=described[:, 0], layout=described[:, 1])

    def _complete(
        self, known: Known, absent: Mapping[str, Path], wanted: Sequence[str], folder: Path, title: str
    ) -> None:
        """Describe absent files, adding to ``known``; keep what is known of the wanted ones."""
        world, left = self.world, list(absent)
        with bar(total=len(left), description=title, is_main=world.is_main) as progress:
            for start in range(0, len(left), FILES_AT_ONCE):
                part = left[start : start + FILES_AT_ONCE]
                with distributed.refusing_together():
                    mine = self._describe_each({name: absent[name] for name in part[world.rank :: world.size]})
                for found in distributed.gather(mine):
                    known.update(found)
                with distributed.refusing_together():
                    if world.is_main:
                        kept = {name: known[name] for name in wanted if name in known}
                        _write(folder / paths.SDAS_DESCRIPTIONS, self.key, kept)
                        contents.keep(folder)
                progress.update(len(part))
                if distributed.any_process(world.stop.asked):
                    raise Stopped

    def _describe_each(self, files: Mapping[str, Path]) -> Known:
        size, names = self.config.evaluation.batch_size, list(files)
        found: Known = {}
        for start in range(0, len(names), size):
            part = names[start : start + size]
            images = torch.stack([self._read_image(files[name]) for name in part])
            filled = torch.cat([images, images[-1:].expand(size - len(part), -1, -1, -1)])  # rounding follows the size
            with torch.inference_mode():
                described = describe_features(self._backbone(filled.to(self.world.device)), self._levels)
            found.update(zip(part, described.cpu().numpy(), strict=False))
        return found

    def _read_image(self, file: Path) -> Tensor:
        as_sampled = resize_image(read_image(file, self.image_bits), self.image_size)
        return normalise(resize_image(as_sampled, self.config.image_size))


def describe_features(maps: Mapping[str, Tensor], levels: Sequence[str]) -> Tensor:
    """Return the descriptions (B, 2, L, K) of images by feature maps (B, C, h, w) (docs/method.md, Quality of images).

    The appearance is the mean over all positions, the layout the mean over each of ``GRID``² cells.
    """
    described = []
    for level in levels:
        cells = F.adaptive_avg_pool2d(maps[level].float(), GRID)
        described.append(torch.stack([_projected(cells.mean(dim=(2, 3))), _projected(cells.flatten(1))], dim=1))
    return torch.stack(described, dim=2)


def _projected(values: Tensor) -> Tensor:
    """Return values (B, C) as (B, ``NUMBERS``): by a random projection, which preserves distances; few with zeros."""
    channels = values.shape[1]
    return values @ _projection(channels).to(values) if channels > NUMBERS else F.pad(values, (0, NUMBERS - channels))


@cache
def _projection(channels: int) -> Tensor:
    drawn = generator("projection of features", channels).standard_normal((channels, NUMBERS), dtype=np.float32)
    return torch.from_numpy(drawn / NUMBERS**0.5)


def _read(path: Path, key: str) -> Known:
    """Return the descriptions in a file; none from a file of another key, or from one that is damaged."""
    try:
        with np.load(path) as stored:
            if str(stored["key"]) != key:
                return {}
            return dict(zip(stored["contents"].tolist(), stored["descriptions"], strict=True))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return {}


def _write(path: Path, key: str, known: Known) -> None:
    with whole(path) as part, part.open("wb") as file:
        np.savez(file, key=key, contents=list(known), descriptions=np.stack(list(known.values())))
