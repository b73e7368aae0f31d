"""The detector: frozen backbone → AFS → reconstruction → residuals → RRS → anomaly map."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from guided_diffusion.blocks import NUM_GROUPS
from guided_diffusion.encoder import run_block
from realnet.errors import UserError
from realnet.models.afs import AFS, Block
from realnet.models.backbone import Backbone
from realnet.models.reconstruction import ReconstructionSize, ReconstructionUNet
from realnet.models.rrs import RRS
from realnet.precision import in_float32


@dataclass(frozen=True)
class Detection:
    """The detector's output for images (B, 3, H, W) (method, section 3).

    Attributes:
        logits: (B, 2, H, W).
        selected: AFS's features by block, (B, C, h, w).
        reconstructed: their reconstruction, by block.
        residuals: (selected - reconstructed)², by block.
        chosen: RRS's channels (B, k), by mode.
    """

    logits: Tensor
    selected: Mapping[str, Tensor]
    reconstructed: Mapping[str, Tensor]
    residuals: Mapping[str, Tensor]
    chosen: Mapping[str, Tensor]

    @property
    def anomaly_map(self) -> Tensor:
        """Return the probability of an anomaly, (B, 1, H, W) in [0, 1]."""
        return self.logits.softmax(dim=1)[:, 1:]


class RealNet(nn.Module):
    """RealNet's detector (CVPR 2024; method, section 3). Only ``recon`` and ``rrs`` learn.

    Args:
        backbone: the frozen feature extractor.
        blocks: which of its levels meet at which stride.
        reconstruction: sizes of each block's reconstruction network.
        rrs_modes: how many channels each of RRS's rankings keeps.
        num_residual_layers: depth of RRS's residual stack.
        stop_grad: keep the segmentation loss from reaching the reconstruction.
        use_checkpoint: trade compute for memory in training of the reconstruction; the numbers stay the same.

    Raises:
        UserError: where the blocks and the backbone do not fit.
    """

    def __init__(
        self,
        backbone: Backbone,
        blocks: Sequence[Block],
        *,
        reconstruction: ReconstructionSize,
        rrs_modes: Mapping[str, int],
        num_residual_layers: int = 2,
        stop_grad: bool = False,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.reconstruction, self.use_checkpoint = reconstruction, use_checkpoint
        self.backbone = backbone
        self.afs = AFS(blocks)
        self.recon = nn.ModuleDict(
            {f"{block.name}_recon": ReconstructionUNet(block.num_channels, reconstruction) for block in blocks}
        )
        self.rrs = RRS(
            sum(block.num_channels for block in blocks),
            modes=rrs_modes,
            num_residual_layers=num_residual_layers,
            stop_grad=stop_grad,
        )

    def check_image_size(self, image_size: tuple[int, int]) -> None:
        """Raise UserError for (height, width) that are no multiples of each coarsest map's stride, or too small."""
        factor = math.lcm(*(block.stride for block in self.afs.blocks)) * self.reconstruction.downsampling
        if any(side % factor for side in image_size):
            height, width = image_size
            raise UserError(
                f"image_size {height}x{width}: both sides must be multiples of {factor} (the coarsest block's stride "
                f"times the reconstruction's downsampling); {self._repair_of_size(image_size, factor)}"
            )
        for block in self.afs.blocks:
            height, width = (side // (block.stride * self.reconstruction.downsampling) for side in image_size)
            channels = self.reconstruction.width(block.num_channels) * min(self.reconstruction.channel_mult[-2:])
            if height * width * channels <= NUM_GROUPS:
                raise UserError(
                    f"image_size {image_size[0]}x{image_size[1]}: the reconstruction of {block.name} has a map of one "
                    f"pixel and too few channels to be normalised; give {2 * factor}x{2 * factor}, or more channels"
                )

    def _repair_of_size(self, image_size: tuple[int, int], factor: int) -> str:
        height, width = (max(1, round(side / factor)) * factor for side in image_size)
        other, mult = f"set image_size to {height}x{width}", self.reconstruction.channel_mult
        for length in range(len(mult) - 1, 0, -1):
            shallower = factor // 2 ** (len(mult) - length)
            if not any(side % shallower for side in image_size):
                own = f"reconstruction.channel_mult to {list(mult[:length])}"
                return f"{other}, or, where the backbone takes no other size, {own}"
        return f"{other}, or leave the coarsest levels out of blocks"

    def exact_parts(self) -> list[nn.Module]:
        """Return what computes in float32 where the detector is used in 16 bits: the features, and what repeats them.

        A residual is a small difference of two large numbers, and RRS's choice of channels a jump: of 16 bits they feel
        most (benchmarks/README.md).
        """
        unets = (cast(ReconstructionUNet, unet) for unet in self.recon.values())
        return [self.backbone, *(block for unet in unets for block in unet.finest_blocks())]

    def trainable_state(self) -> dict[str, Tensor]:
        """Return the state dict without the frozen backbone."""
        return {key: value for key, value in self.state_dict().items() if not key.startswith("backbone.")}

    def select(self, image: Tensor) -> dict[str, Tensor]:
        """Return AFS's features of images (B, 3, H, W), by block; no gradient reaches the backbone."""
        with torch.no_grad():
            return self.afs(in_float32(self.backbone, image), image.shape[-2:])

    def forward(self, image: Tensor) -> Detection:
        """Detect anomalies in ImageNet-normalised images (B, 3, H, W).

        Raises:
            UserError: for H or W that the strides do not divide.
        """
        size = (image.shape[-2], image.shape[-1])
        self.check_image_size(size)
        return self.detect(self.select(image), size)

    def detect(self, selected: Mapping[str, Tensor], image_size: Sequence[int]) -> Detection:
        """Run the learned part on selected features, with R = (F - recon(F))²; ``image_size`` is that of the logits."""
        reconstructed = {
            name: run_block(self.recon[f"{name}_recon"], features, use_checkpoint=self.use_checkpoint)
            for name, features in selected.items()
        }
        residuals = {name: (features - reconstructed[name]).square() for name, features in selected.items()}
        output = self.rrs(list(residuals.values()), tuple(image_size))
        return Detection(output.logits, selected, reconstructed, residuals, output.chosen)
