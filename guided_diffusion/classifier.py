"""The classifier of noisy images that guides sampling; attribute names match the published weights."""

from typing import Literal

from torch import Tensor, nn

from guided_diffusion.blocks import AttentionPool, group_norm, timestep_embedding, zero_module
from guided_diffusion.encoder import Architecture, run_block


class NoisyClassifier(nn.Module):
    """Classify images at any noise level (docs/method.md, Guidance classifier).

    The defaults are the published network for 256×256 images.

    Args:
        image_size: side, or (H, W), of the images; sets the size of the pool's positional embedding.
        num_classes: number of logits.
        in_channels: channels of the image.
        model_channels: C.
        channel_mult: channels of each level as multiples of C.
        num_res_blocks: residual blocks per level.
        attention_downsampling: downsampling factors with attention.
        num_head_channels: channels of an attention head.
        dropout: probability in the residual blocks.
        use_scale_shift_norm: scale and shift by the embedding instead of adding it.
        resblock_updown: resample in residual blocks instead of by a convolution.
        pool: how the map becomes logits: "attention", or "adaptive" for the mean over positions.
        use_checkpoint: recompute activations in the backward pass: less memory, more time, the same numbers.

    Raises:
        ValueError: for an image size that is no multiple of the total downsampling, an unknown pool, or channels that
            groups or heads do not divide.
    """

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int],
        num_classes: int,
        in_channels: int = 3,
        model_channels: int = 128,
        channel_mult: tuple[int, ...] = (1, 1, 2, 2, 4, 4),
        num_res_blocks: int = 2,
        attention_downsampling: tuple[int, ...] = (8, 16, 32),
        num_head_channels: int = 64,
        dropout: float = 0.0,
        use_scale_shift_norm: bool = True,
        resblock_updown: bool = True,
        pool: Literal["attention", "adaptive"] = "attention",
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        architecture = Architecture(
            model_channels=model_channels,
            channel_mult=tuple(channel_mult),
            num_res_blocks=num_res_blocks,
            attention_downsampling=tuple(attention_downsampling),
            num_head_channels=num_head_channels,
            num_heads=None,
            dropout=dropout,
            use_scale_shift_norm=use_scale_shift_norm,
            resblock_updown=resblock_updown,
        )
        self.model_channels = model_channels
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        self.use_checkpoint = use_checkpoint

        self.time_embed = architecture.time_embed()
        self.input_blocks, skips = architecture.input_blocks(in_channels)
        self.middle_block = architecture.middle_block()
        self.out = nn.Sequential(
            group_norm(skips[-1]),
            nn.SiLU(),
            *_pool(
                pool,
                num_tokens=_num_tokens(self.image_size, architecture.downsampling),
                channels=skips[-1],
                num_head_channels=num_head_channels,
                num_classes=num_classes,
            ),
        )

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """Return the class logits.

        Args:
            x: (B, in_channels, H, W), x_t, in the classifier's image size.
            timesteps: (B,), timesteps of the original process.

        Returns:
            (B, num_classes) float32.

        Raises:
            ValueError: for images of another size.
        """
        if tuple(x.shape[2:]) != self.image_size:
            raise ValueError(
                f"images are {tuple(x.shape[2:])}, but the classifier was built for {self.image_size}; resize them"
            )
        emb = self.time_embed(timestep_embedding(timesteps, self.model_channels))
        for block in (*self.input_blocks, self.middle_block):
            x = run_block(block, x, emb, use_checkpoint=self.use_checkpoint)
        return self.out(x).float()


def _num_tokens(image_size: tuple[int, ...], downsampling: int) -> int:
    height, width = image_size
    if height % downsampling or width % downsampling:
        raise ValueError(f"image_size {height}×{width} does not fit; use multiples of {downsampling}")
    return (height // downsampling) * (width // downsampling)


def _pool(
    pool: str, *, num_tokens: int, channels: int, num_head_channels: int, num_classes: int
) -> tuple[nn.Module, ...]:
    if pool == "attention":
        return (
            AttentionPool(
                num_tokens=num_tokens,
                channels=channels,
                num_head_channels=num_head_channels,
                out_channels=num_classes,
            ),
        )
    if pool == "adaptive":
        return nn.AdaptiveAvgPool2d(1), zero_module(nn.Conv2d(channels, num_classes, 1)), nn.Flatten()
    raise ValueError(f"classifier pool is {pool!r}; choose 'attention' or 'adaptive'")
