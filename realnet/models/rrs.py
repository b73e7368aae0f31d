"""RRS, reconstruction residual selection, with the decoder from residuals to logits (docs/method.md, RRS, Decoder)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from realnet.errors import UserError
from realnet.models.afs import resize, take_channels


@dataclass(frozen=True)
class RRSOutput:
    """The output of RRS (docs/method.md, RRS, Decoder).

    Attributes:
        logits: (B, 2, H, W); channel 1 stands for anomalous.
        chosen: the channels (B, k) of each ranking, best first, by mode.
    """

    logits: Tensor
    chosen: Mapping[str, Tensor]


class ResidualLayer(nn.Module):
    """ReLU, 3×3 convolution, ReLU, 1×1 convolution, added to the input (docs/method.md, Decoder)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self._block = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self._block(x)


class ResidualStack(nn.Module):
    """Residual layers with a ReLU at the end (docs/method.md, Decoder)."""

    def __init__(self, channels: int, num_layers: int) -> None:
        super().__init__()
        self._layers = nn.ModuleList(ResidualLayer(channels) for _ in range(num_layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self._layers:
            x = layer(x)
        return F.relu(x)


class RRS(nn.Module):
    """Select the residual channels of each image that react most, and decode them (docs/method.md, RRS, Decoder).

    Args:
        channels: number of residual channels of all blocks together.
        modes: how many channels each ranking (``max``, ``mean``) keeps.
        num_residual_layers: depth of the decoder's residual stack.
        stop_grad: block the gradient of the segmentation loss at the residuals.

    Raises:
        UserError: if a ranking keeps more channels than there are.
    """

    def __init__(
        self, channels: int, *, modes: Mapping[str, int], num_residual_layers: int = 2, stop_grad: bool = False
    ) -> None:
        super().__init__()
        for mode, number in modes.items():
            if number > channels:
                raise UserError(f"rrs.modes.{mode} keeps {number} channels, but the blocks have {channels}; lower it")
        self.modes, self.stop_grad = dict(modes), stop_grad
        self.bn_idx = nn.BatchNorm2d(channels, affine=False, momentum=0.9)
        width = sum(modes.values())
        self.decoder1 = nn.Sequential(
            ResidualStack(width, num_residual_layers),
            nn.Conv2d(width, 128, 3, padding=1),
            nn.BatchNorm2d(128),
            nn.ReLU(),
        )
        self.decoder2 = nn.Sequential(
            nn.Conv2d(128, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 8, 3, padding=1), nn.ReLU()
        )
        self.decoder3 = nn.Sequential(nn.Conv2d(8, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))

    def forward(self, residuals: Sequence[Tensor], image_size: tuple[int, int]) -> RRSOutput:
        """Map residuals, each (B, C_i, h_i, w_i), to logits at the image's (H, W)."""
        size = max(((r.shape[-2], r.shape[-1]) for r in residuals), key=lambda size: size[0] * size[1])
        residual = torch.cat([resize(r, size) for r in residuals], dim=1)  # (B, C, h, w)
        if self.stop_grad:
            residual = residual.detach()
        chosen = self.rank(residual)
        index = torch.cat(list(chosen.values()), dim=1)  # (B, k)
        h = self.decoder2(self.decoder1(take_channels(residual, index)))
        h = F.interpolate(h, scale_factor=2, mode="bilinear", align_corners=True)
        return RRSOutput(logits=resize(self.decoder3(h).float(), image_size), chosen=chosen)

    @torch.no_grad()
    def rank(self, residual: Tensor) -> dict[str, Tensor]:
        """Rank the normalised channels of residuals (B, C, h, w) by spatial maximum and by spatial mean, in float32.

        In eval mode, the maxima and means are normalised instead of the residuals, with the same result:
        max(a·x + b) = a·max(x) + b for a > 0, and likewise for the mean.

        Returns:
            (B, k) int64, the channels by mode, best first.
        """
        residual = residual.float()
        if self.training:
            residual = self.bn_idx(residual)
        statistics = {"max": residual.amax(dim=(2, 3)), "mean": residual.mean(dim=(2, 3))}
        if not self.training:
            norm = self.bn_idx
            statistics = {
                mode: F.batch_norm(values, norm.running_mean, norm.running_var, eps=norm.eps)
                for mode, values in statistics.items()
            }
        return {
            mode: statistics[mode].topk(self.modes[mode], dim=1).indices
            for mode in ("max", "mean")
            if mode in self.modes
        }
