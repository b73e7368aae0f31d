"""AFS: anomaly-aware feature selection (method, section 3, AFS)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from realnet.errors import UserError
from realnet.models.backbone import Level


@dataclass(frozen=True)
class Selection:
    """How many channels of a level a block keeps (method, section 3, AFS)."""

    level: Level
    num_channels: int


@dataclass(frozen=True)
class Block:
    """Feature levels brought to one stride, in the order in which they are concatenated (method, section 3, AFS)."""

    name: str
    stride: int
    selections: tuple[Selection, ...]

    @property
    def num_channels(self) -> int:
        """Return the channels of the block's features."""
        return sum(selection.num_channels for selection in self.selections)

    def size(self, image_size: Sequence[int]) -> tuple[int, int]:
        """Return the (height, width) of the block's features for an image of (height, width)."""
        height, width = image_size
        return height // self.stride, width // self.stride

    def keys(self) -> tuple[str, ...]:
        """Return the names of the block's selections, as checkpoints hold them."""
        return tuple(f"{self.name}_{selection.level.name}" for selection in self.selections)


def resize(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, h, w) to ``size`` bilinearly, corners aligned, as AFS and RRS do (method, section 3)."""
    if features.shape[-2:] == size:
        return features
    return F.interpolate(features, size=size, mode="bilinear", align_corners=True)


def take_channels(features: Tensor, index: Tensor) -> Tensor:
    """Return the channels ``index`` (B, k) of features (B, C, h, w) as (B, k, h, w) (method, section 3, AFS and RRS).

    They keep the features' memory layout.
    """
    if features.is_contiguous(memory_format=torch.channels_last):  # gather itself writes channels first
        last = features.movedim(1, 3)
        return last.gather(3, index[:, None, None].expand(-1, *last.shape[1:3], -1)).movedim(3, 1)
    return features.gather(1, index[:, :, None, None].expand(-1, -1, *features.shape[2:]))


class AFS(nn.Module):
    """Select each level's channels and bring them to their block's stride (method, section 3, AFS).

    The choice is made once, by :func:`afs_criteria`, summed over batches, and :meth:`choose`, and stored as
    ``indexes.<block>_<level>``; until then the first channels stand in.

    Raises:
        UserError: where a block keeps more channels than its level has.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.blocks = tuple(blocks)
        self.indexes = nn.Module()
        for key, selection in self.selections().items():
            if selection.num_channels > selection.level.channels:
                raise UserError(
                    f"{key} keeps {selection.num_channels} channels, but the level has {selection.level.channels}"
                )
            self.indexes.register_buffer(key, torch.arange(selection.num_channels))

    def selections(self) -> dict[str, Selection]:
        """Return the selections by key, ``<block>_<level>``."""
        return {key: s for block in self.blocks for key, s in zip(block.keys(), block.selections, strict=True)}

    def forward(self, levels: Mapping[str, Tensor], image_size: Sequence[int]) -> dict[str, Tensor]:
        """Map feature levels (B, channels, h, w) to each block's features (B, num_channels, H/stride, W/stride)."""
        return {
            block.name: torch.cat(
                [
                    resize(self._take(levels[s.level.name], key), block.size(image_size))
                    for key, s in zip(block.keys(), block.selections, strict=True)
                ],
                dim=1,
            )
            for block in self.blocks
        }

    def _take(self, level: Tensor, key: str) -> Tensor:
        return take_channels(level, self.indexes.get_buffer(key).expand(len(level), -1))

    def choose(self, criteria: Mapping[str, Tensor]) -> None:
        """Keep the channels whose criterion (channels,) is smallest, in ascending order; NaN counts as the largest."""
        for key, selection in self.selections().items():
            self.indexes.get_buffer(key).copy_(select_channels(criteria[key], selection.num_channels))


def select_channels(criterion: Tensor, num_channels: int) -> Tensor:
    """Return the indexes of the smallest entries of a criterion (method, section 3, AFS, Choice).

    Args:
        criterion: (C,); NaN counts as the largest, and of equals the first comes first.
        num_channels: how many to keep, at most C.

    Returns:
        (num_channels,) int64, ascending.
    """
    criterion = criterion.nan_to_num(nan=torch.inf, posinf=torch.inf)
    return criterion.argsort(stable=True)[:num_channels].sort().values


def _itself(value: Tensor) -> Tensor:
    return value


def afs_criterion(
    anomalous: Tensor,
    clean: Tensor,
    mask: Tensor,
    size: tuple[int, int],
    *,
    joint_maximum: Callable[[Tensor], Tensor] = _itself,
) -> Tensor:
    """Measure how far each channel's change is from the anomaly mask (method, section 3, AFS, Choice).

    d = (F_anomalous - F_clean)²; criterion = mean(((d - min)/(max - min + 1e-4) - mask)²).

    Args:
        anomalous: a level's features (B, C, h, w) of the images with anomalies.
        clean: the same of their originals.
        mask: (B, 1, H, W) in {0, 1}.
        size: (height, width) of the block that takes the level.
        joint_maximum: elementwise, of a tensor's values in all parts of the batch, where this is one of several.

    Returns:
        (C,) mean squared difference between the min-max-normalised change and the mask.
    """
    change = (resize(anomalous, size) - resize(clean, size)).square()
    extremes = torch.stack([change.amax(dim=(0, 2, 3), keepdim=True), -change.amin(dim=(0, 2, 3), keepdim=True)])
    high, negated_low = joint_maximum(extremes)
    change = (change + negated_low) / (high + negated_low + 1e-4)
    return (change - F.interpolate(mask, size=size, mode="nearest")).square().mean(dim=(0, 2, 3))


def afs_criteria(
    afs: AFS,
    anomalous: Mapping[str, Tensor],
    clean: Mapping[str, Tensor],
    mask: Tensor,
    *,
    joint_maximum: Callable[[Tensor], Tensor] = _itself,
) -> dict[str, Tensor]:
    """Return :func:`afs_criterion` of every selection from one pass of the backbone (method, section 3, AFS, Choice).

    Args:
        afs: says which levels meet at which stride.
        anomalous: feature levels (B, channels, h, w) of images with anomalies, by name.
        clean: the same of their originals.
        mask: (B, 1, H, W) in {0, 1}.
        joint_maximum: as of :func:`afs_criterion`.

    Returns:
        (channels,) each, by ``<block>_<level>``.
    """
    return {
        key: afs_criterion(
            anomalous[s.level.name].float(),
            clean[s.level.name].float(),
            mask,
            block.size(mask.shape[-2:]),
            joint_maximum=joint_maximum,
        )
        for block in afs.blocks
        for key, s in zip(block.keys(), block.selections, strict=True)
    }
