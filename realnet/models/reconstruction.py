"""The reconstruction network of a block: a U-Net without timestep and class (docs/method.md, Reconstruction)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from guided_diffusion.blocks import NUM_GROUPS, AttentionBlock, group_norm, zero_module
from realnet.runtime.precision import in_float32


@dataclass(frozen=True)
class ReconstructionSize:
    """The sizes that the networks of all blocks share (docs/method.md, Reconstruction)."""

    hidden_ratio: float = 0.5
    channel_mult: tuple[int, ...] = (1, 2, 4)
    num_res_blocks: int = 2
    attention_downsampling: tuple[int, ...] = (2, 4)
    num_head_channels: int = 64

    @property
    def downsampling(self) -> int:
        """Return the side of the features divided by the side of the network's coarsest map."""
        return 2 ** (len(self.channel_mult) - 1)

    def width(self, channels: int) -> int:
        """Return ⌊ratio·C⌋, rounded up to a multiple of the number of normalisation groups."""
        return math.ceil(math.floor(self.hidden_ratio * channels) / NUM_GROUPS) * NUM_GROUPS or NUM_GROUPS


class TransposedUpsample(nn.Module):
    """Double the sides by a 4×4 transposed convolution with stride 2 (docs/method.md, Reconstruction)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class ResBlock(nn.Module):
    """GroupNorm, SiLU, 3×3 convolution, plus skip (docs/method.md, Reconstruction).

    Args:
        channels: channels of the input, a multiple of 32.
        out_channels: channels of the output.
        down: halve the sides by averaging.
        up: double the sides by transposed convolutions, one in the branch and another in the skip.
    """

    def __init__(self, channels: int, out_channels: int, *, down: bool = False, up: bool = False) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(group_norm(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1))
        self.h_upd = _resample(channels, down=down, up=up)
        self.x_upd = _resample(channels, down=down, up=up)
        self.skip_connection = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        norm, activation, conv = self.in_layers
        h = conv(self.h_upd(activation(norm(x))))
        return self.skip_connection(self.x_upd(x)) + h


def _resample(channels: int, *, down: bool, up: bool) -> nn.Module:
    if up:
        return TransposedUpsample(channels)
    return nn.AvgPool2d(2) if down else nn.Identity()


class ReconstructionUNet(nn.Module):
    """Reconstruct a block's selected features (B, C, h, w) without the anomaly (docs/method.md, Reconstruction).

    Args:
        channels: C, the same for input and output.
        size: the sizes that the networks of all blocks share.

    Raises:
        ValueError: if the attention heads do not divide the channels.
    """

    def __init__(self, channels: int, size: ReconstructionSize) -> None:
        super().__init__()
        width, num_levels = size.width(channels), len(size.channel_mult)
        self._num_finest = size.num_res_blocks + 1  # in each half
        stem = nn.Conv2d(channels, width, 3, padding=1)
        self.input_blocks, skips, ch = nn.ModuleList([stem]), [width], width

        def stage(in_channels: int, out_channels: int, factor: int) -> list[nn.Module]:
            layers: list[nn.Module] = [ResBlock(in_channels, out_channels)]
            if factor in size.attention_downsampling:
                layers.append(AttentionBlock(out_channels, num_head_channels=size.num_head_channels))
            return layers

        for level, mult in enumerate(size.channel_mult):
            for _ in range(size.num_res_blocks):
                self.input_blocks.append(nn.Sequential(*stage(ch, mult * width, 2**level)))
                ch = mult * width
                skips.append(ch)
            if level < num_levels - 1:
                self.input_blocks.append(ResBlock(ch, ch, down=True))
                skips.append(ch)

        attention = AttentionBlock(ch, num_head_channels=size.num_head_channels)
        self.middle_block = nn.Sequential(ResBlock(ch, ch), attention, ResBlock(ch, ch))

        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(size.channel_mult))):
            for i in range(size.num_res_blocks + 1):
                layers = stage(ch + skips.pop(), mult * width, 2**level)
                ch = mult * width
                if level and i == size.num_res_blocks:
                    layers.append(ResBlock(ch, ch, up=True))
                self.output_blocks.append(nn.Sequential(*layers))

        out_conv = zero_module(nn.Conv2d(ch, channels, 3, padding=1))
        self.out = nn.Sequential(group_norm(ch), nn.SiLU(), out_conv)

    def finest_blocks(self) -> list[nn.Module]:
        """Return the layers that work at the size of the features; in eval mode they compute in float32."""
        return [*self.input_blocks[: self._num_finest], *self.output_blocks[-self._num_finest :], self.out]

    def forward(self, features: Tensor) -> Tensor:
        exact = [] if self.training else self.finest_blocks()

        def run(block: nn.Module, x: Tensor) -> Tensor:
            return in_float32(block, x) if block in exact else block(x)

        h, skips = features, []
        for block in self.input_blocks:
            h = run(block, h)
            skips.append(h)
        h = self.middle_block(h)
        for block in self.output_blocks:
            h = run(block, torch.cat([h, skips.pop()], dim=1))
        return run(self.out, h)
