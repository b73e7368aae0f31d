"""What a detector takes of a backbone's levels, how large its networks are, and which images fit them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from guided_diffusion.blocks import NUM_GROUPS
from realnet.errors import UserError
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


def side_factor(blocks: Sequence[Block], size: ReconstructionSize) -> int:
    """Return what an image's sides are multiples of: the coarsest map's stride, in pixels (docs/method.md, AFS)."""
    return math.lcm(*(block.stride for block in blocks)) * size.downsampling


def require_size(image_size: ImageSize, blocks: Sequence[Block], size: ReconstructionSize, name: str) -> None:
    """Raise UserError if (height, width) are not multiples of :func:`side_factor`, or too small (docs/method.md, AFS).

    Args:
        image_size: of the images.
        blocks: of the detector.
        size: of its reconstruction networks.
        name: the config's key that sets the image size.
    """
    factor, (height, width) = side_factor(blocks, size), image_size
    if height % factor or width % factor:
        raise UserError(
            f"{name} {height}x{width}: both sides must be multiples of {factor} (the least common multiple of the "
            f"blocks' strides, times the reconstruction's downsampling); {_repair(image_size, factor, size, name)}"
        )
    for block in blocks:
        rows, columns = (side // (block.stride * size.downsampling) for side in image_size)
        channels = size.width(block.num_channels) * min(size.channel_mult[-2:])
        if rows * columns * channels <= NUM_GROUPS:
            raise UserError(
                f"{name} {height}x{width}: the reconstruction of {block.name} has a map of one pixel with too few "
                f"channels to normalise; set {name} to {2 * factor}x{2 * factor}, or keep more channels in {block.name}"
            )


def _repair(image_size: ImageSize, factor: int, size: ReconstructionSize, name: str) -> str:
    height, width = (max(1, round(side / factor)) * factor for side in image_size)
    other, mult = f"set {name} to {height}x{width}", size.channel_mult
    for length in range(len(mult) - 1, 0, -1):
        shallower = factor // 2 ** (len(mult) - length)
        if not any(side % shallower for side in image_size):
            own = f"reconstruction.channel_mult to {list(mult[:length])}"
            return f"{other}, or, where the backbone takes no other size, {own}"
    return f"{other}, or leave the coarsest levels out of blocks"


def _attended(size: ReconstructionSize) -> list[int]:
    """Return the channel multipliers of the maps that have attention; the middle always has."""
    inner = [mult for i, mult in enumerate(size.channel_mult) if 2**i in size.attention_downsampling]
    return [*inner, size.channel_mult[-1]]


def _block(number: int, level: Level, budget: Budget) -> Block:
    kept = min(level.channels, budget.channels[budget.nearest(level.stride)])
    return Block(f"block{number}", level.stride, (Selection(level, kept),))
