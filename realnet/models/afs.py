"""AFS: anomaly-aware feature selection (docs/method.md, AFS)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from realnet.errors import UserError
from realnet.models.backbone import Level


@dataclass(frozen=True)
class Selection:
    """A level and how many of its channels a block keeps (docs/method.md, AFS)."""

    level: Level
    num_channels: int


@dataclass(frozen=True)
class Block:
    """Feature levels that are resized to one stride and concatenated in this order (docs/method.md, AFS)."""

    name: str
    stride: int
    selections: tuple[Selection, ...]

    @property
    def num_channels(self) -> int:
        """Return the number of channels of the block's features."""
        return sum(selection.num_channels for selection in self.selections)

    def size(self, image_size: Sequence[int]) -> tuple[int, int]:
        """Return the (height, width) of the block's features for an image of (height, width)."""
        height, width = image_size
        return height // self.stride, width // self.stride

    def keys(self) -> tuple[str, ...]:
        """Return the names of the block's selections, ``<block>_<level>``, as in checkpoints."""
        return tuple(f"{self.name}_{selection.level.name}" for selection in self.selections)


def resize(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, h, w) to ``size`` bilinearly with aligned corners (docs/method.md, AFS, RRS)."""
    if features.shape[-2:] == size:
        return features
    return F.interpolate(features, size=size, mode="bilinear", align_corners=True)


def take_channels(features: Tensor, index: Tensor) -> Tensor:
    """Return the channels ``index`` (B, k) of features (B, C, h, w) as (B, k, h, w) (docs/method.md, AFS, RRS).

    The result has the memory layout of the features.
    """
    if features.is_contiguous(memory_format=torch.channels_last):  # gather would write channels first
        last = features.movedim(1, 3)
        return last.gather(3, index[:, None, None].expand(-1, *last.shape[1:3], -1)).movedim(3, 1)
    return features.gather(1, index[:, :, None, None].expand(-1, -1, *features.shape[2:]))


class AFS(nn.Module):
    """Select channels of each level and resize them to their block's stride (docs/method.md, AFS).

    Before training, :func:`afs_criteria` is summed over batches, and :meth:`choose` selects the channels and stores
    them as ``indexes.<block>_<level>``. Until then, the first channels of each level are selected.

    Raises:
        UserError: if a block keeps more channels than its level has.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.blocks = tuple(blocks)
        self.indexes = nn.Module()
        for key, selection in self.selections().items():
            if selection.num_channels > selection.level.channels:
                raise UserError(
                    f"{key} keeps {selection.num_channels} channels, but the level has {selection.level.channels}; "
                    "lower the number in blocks"
                )
            self.indexes.register_buffer(key, torch.arange(selection.num_channels))

    def selections(self) -> dict[str, Selection]:
        """Return the selections by key, ``<block>_<level>``."""
        return {key: s for block in self.blocks for key, s in zip(block.keys(), block.selections, strict=True)}

    def level_names(self) -> list[str]:
        """Return the names of the levels that are selected from."""
        return list(dict.fromkeys(selection.level.name for selection in self.selections().values()))

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
        # shape[0] and not len(): an export would take len() for a constant
        return take_channels(level, self.indexes.get_buffer(key).expand(level.shape[0], -1))

    def choose(self, criteria: Mapping[str, Tensor]) -> None:
        """Select the channels with the smallest criterion (channels,); NaN counts as largest."""
        for key, selection in self.selections().items():
            self.indexes.get_buffer(key).copy_(select_channels(criteria[key], selection.num_channels))


def select_channels(criterion: Tensor, num_channels: int) -> Tensor:
    """Return the indexes of the smallest entries of a criterion (docs/method.md, AFS).

    Args:
        criterion: (C,); NaN counts as largest, and ties go to the lower index.
        num_channels: how many indexes to return, at most C.

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
    """Measure how much each channel's response to an anomaly differs from the mask (docs/method.md, AFS).

    d = (F_anomalous - F_clean)²; criterion = mean(((d - min)/(max - min + 1e-4) - mask)²).

    Args:
        anomalous: a level's features (B, C, h, w) of images with anomalies.
        clean: the features (B, C, h, w) of the same images without anomalies.
        mask: (B, 1, H, W) in {0, 1}.
        size: (height, width) of the features of the block that uses the level.
        joint_maximum: returns the element-wise maximum of a tensor over all parts of the batch, if other processes
            hold some of them.

    Returns:
        (C,), the mean squared difference between the min-max-normalised change and the mask.
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
    """Return :func:`afs_criterion` for every selection, from one pass of the backbone (docs/method.md, AFS).

    Args:
        afs: defines the blocks, with their levels and strides.
        anomalous: feature levels (B, channels, h, w) of images with anomalies, by level name.
        clean: the feature levels of the same images without anomalies, by level name.
        mask: (B, 1, H, W) in {0, 1}.
        joint_maximum: as in :func:`afs_criterion`.

    Returns:
        (channels,) for each selection, by ``<block>_<level>``.
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
