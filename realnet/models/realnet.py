"""The detector: frozen backbone → AFS → reconstruction → residuals → RRS → anomaly map (docs/method.md, Detector)."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Literal, cast

import torch
from torch import Tensor, nn

from guided_diffusion.encoder import run_block
from realnet.models.afs import AFS, Block
from realnet.models.backbone import Backbone
from realnet.models.by_class import ByClass, ClassRule, joined, of_class, seen_by
from realnet.models.context import Context
from realnet.models.fitting import require_size, side_factor
from realnet.models.gaussian import PooledGaussian, PositionGaussian
from realnet.models.nearest import STRIDES, NearestNeighbour, average_3x3
from realnet.models.normal import SIGNALS, ChannelScale, Fusion, root_mean_square
from realnet.models.output import Detection
from realnet.models.reconstruction import ReconstructionSize, ReconstructionUNet
from realnet.models.rrs import RRS
from realnet.runtime.precision import in_float32

Measure = Literal["none", "channel", "pooled", "position"]
"""What selected features are normalised by."""


class RealNet(nn.Module):
    """RealNet's detector (docs/method.md, Detector). Only ``recon`` and ``rrs`` learn.

    Args:
        backbone: the frozen feature extractor.
        blocks: the levels that each block joins, and its stride.
        reconstruction: sizes of each block's reconstruction network.
        rrs_modes: how many channels each ranking of RRS keeps.
        num_residual_layers: depth of the decoder's residual stack.
        stop_grad: block the gradient of the segmentation loss at the residuals.
        deep: features that are not reconstructed; only their distance from normality is joined (:class:`Fusion`).
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
        deep: Block | None = None,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.reconstruction, self.use_checkpoint = reconstruction, use_checkpoint
        self.backbone = backbone
        self.afs = AFS(blocks)
        self.deep = AFS([deep] if deep else [])
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
        self.fusion: Fusion | ByClass | None = None
        self.rule: ClassRule | None = None
        self.context: Context | None = None

    def tell_classes(self, number: int) -> None:
        """Measure and join by class from now on, of ``number`` classes, told apart by a rule that is to be fitted."""
        self.rule = ClassRule(number, sum(block.num_channels for block in self.afs.blocks))

    def of_class(self, number: int) -> "RealNet":
        """Return the detector of one class: this one with what is normal for it; all weights are shared.

        A detector that tells no classes apart returns itself.
        """
        if self.rule is None:
            return self
        one = copy.copy(self)
        one._modules = dict(self._modules)
        one.normal, one.nearest = of_class(self.normal, number), of_class(self.nearest, number)
        one.fusion = cast(Fusion, self.fusion[number]) if isinstance(self.fusion, ByClass) else None
        one.rule = None
        return one

    def see_photographs(self, image_size: Sequence[int]) -> None:
        """Judge whole photographs too, shrunk to (H, W), by statistics that are still to be fitted or loaded."""
        self.context = Context(sum(block.num_channels for block in self.afs.blocks), image_size)

    def fuse_maps(self, image_size: Sequence[int], memory: int) -> None:
        """Join maps of (H, W) from now on, by a fusion and normal features that are still to be fitted or loaded.

        ``memory`` normal features are kept of each block.
        """
        sizes = {name: sum(end - start for start, end in found) for name, found in self._compared_channels().items()}

        def features() -> nn.ModuleDict:
            return nn.ModuleDict({name: NearestNeighbour(torch.zeros(memory, size)) for name, size in sizes.items()})

        def fusion() -> Fusion:
            return Fusion(image_size, has_deep=bool(self.deep.blocks))

        number = self.rule.num_classes if self.rule else 1
        self.nearest = joined([features() for _ in range(number)])
        self.fusion = ByClass(fusion() for _ in range(number)) if self.rule else fusion()

    def measure_by(self, kinds: Sequence[Measure], image_size: Sequence[int]) -> None:
        """Normalise selected features from now on, by statistics of each class, which are still to be fitted."""
        self.normal = joined([self.empty_statistics(kind, image_size) for kind in kinds])

    def empty_statistics(self, kind: Measure, image_size: Sequence[int]) -> nn.ModuleDict:
        """Return statistics to fit, by block, on the detector's device.

        Args:
            kind: ``channel`` (:class:`ChannelScale`), ``pooled`` (:class:`PooledGaussian`), ``position``
                (:class:`PositionGaussian`) or ``none``.
            image_size: (H, W); with ``position``, the detector accepts no other size.
        """
        blocks = self.afs.blocks + self.deep.blocks
        made: dict[str, nn.Module] = {}
        if kind == "channel":
            made = {block.name: ChannelScale(block.num_channels) for block in blocks}
        elif kind == "pooled":
            made = {block.name: PooledGaussian(block.num_channels) for block in blocks}
        elif kind == "position":
            made = {block.name: PositionGaussian(block.num_channels, block.size(image_size)) for block in blocks}
        device = next(iter(self.afs.indexes.buffers())).device
        return nn.ModuleDict(made).to(device).train(self.training)

    @property
    def side_factor(self) -> int:
        """Return what both sides of an image are multiples of: the coarsest map's stride, in pixels."""
        return side_factor(self.afs.blocks, self.reconstruction)

    def ties_to_size(self) -> list[str]:
        """Return what ties the detector to images of one size, with the config's keys; [] where nothing does."""
        by_position = any(isinstance(part, PositionGaussian) for part in self.normal.modules())
        return [
            *(["normal features have statistics for each position (features.normalise)"] if by_position else []),
            *(["joined maps have a centre for each pixel (detector.fuse)"] if self.fusion is not None else []),
        ]

    def check_image_size(self, image_size: tuple[int, int], *, name: str = "image_size") -> None:
        """Raise UserError if (height, width) are not multiples of ``side_factor``, or too small.

        ``name`` is the config's key that sets them.
        """
        require_size(image_size, self.afs.blocks, self.reconstruction, name)

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

    def measured(self, levels: Mapping[str, Tensor], image_size: Sequence[int]) -> dict[str, Tensor]:
        """Return what has statistics of normality, by block: the features that AFS selects and the deep ones."""
        return {**self.afs(levels, image_size), **self.deep(levels, image_size)}

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

    def normalise(self, selected: Mapping[str, Tensor], classes: Tensor | None = None) -> dict[str, Tensor]:
        """Normalise selected features, by block, if the detector has statistics (docs/method.md, Normal statistics).

        Args:
            selected: (B, C, h, w) by block.
            classes: (B,) of a detector that tells classes apart.
        """
        if not self.normal:
            return dict(selected)
        return {name: in_float32(seen_by(self.normal[name], classes), f) for name, f in selected.items()}

    def sense(self, image: Tensor) -> tuple[Detection, Tensor]:
        """Detect anomalies in images (B, 3, H, W), without joining the maps that :class:`Fusion` joins.

        Returns:
            The detection, and the maps (B, K, H, W) in the order of the fusion's signals.
        """
        size = (image.shape[-2], image.shape[-1])
        with torch.no_grad():
            levels = in_float32(self.backbone, image)
            selected, deep = self.afs(levels, size), self.deep(levels, size)
        detection = self._detect(selected, size)
        with torch.autocast(image.device.type, enabled=False):  # 16 bits would tie most of the pixels
            compared = self.compared(selected).items()
            distances = [seen_by(self.nearest[name], detection.classes)(features) for name, features in compared]
            beyond = [features.float().square() for features in self.normalise(deep, detection.classes).values()]
            signals = {
                "logit": (detection.logits[:, 1:] - detection.logits[:, :1]).float(),
                "residual": root_mean_square(list(detection.residuals.values()), size),
                "distance": root_mean_square([f.float().square() for f in detection.selected.values()], size),
                "nearest": root_mean_square([distance.square() for distance in distances], size),
                **({"deep": root_mean_square(beyond, size)} if beyond else {}),
            }
            return detection, torch.cat([signals[name] for name in SIGNALS if name in signals], dim=1)

    def _detect(self, selected: Mapping[str, Tensor], image_size: Sequence[int]) -> Detection:
        """Run the learned part on features that are not normalised yet."""
        classes = None if self.rule is None else self.rule(selected)
        return replace(self.detect(self.normalise(selected, classes), image_size), classes=classes)

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
            return self._detect(self.select(image), size)
        detection, signals = self.sense(image)
        with torch.autocast(image.device.type, enabled=False):
            fused, scored = seen_by(self.fusion, detection.classes)(signals).chunk(2, dim=1)
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
