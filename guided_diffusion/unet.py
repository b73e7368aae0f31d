"""The noise predictor: ADM's U-Net; attribute names match the published weights."""

import torch
from torch import Tensor, nn

from guided_diffusion.blocks import EmbedSequential, group_norm, timestep_embedding, zero_module
from guided_diffusion.encoder import Architecture, run_block


class UNet(nn.Module):
    """Predict the noise in an image from its timestep and class (docs/method.md, U-Net).

    The defaults are the published network for 256×256 images.

    Args:
        in_channels: channels of the image.
        model_channels: C.
        out_channels: channels of the output; twice those of the image if the variance is learned.
        num_classes: number of classes to condition on; None for an unconditional network.
        channel_mult: channels of each level as multiples of C.
        num_res_blocks: residual blocks per level of the encoder; the decoder has one more per level.
        attention_downsampling: downsampling factors with attention.
        num_head_channels: channels of an attention head; None takes ``num_heads``.
        num_heads: number of heads in every attention block; used only if ``num_head_channels`` is None.
        dropout: probability in the residual blocks.
        use_scale_shift_norm: scale and shift by the embedding instead of adding it.
        resblock_updown: resample in residual blocks instead of by a convolution.
        use_checkpoint: recompute activations in the backward pass: less memory, more time, the same numbers.

    Raises:
        ValueError: for channels that normalisation groups or attention heads do not divide.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        model_channels: int = 256,
        out_channels: int = 6,
        num_classes: int | None = None,
        channel_mult: tuple[int, ...] = (1, 1, 2, 2, 4, 4),
        num_res_blocks: int = 2,
        attention_downsampling: tuple[int, ...] = (8, 16, 32),
        num_head_channels: int | None = 64,
        num_heads: int | None = None,
        dropout: float = 0.0,
        use_scale_shift_norm: bool = True,
        resblock_updown: bool = True,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        architecture = Architecture(
            model_channels=model_channels,
            channel_mult=tuple(channel_mult),
            num_res_blocks=num_res_blocks,
            attention_downsampling=tuple(attention_downsampling),
            num_head_channels=num_head_channels,
            num_heads=num_heads,
            dropout=dropout,
            use_scale_shift_norm=use_scale_shift_norm,
            resblock_updown=resblock_updown,
        )
        self.model_channels = model_channels
        self.num_classes = num_classes
        self.downsampling = architecture.downsampling
        self.use_checkpoint = use_checkpoint

        self.time_embed = architecture.time_embed()
        if num_classes is not None:
            # Drawn here, because on the meta device nn.Embedding's own draw imports torch's compiler: one second.
            drawn = torch.randn(num_classes, architecture.emb_channels)
            self.label_emb = nn.Embedding(num_classes, architecture.emb_channels, _weight=drawn)
        self.input_blocks, skips = architecture.input_blocks(in_channels)
        self.middle_block = architecture.middle_block()
        self.output_blocks = _output_blocks(architecture, skips)
        width = channel_mult[0] * model_channels
        self.out = nn.Sequential(
            group_norm(width), nn.SiLU(), zero_module(nn.Conv2d(width, out_channels, 3, padding=1))
        )

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        """Predict ε, followed by v if the variance is learned.

        Args:
            x: (B, in_channels, H, W), x_t; H and W must be multiples of the total downsampling.
            timesteps: (B,), timesteps of the original process.
            y: (B,) int64, classes; None if the network is unconditional.

        Returns:
            (B, out_channels, H, W) float32.

        Raises:
            ValueError: for an H or W that is no such multiple, or if only one of y and ``num_classes`` is given.
        """
        self._check(x, y)
        emb = self._embed(timesteps, y)  # (B, 4C)
        h, skips = x, []
        for block in self.input_blocks:
            h = run_block(block, h, emb, use_checkpoint=self.use_checkpoint)
            skips.append(h)
        h = run_block(self.middle_block, h, emb, use_checkpoint=self.use_checkpoint)
        for block in self.output_blocks:
            h = run_block(block, torch.cat([h, skips.pop()], dim=1), emb, use_checkpoint=self.use_checkpoint)
        return self.out(h).float()

    def _embed(self, timesteps: Tensor, y: Tensor | None) -> Tensor:
        emb = self.time_embed(timestep_embedding(timesteps, self.model_channels))
        return emb if y is None else emb + self.label_emb(y)

    def _check(self, x: Tensor, y: Tensor | None) -> None:
        height, width = x.shape[2:]
        if height % self.downsampling or width % self.downsampling:
            raise ValueError(f"images of {height}×{width} do not fit; use multiples of {self.downsampling}")
        if (y is None) != (self.num_classes is None):
            given = "no y" if y is None else "a y"
            raise ValueError(f"the network has num_classes {self.num_classes} but was given {given}; they must agree")


def _output_blocks(architecture: Architecture, skips: list[int]) -> nn.ModuleList:
    """Build the decoder; each block takes the previous output and the last encoder output that is still unused."""
    channels, blocks, skips = skips[-1], [], list(skips)
    for level, mult in reversed(list(enumerate(architecture.channel_mult))):
        for index in range(architecture.num_res_blocks + 1):
            out_channels = mult * architecture.model_channels
            layers = architecture.res_and_attention(channels + skips.pop(), out_channels, level=level)
            if level > 0 and index == architecture.num_res_blocks:
                layers.append(architecture.up(out_channels))
            blocks.append(EmbedSequential(*layers))
            channels = out_channels
    return nn.ModuleList(blocks)
