"""The detector: frozen backbone → AFS → reconstruction → residuals → RRS → anomaly map (docs/method.md, Detector)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal, cast

import torch
from torch import Tensor, nn

from guided_diffusion.blocks import NUM_GROUPS
from guided_diffusion.encoder import run_block
from realnet.errors import UserError
from realnet.models.afs import AFS, Block
from realnet.models.backbone import Backbone
from realnet.models.context import Context
from realnet.models.gaussian import PooledGaussian, PositionGaussian
from realnet.models.nearest import MEMORY_ROWS, STRIDES, NearestNeighbour, average_3x3
from realnet.models.normal import ChannelScale, Fusion, root_mean_square
from realnet.models.reconstruction import ReconstructionSize, ReconstructionUNet
from realnet.models.rrs import RRS
from realnet.runtime.precision import in_float32


@dataclass(frozen=True)
class Detection:
    """The detector's output for images (B, 3, H, W) (docs/method.md, Detector).

    Attributes:
        logits: (B, 2, H, W).
        selected: the features that AFS selects, (B, C, h, w) by block.
        reconstructed: the reconstruction of ``selected``, by block.
        residuals: (selected - reconstructed)², by block, float32.
        chosen: the channels (B, k) that RRS selects, by mode.
        fused: the fused anomaly map (B, 1, H, W); None for a detector without fusion.
        scored: the map (B, 1, H, W) that the image score is taken from; None if it is the anomaly map.
    """

    logits: Tensor
    selected: Mapping[str, Tensor]
    reconstructed: Mapping[str, Tensor]
    residuals: Mapping[str, Tensor]
    chosen: Mapping[str, Tensor]
    fused: Tensor | None = None
    scored: Tensor | None = None

    @property
    def anomaly_map(self) -> Tensor:
        """Return the anomaly map (B, 1, H, W) in [0, 1]: ``fused``, or without fusion channel 1 of the softmax."""
        return self.logits.softmax(dim=1)[:, 1:] if self.fused is None else self.fused


class RealNet(nn.Module):
    """RealNet's detector (docs/method.md, Detector). Only ``recon`` and ``rrs`` learn.

    Args:
        backbone: the frozen feature extractor.
        blocks: the levels that each block joins, and its stride.
        reconstruction: sizes of each block's reconstruction network.
        rrs_modes: how many channels each ranking of RRS keeps.
        num_residual_layers: depth of the decoder's residual stack.
        stop_grad: block the gradient of the segmentation loss at the residuals.
        use_checkpoint: recompute the reconstruction's activations in the backward pass: less memory, more time, the
            same numbers.

    Raises:
        UserError: if a block or a ranking keeps more channels than there are.
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
        self.normal = nn.ModuleDict()
        self.nearest = nn.ModuleDict()
        self.fusion: Fusion | None = None
        self.context: Context | None = None

    def see_photographs(self, image_size: Sequence[int]) -> None:
        """Judge whole photographs too, shrunk to (H, W), by statistics that are still to be fitted or loaded."""
        self.context = Context(sum(block.num_channels for block in self.afs.blocks), image_size)

    def fuse_maps(self, image_size: Sequence[int]) -> None:
        """Join maps of (H, W) from now on, by a fusion and normal features that are still to be fitted or loaded."""
        self.nearest = nn.ModuleDict()
        for name, places in self._compared_channels().items():
            self.nearest[name] = NearestNeighbour(torch.zeros(MEMORY_ROWS, sum(end - start for start, end in places)))
        self.fusion = Fusion(image_size)

    def measure_by(self, kind: Literal["none", "channel", "pooled", "position"], image_size: Sequence[int]) -> None:
        """Normalise selected features from now on, by statistics that are still to be fitted or loaded."""
        self.normal = self.empty_statistics(kind, image_size)

    def empty_statistics(
        self, kind: Literal["none", "channel", "pooled", "position"], image_size: Sequence[int]
    ) -> nn.ModuleDict:
        """Return statistics to fit, by block, on the detector's device.

        Args:
            kind: ``channel`` (:class:`ChannelScale`), ``pooled`` (:class:`PooledGaussian`), ``position``
                (:class:`PositionGaussian`) or ``none``.
            image_size: (H, W); with ``position``, the detector accepts no other size.
        """
        blocks = self.afs.blocks
        made: dict[str, nn.Module] = {}
        if kind == "channel":
            made = {block.name: ChannelScale(block.num_channels) for block in blocks}
        elif kind == "pooled":
            made = {block.name: PooledGaussian(block.num_channels) for block in blocks}
        elif kind == "position":
            made = {block.name: PositionGaussian(block.num_channels, block.size(image_size)) for block in blocks}
        device = next(iter(self.afs.indexes.buffers())).device
        return nn.ModuleDict(made).to(device).train(self.training)

    def check_image_size(self, image_size: tuple[int, int], *, name: str = "image_size") -> None:
        """Raise UserError if (height, width) are not multiples of the coarsest map's stride, or too small.

        ``name`` is the config's key that sets them.
        """
        factor = math.lcm(*(block.stride for block in self.afs.blocks)) * self.reconstruction.downsampling
        if any(side % factor for side in image_size):
            height, width = image_size
            raise UserError(
                f"{name} {height}x{width}: both sides must be multiples of {factor} (the least common multiple of "
                f"the blocks' strides, times the reconstruction's downsampling); "
                f"{self._repair_of_size(image_size, factor, name)}"
            )
        for block in self.afs.blocks:
            height, width = (side // (block.stride * self.reconstruction.downsampling) for side in image_size)
            channels = self.reconstruction.width(block.num_channels) * min(self.reconstruction.channel_mult[-2:])
            if height * width * channels <= NUM_GROUPS:
                raise UserError(
                    f"{name} {image_size[0]}x{image_size[1]}: the reconstruction of {block.name} has a map of one "
                    f"pixel with too few channels to normalise; set {name} to {2 * factor}x{2 * factor}, or keep "
                    f"more channels in {block.name}"
                )

    def _repair_of_size(self, image_size: tuple[int, int], factor: int, name: str) -> str:
        height, width = (max(1, round(side / factor)) * factor for side in image_size)
        other, mult = f"set {name} to {height}x{width}", self.reconstruction.channel_mult
        for length in range(len(mult) - 1, 0, -1):
            shallower = factor // 2 ** (len(mult) - length)
            if not any(side % shallower for side in image_size):
                own = f"reconstruction.channel_mult to {list(mult[:length])}"
                return f"{other}, or, where the backbone takes no other size, {own}"
        return f"{other}, or leave the coarsest levels out of blocks"

    def exact_parts(self) -> list[nn.Module]:
        """Return the parts that compute in float32 when the detector is used in a 16-bit format.

        These are the backbone and the finest layers of the reconstruction. A residual is a small difference of two
        large numbers, and RRS may then choose other channels, so 16 bits hurt most here (docs/method.md, Residuals;
        measurements in benchmarks/README.md).
        """
        unets = (cast(ReconstructionUNet, unet) for unet in self.recon.values())
        return [self.backbone, *(block for unet in unets for block in unet.finest_blocks())]

    def called_parts(self) -> list[nn.Module]:
        """Return the parts that both training and use call; training never calls the detector as a whole."""
        return [self.backbone, *self.recon.values(), self.rrs]

    def trainable_state(self) -> dict[str, Tensor]:
        """Return the state dict without the frozen backbone."""
        return {key: value for key, value in self.state_dict().items() if not key.startswith("backbone.")}

    def select(self, image: Tensor) -> dict[str, Tensor]:
        """Return the features that AFS selects from images (B, 3, H, W), by block, without gradient."""
        with torch.no_grad():
            return self.afs(in_float32(self.backbone, image), image.shape[-2:])

    def compared(self, selected: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what is compared with normal features: the selected ones of some levels, averaged, by block."""
        return {
            name: average_3x3(torch.cat([selected[name][:, start:end] for start, end in places], dim=1).float())
            for name, places in self._compared_channels().items()
        }

    def _compared_channels(self) -> dict[str, list[tuple[int, int]]]:
        """Return (first, end) of the selected channels of PatchCore's levels, or without such levels of all."""
        found: dict[str, list[tuple[int, int]]] = {}
        strides = {s.level.stride for block in self.afs.blocks for s in block.selections}
        used = strides & set(STRIDES) or strides
        for block in self.afs.blocks:
            ends = list(accumulate(s.num_channels for s in block.selections))
            levels = zip([0, *ends], ends, block.selections, strict=False)
            if places := [(start, end) for start, end, s in levels if s.level.stride in used]:
                found[block.name] = places
        return found

    def normalise(self, selected: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Normalise selected features, by block, if the detector has statistics (docs/method.md, Normal statistics)."""
        if not self.normal:
            return dict(selected)
        return {name: in_float32(self.normal[name], features) for name, features in selected.items()}

    def sense(self, image: Tensor) -> tuple[Detection, dict[str, Tensor]]:
        """Detect anomalies in images (B, 3, H, W), without joining the maps that :class:`Fusion` joins.

        Returns:
            The detection, and the maps (B, 1, H, W) by the names of ``SIGNALS``.
        """
        selected, size = self.select(image), (image.shape[-2], image.shape[-1])
        detection = self.detect(self.normalise(selected), size)
        with torch.autocast(image.device.type, enabled=False):  # 16 bits would tie most of the pixels
            distances = [self.nearest[name](features) for name, features in self.compared(selected).items()]
            return detection, {
                "logit": (detection.logits[:, 1:] - detection.logits[:, :1]).float(),
                "residual": root_mean_square(list(detection.residuals.values()), size),
                "distance": root_mean_square([f.float().square() for f in detection.selected.values()], size),
                "nearest": root_mean_square([distance.square() for distance in distances], size),
            }

    def survey(self, photographs: Tensor) -> Tensor:
        """Return maps (B, 2, H, W) of whole photographs (B, 3, H, W), shrunk to a tile's size (:class:`Context`)."""
        assert self.context is not None
        with torch.autocast(photographs.device.type, enabled=False):
            return cast(Tensor, self.context(self.select(photographs)))

    def forward(self, image: Tensor) -> Detection:
        """Detect anomalies in ImageNet-normalised images (B, 3, H, W).

        Raises:
            UserError: as in :meth:`check_image_size`.
        """
        size = (image.shape[-2], image.shape[-1])
        self.check_image_size(size)
        if self.fusion is None:
            return self.detect(self.normalise(self.select(image)), size)
        detection, signals = self.sense(image)
        with torch.autocast(image.device.type, enabled=False):
            fused, scored = self.fusion(signals)
        return replace(detection, fused=fused, scored=scored)

    def detect(self, selected: Mapping[str, Tensor], image_size: Sequence[int]) -> Detection:
        """Run the learned part on selected features F, with R = (F - recon(F))² (docs/method.md, Residuals).

        Args:
            selected: F, (B, C, h, w) by block.
            image_size: (H, W) of the logits.
        """
        reconstructed = {
            name: run_block(self.recon[f"{name}_recon"], features, use_checkpoint=self.use_checkpoint)
            for name, features in selected.items()
        }
        # in float32 also where the networks compute in 16 bits, in which many residuals would be equal
        pairs = {name: (features.float(), reconstructed[name].float()) for name, features in selected.items()}
        residuals = {name: (features - own).square() for name, (features, own) in pairs.items()}
        output = self.rrs(list(residuals.values()), tuple(image_size))
        return Detection(output.logits, selected, reconstructed, residuals, output.chosen)
