"""The encoder that U-Net and classifier share (docs/method.md, U-Net)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from guided_diffusion.blocks import AttentionBlock, Downsample, EmbedSequential, ResBlock, Upsample


@dataclass(frozen=True)
class Architecture:
    """The sizes and switches of an ADM network (docs/method.md, U-Net).

    Attributes:
        model_channels: C; the time embedding has 4·C features.
        channel_mult: channels of each level as multiples of C; every level but the last halves the map.
        num_res_blocks: residual blocks per level.
        attention_downsampling: the downsampling factors at which attention follows each residual block.
        num_head_channels: channels of an attention head; None takes ``num_heads``.
        num_heads: number of heads in every attention block; used only if ``num_head_channels`` is None.
        dropout: probability in the residual blocks.
        use_scale_shift_norm: scale and shift by the embedding instead of adding it.
        resblock_updown: resample in residual blocks instead of by a convolution.

    Raises:
        ValueError: if ``num_head_channels`` and ``num_heads`` are both None.
    """

    model_channels: int
    channel_mult: tuple[int, ...]
    num_res_blocks: int
    attention_downsampling: tuple[int, ...]
    num_head_channels: int | None
    num_heads: int | None
    dropout: float
    use_scale_shift_norm: bool
    resblock_updown: bool

    def __post_init__(self) -> None:
        if self.num_head_channels is None and self.num_heads is None:
            raise ValueError("num_head_channels and num_heads are both None; give one")

    @property
    def emb_channels(self) -> int:
        """Number of features of the time embedding."""
        return 4 * self.model_channels

    @property
    def downsampling(self) -> int:
        """Side of the image divided by the side of the innermost map."""
        return 2 ** (len(self.channel_mult) - 1)

    def time_embed(self) -> nn.Sequential:
        """Build the layers between the sinusoidal embedding and the residual blocks."""
        width = self.emb_channels
        return nn.Sequential(nn.Linear(self.model_channels, width), nn.SiLU(), nn.Linear(width, width))

    def res_block(
        self, in_channels: int, out_channels: int, *, resample: Literal["up", "down"] | None = None
    ) -> ResBlock:
        """Build a residual block."""
        return ResBlock(
            in_channels,
            out_channels,
            emb_channels=self.emb_channels,
            dropout=self.dropout,
            scale_shift=self.use_scale_shift_norm,
            resample=resample,
        )

    def attention(self, channels: int) -> AttentionBlock:
        """Build an attention block."""
        return AttentionBlock(channels, self.head_channels(channels))

    def head_channels(self, channels: int) -> int:
        """Return the channels of one head.

        Raises:
            ValueError: if ``num_heads`` does not divide ``channels``.
        """
        if self.num_head_channels is not None:
            return self.num_head_channels
        if self.num_heads is None or channels % self.num_heads:
            raise ValueError(f"{channels} channels cannot be split into {self.num_heads} heads; use a divisor")
        return channels // self.num_heads

    def res_and_attention(self, in_channels: int, out_channels: int, *, level: int) -> list[nn.Module]:
        """Build a residual block, followed by attention if this level has it."""
        layers: list[nn.Module] = [self.res_block(in_channels, out_channels)]
        if 2**level in self.attention_downsampling:
            layers.append(self.attention(out_channels))
        return layers

    def down(self, channels: int) -> nn.Module:
        """Build the layer that halves the map."""
        return self.res_block(channels, channels, resample="down") if self.resblock_updown else Downsample(channels)

    def up(self, channels: int) -> nn.Module:
        """Build the layer that doubles the map."""
        return self.res_block(channels, channels, resample="up") if self.resblock_updown else Upsample(channels)

    def input_blocks(self, in_channels: int) -> tuple[nn.ModuleList, list[int]]:
        """Build the encoder; return its blocks and the number of channels that each passes to the decoder."""
        channels = self.channel_mult[0] * self.model_channels
        blocks = [EmbedSequential(nn.Conv2d(in_channels, channels, 3, padding=1))]
        skips = [channels]
        for level, mult in enumerate(self.channel_mult):
            for _ in range(self.num_res_blocks):
                out_channels = mult * self.model_channels
                blocks.append(EmbedSequential(*self.res_and_attention(channels, out_channels, level=level)))
                channels = out_channels
                skips.append(channels)
            if level + 1 < len(self.channel_mult):
                blocks.append(EmbedSequential(self.down(channels)))
                skips.append(channels)
        return nn.ModuleList(blocks), skips

    def middle_block(self) -> EmbedSequential:
        """Build the innermost layers."""
        channels = self.channel_mult[-1] * self.model_channels
        return EmbedSequential(
            self.res_block(channels, channels), self.attention(channels), self.res_block(channels, channels)
        )


def run_block(block: nn.Module, *inputs: Tensor, use_checkpoint: bool) -> Tensor:
    """Run a block; with ``use_checkpoint``, recompute its activations in the backward pass instead of storing them.

    This is ``runtime.activation_checkpointing`` (docs/method.md, Diffusion training).
    """
    if use_checkpoint and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)
