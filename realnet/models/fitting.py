"""``blocks: auto``: what a detector takes of a backbone's levels, and how large its networks are."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from realnet.models.afs import Block, Selection
from realnet.models.backbone import Level
from realnet.models.levels import ImageSize
from realnet.models.reconstruction import ReconstructionSize

SMALLEST_MAP = 4  # px a side: a coarser map does not say where an anomaly is
SMALLEST_RECONSTRUCTION = 2  # px a side of a reconstruction network's coarsest map
PUBLISHED_MULT = (1, 2, 4)


@dataclass(frozen=True)
class Budget:
    """What a detector may spend (docs/method.md, Backbone).

    Attributes:
        channels: that AFS keeps of a level at most, by stride; levels of other strides are left out.
        ranked: channels that each of RRS's rankings keeps at most.
        depth: levels of the reconstruction networks at most.
    """

    channels: Mapping[int, int]
    ranked: int
    depth: int = len(PUBLISHED_MULT)

    def nearest(self, stride: int) -> int:
        """Return the budget's stride that is nearest to a level's, on a logarithmic scale."""
        return min(self.channels, key=lambda known: abs(math.log2(stride / known)))

    def covers(self, stride: int) -> bool:
        """Tell whether levels of a stride take part: 14 and 12 as 16 does, 7 as 8."""
        return self.distance(stride) < 0.5

    def distance(self, stride: int) -> float:
        """Return how many doublings lie between a stride and the budget's nearest."""
        return abs(math.log2(stride / self.nearest(stride)))


BUDGETS: Mapping[str, Budget] = MappingProxyType(
    {
        "small": Budget({4: 64, 8: 128, 16: 128}, ranked=64, depth=2),
        "medium": Budget({4: 128, 8: 256, 16: 256, 32: 128}, ranked=128),
        "published": Budget({4: 256, 8: 512, 16: 512, 32: 256}, ranked=256),
    }
)


def choose_blocks(levels: Sequence[Level], image_size: ImageSize, budget: Budget) -> list[Block]:
    """Return a block for each level of the budget's strides whose stride divides the image's sides.

    See docs/method.md, AFS.

    Where there is no such level, those of the nearest stride stand in.
    """
    fitting = [level for level in levels if not any(side % level.stride for side in image_size)] or list(levels[:1])
    large = [level for level in fitting if min(image_size) // level.stride >= SMALLEST_MAP] or fitting[:1]
    chosen = [level for level in large if budget.covers(level.stride)]
    nearest = min((level.stride for level in large), key=budget.distance)
    chosen = chosen or [level for level in large if level.stride == nearest]
    return [_block(i, level, budget) for i, level in enumerate(chosen, start=1)]


def ranked_channels(blocks: Sequence[Block], budget: Budget) -> int:
    """Return how many channels a ranking keeps: at most half of them all (docs/method.md, RRS)."""
    return max(1, min(budget.ranked, sum(block.num_channels for block in blocks) // 2))


def fitting_mult(blocks: Sequence[Block], image_size: ImageSize, budget: Budget) -> tuple[int, ...]:
    """Return the longest beginning of (1, 2, 4) that fits every block's map (docs/method.md, Reconstruction).

    It is as deep as the budget allows; its downsampling divides the map, and leaves two pixels. Where not even the
    strides divide the image's sides, the depth is the budget's: that is refused later, with a size that they do divide.
    """
    coarsest = math.lcm(*(block.stride for block in blocks))
    if any(side % coarsest for side in image_size):
        return PUBLISHED_MULT[: budget.depth]
    for length in range(budget.depth, 1, -1):
        factor = 2 ** (length - 1)
        smallest = min(side // (block.stride * factor) for side in image_size for block in blocks)
        if not any(side % (coarsest * factor) for side in image_size) and smallest >= SMALLEST_RECONSTRUCTION:
            return PUBLISHED_MULT[:length]
    return PUBLISHED_MULT[:1]


def head_channels(blocks: Sequence[Block], size: ReconstructionSize) -> int:
    """Return the channels of an attention head: 64, or 32 where 64 does not divide (docs/method.md, Reconstruction)."""
    widths = [size.width(block.num_channels) * mult for block in blocks for mult in _attended(size)]
    return 32 if any(width % 64 for width in widths) else 64


def _attended(size: ReconstructionSize) -> list[int]:
    """Return the channel multipliers of the maps that have attention; the middle always has."""
    inner = [mult for i, mult in enumerate(size.channel_mult) if 2**i in size.attention_downsampling]
    return [*inner, size.channel_mult[-1]]


def _block(number: int, level: Level, budget: Budget) -> Block:
    kept = min(level.channels, budget.channels[budget.nearest(level.stride)])
    return Block(f"block{number}", level.stride, (Selection(level, kept),))
