"""The layers of the U-Net and the classifier (docs/method.md, U-Net); attribute names match the published weights."""

import math
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)

NUM_GROUPS = 32
MAX_PERIOD = 10_000


def timestep_embedding(timesteps: Tensor, channels: int) -> Tensor:
    """Embed timesteps as cosines, then sines, at channels / 2 frequencies from 1 to about 1 / 10,000.

    This is the first part of the U-Net's step embedding (docs/method.md, U-Net).

    Args:
        timesteps: (B,), timesteps of the original process.
        channels: number of features, even.

    Returns:
        (B, channels) float32 in [-1, 1].
    """
    half = channels // 2
    index = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    angles = timesteps[:, None].float() * torch.exp(-math.log(MAX_PERIOD) * index / half)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def zero_module(module: ModuleT) -> ModuleT:
    """Set all parameters to zero and return the module: its block starts as the identity (docs/method.md, U-Net)."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class GroupNorm(nn.GroupNorm):
    """Normalise groups of channels in the input's own number format (docs/method.md, U-Net).

    On a GPU, autocast would convert the input to float32. The input, its float32 copy and the activation would then all
    be kept for the backward pass, which takes more memory than plain float32. The statistics are always float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == self.weight.dtype:
            return super().forward(x)
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            return F.group_norm(x, self.num_groups, weight, bias, self.eps)


def group_norm(channels: int) -> GroupNorm:
    """Return a normalisation in 32 groups, which all blocks use (docs/method.md, U-Net).

    Raises:
        ValueError: if ``channels`` is not a multiple of 32.
    """
    if channels % NUM_GROUPS:
        raise ValueError(f"{channels} channels cannot be normalised in {NUM_GROUPS} groups; use a multiple of 32")
    return GroupNorm(NUM_GROUPS, channels)


def count_heads(channels: int, num_head_channels: int) -> int:
    """Return the number of attention heads (docs/method.md, U-Net).

    Raises:
        ValueError: if ``num_head_channels`` does not divide ``channels``.
    """
    if num_head_channels < 1 or channels % num_head_channels:
        raise ValueError(f"{channels} channels cannot be split into heads of {num_head_channels}; use a divisor")
    return channels // num_head_channels


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return softmax(qkᵀ/√d)·v over positions (docs/method.md, U-Net).

    Args:
        query: (B, Q, heads, d).
        key: (B, T, heads, d).
        value: (B, T, heads, d).

    Returns:
        (B, Q, heads·d).
    """
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class Pointwise(nn.Conv1d):
    """Convolve tokens (B, T, C) with width 1 (docs/method.md, U-Net).

    Channels come last, so a feature map in channels-last layout needs no copy.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(tokens, self.weight.squeeze(2), self.bias)


class AttentionBlock(nn.Module):
    """Residual self-attention over the positions of a feature map (B, C, H, W) (docs/method.md, U-Net).

    Args:
        channels: C, a multiple of 32.
        num_head_channels: channels of one head.

    Raises:
        ValueError: if ``num_head_channels`` does not divide C.
    """

    def __init__(self, channels: int, num_head_channels: int) -> None:
        super().__init__()
        self.num_heads = count_heads(channels, num_head_channels)
        self.norm = group_norm(channels)
        self.qkv = Pointwise(channels, 3 * channels)
        self.proj_out = zero_module(Pointwise(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (B, T, C)
        qkv = self.qkv(tokens).unflatten(2, (self.num_heads, 3, -1))
        # The published ("legacy") order: split into heads first, then each head into q, k, v.
        query, key, value = qkv.unbind(3)  # (B, T, heads, d) each
        h = self.proj_out(attend(query, key, value))
        return x + h.transpose(1, 2).reshape(x.shape)


class AttentionPool(nn.Module):
    """Pool a feature map to logits by attention (docs/method.md, Guidance classifier).

    The mean of all positions is the query token; its attention output, projected, gives the logits.

    Args:
        num_tokens: positions of the feature map, H·W.
        channels: C.
        num_head_channels: channels of one head.
        out_channels: number of logits.

    Raises:
        ValueError: if ``num_head_channels`` does not divide C; in ``forward``, for a map of another size.
    """

    def __init__(self, *, num_tokens: int, channels: int, num_head_channels: int, out_channels: int) -> None:
        super().__init__()
        self.num_heads = count_heads(channels, num_head_channels)
        self.positional_embedding = nn.Parameter(torch.randn(channels, num_tokens + 1) / channels**0.5)
        self.qkv_proj = Pointwise(channels, 3 * channels)
        self.c_proj = Pointwise(channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2)  # (B, C, T)
        if tokens.shape[2] + 1 != self.positional_embedding.shape[1]:
            raise ValueError(
                f"the classifier was built for feature maps of {self.positional_embedding.shape[1] - 1} positions, "
                f"but this map is {tuple(x.shape[2:])}; resize the images to the classifier's image_size"
            )
        tokens = torch.cat([tokens.mean(dim=2, keepdim=True), tokens], dim=2) + self.positional_embedding
        # Unlike AttentionBlock: split into q, k, v first, then each into heads.
        qkv = self.qkv_proj(tokens.transpose(1, 2)).unflatten(2, (3, self.num_heads, -1))
        query, key, value = qkv.unbind(2)  # (B, T, heads, d) each
        return self.c_proj(attend(query, key, value))[:, 0]


class Downsample(nn.Module):
    """Halve a feature map by a 3×3 convolution with stride 2, used if ``resblock_updown`` is off (ADM, Table 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Double a feature map (nearest), then convolve 3×3, used if ``resblock_updown`` is off (ADM, Table 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class ResBlock(nn.Module):
    """Residual block conditioned on an embedding of the timestep (and class) (docs/method.md, U-Net).

    Args:
        in_channels: channels of the input, a multiple of 32.
        out_channels: channels of the output, a multiple of 32.
        emb_channels: features of the embedding.
        dropout: probability before the last convolution.
        scale_shift: scale and shift the second normalisation's output by the embedding; if False, add the embedding
            before that normalisation.
        resample: double (nearest) or halve (average) the map between the first activation and its convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        emb_channels: int,
        dropout: float = 0.0,
        scale_shift: bool = True,
        resample: Literal["up", "down"] | None = None,
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.resample = _resampler(resample)
        self.in_layers = nn.Sequential(
            group_norm(in_channels), nn.SiLU(), nn.Conv2d(in_channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, (1 + scale_shift) * out_channels))
        self.out_layers = nn.Sequential(
            group_norm(out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            zero_module(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        same = in_channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm, activation, conv = self.in_layers
        h = conv(self.resample(activation(norm(x))))
        return self.skip_connection(self.resample(x)) + self._conditioned(h, self.emb_layers(emb)[:, :, None, None])

    def _conditioned(self, h: Tensor, emb: Tensor) -> Tensor:
        if not self.scale_shift:
            return self.out_layers(h + emb)
        norm, *rest = self.out_layers
        scale, shift = emb.chunk(2, dim=1)
        h = norm(h) * (1 + scale) + shift
        for layer in rest:
            h = layer(h)
        return h


class EmbedSequential(nn.ModuleList):
    """Run layers in sequence and pass the embedding to the residual blocks (docs/method.md, U-Net)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(layers)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
        return x


def _resampler(resample: Literal["up", "down"] | None) -> nn.Module:
    if resample == "up":
        return nn.Upsample(scale_factor=2, mode="nearest")
    return nn.AvgPool2d(2) if resample == "down" else nn.Identity()
