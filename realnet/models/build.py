"""Build networks from configs; no other module of ``models`` knows configs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, cast

import torch
from torch import Tensor

from guided_diffusion.classifier import NoisyClassifier
from guided_diffusion.gaussian import GaussianDiffusion
from guided_diffusion.unet import UNet
from realnet.config import (
    DEEP,
    BlockConfig,
    ClassifierConfig,
    DetectorRuntimeConfig,
    DiffusionConfig,
    ProcessConfig,
    RealNetConfig,
    paths,
)
from realnet.errors import UserError
from realnet.models.afs import Block, Selection
from realnet.models.backbone import Backbone, Level, find_level, measure_levels
from realnet.models.fitting import BUDGETS, choose_blocks, fitting_mult, head_channels, ranked_channels
from realnet.models.known_features import Store, store_of
from realnet.models.realnet import Measure, RealNet
from realnet.models.reconstruction import ReconstructionSize
from realnet.models.statistics import Statistics

DEEP_CHANNELS = 512
"""Of the deep features at most: the memory of their statistics grows with the square."""


def build_diffusion(process: ProcessConfig, respacing: str = "") -> GaussianDiffusion:
    """Build the diffusion process (docs/method.md, Diffusion process); respacing ``""`` keeps every step.

    Raises:
        UserError: for a schedule or a respacing that is impossible with this number of steps.
    """
    with _named_refusals(f"respacing {respacing!r}"):
        return GaussianDiffusion.create(
            noise_schedule=process.noise_schedule, num_steps=process.num_steps, respacing=respacing
        )


def build_unet(config: DiffusionConfig, num_classes: int) -> UNet:
    """Build the class-conditional U-Net with learned variance (docs/method.md, U-Net).

    Raises:
        UserError: if normalisation groups or attention heads do not divide the channels.
    """
    with _named_refusals("model"):
        return UNet(
            in_channels=3,
            out_channels=6,
            model_channels=config.model.channels,
            num_classes=num_classes,
            channel_mult=config.model.channel_mult,
            num_res_blocks=config.model.num_res_blocks,
            attention_downsampling=config.model.attention_downsampling(config.image_size),
            num_head_channels=config.model.num_head_channels,
            dropout=config.model.dropout,
            use_checkpoint=config.runtime.activation_checkpointing,
        )


def build_classifier(config: ClassifierConfig, num_classes: int) -> NoisyClassifier:
    """Build the noise-aware classifier (docs/method.md, Guidance classifier).

    Raises:
        UserError: as in :func:`build_unet`, or if the network's downsampling does not divide the image size.
    """
    with _named_refusals("model"):
        return NoisyClassifier(
            image_size=config.image_size,
            in_channels=3,
            model_channels=config.model.channels,
            num_classes=num_classes,
            channel_mult=config.model.channel_mult,
            num_res_blocks=config.model.num_res_blocks,
            attention_downsampling=config.model.attention_downsampling(config.image_size),
            num_head_channels=config.model.num_head_channels,
            dropout=config.model.dropout,
            use_checkpoint=config.runtime.activation_checkpointing,
        )


def build_backbone(config: RealNetConfig, weights: str | None = None) -> Backbone:
    """Build the feature extractor that a config describes (docs/method.md, Backbone).

    Args:
        config: the detector's config.
        weights: instead of the config's.

    Raises:
        UserError: as :class:`Backbone`.
    """
    chosen = config.backbone
    given = Statistics(chosen.mean, chosen.std) if chosen.mean and chosen.std else None
    return Backbone(chosen.name, weights or chosen.weights, image_size=config.input_size, statistics=given)


def settle(config: RealNetConfig) -> RealNetConfig:
    """Write out what a config leaves to the backbone (``auto``), measuring its levels without its weights.

    Raises:
        UserError: as :class:`Backbone`.
    """
    recon, modes = config.reconstruction, config.rrs.modes
    if "auto" not in (config.blocks, modes, recon.channel_mult, recon.num_head_channels):
        return config
    budget, levels = BUDGETS[config.size], measure_levels(config.backbone.name, config.input_size)
    if isinstance(config.blocks, dict):
        blocks = [_block(name, block, levels, config.backbone.name) for name, block in config.blocks.items()]
    else:
        blocks = choose_blocks(levels, config.input_size, budget)
    mult = fitting_mult(blocks, config.input_size, budget) if recon.channel_mult == "auto" else recon.channel_mult
    size = ReconstructionSize(recon.hidden_ratio, mult, recon.num_res_blocks, recon.attention_downsampling)
    heads = head_channels(blocks, size) if recon.num_head_channels == "auto" else recon.num_head_channels
    settled: dict[str, Any] = {
        "blocks": {block.name: _describe(block) for block in blocks},
        "reconstruction": recon.model_copy(update={"channel_mult": mult, "num_head_channels": heads}),
    }
    if modes == "auto":
        number = ranked_channels(blocks, budget)
        settled["rrs"] = config.rrs.model_copy(update={"modes": {"max": number, "mean": number}})
    return config.model_copy(update=settled)


def _describe(block: Block) -> BlockConfig:
    return BlockConfig(levels={s.level.name: s.num_channels for s in block.selections}, stride=block.stride)


def build_detector(
    config: RealNetConfig,
    *,
    by_class: Sequence[Measure | Literal["auto"]] = (),
    backbone_weights: str | None = None,
    only_backbone: bool = False,
) -> RealNet:
    """Build the detector that a config describes (docs/method.md, Detector).

    Args:
        config: of the detector.
        by_class: what the features of each class are measured by, in a detector that tells them apart.
        backbone_weights: replaces ``backbone.weights``; ``given`` if a checkpoint will provide them.
        only_backbone: build everything but the backbone on the meta device, without values.

    Raises:
        UserError: if backbone, blocks and image size do not fit together.
    """
    config = settle(config)
    assert isinstance(config.blocks, dict) and isinstance(config.rrs.modes, dict)
    backbone, fuse = build_backbone(config, backbone_weights), config.detector.fuse
    with _named_refusals("reconstruction"), torch.device("meta") if only_backbone else nullcontext():
        model = RealNet(
            backbone,
            [_block(name, block, backbone.levels, backbone.name) for name, block in config.blocks.items()],
            reconstruction=ReconstructionSize(**config.reconstruction.model_dump()),
            rrs_modes={str(mode): number for mode, number in config.rrs.modes.items()},
            num_residual_layers=config.rrs.num_residual_layers,
            stop_grad=config.rrs.stop_grad,
            deep=_deep(backbone.levels) if fuse.position and fuse.deep else None,
            use_checkpoint=config.runtime.activation_checkpointing,
        )
        if by_class:
            model.tell_classes(len(by_class))
        kinds = by_class or (config.features.normalise,)
        if "auto" not in kinds:  # for which training chooses
            model.measure_by(cast(Sequence[Measure], kinds), config.input_size)
        if fuse.position:
            model.fuse_maps(config.input_size, fuse.memory)
        if config.tiles and config.tiles.context:
            model.see_photographs(config.input_size)
    model.check_image_size(config.input_size, name="tiles.size" if config.tiles else "image_size")
    return model


def store_for(config: DetectorRuntimeConfig) -> Store | None:
    """Return what keeps this process's features of images; None if nothing is to be kept."""
    return store_of(config.features_mib, paths.FEATURES if config.keep_features else None)


def _block(name: str, config: BlockConfig, levels: Sequence[Level], backbone: str) -> Block:
    selections = []
    for level_name, number in config.levels.items():
        level = find_level(levels, level_name, backbone)
        selections.append(Selection(level, level.channels if number == "all" else number))
    return Block(name, config.stride or min(s.level.stride for s in selections), tuple(selections))


def _deep(levels: Sequence[Level]) -> Block:
    """Return the last two levels, at the stride of the last, with the first of their channels."""
    used, rest, chosen = levels[-2:], DEEP_CHANNELS, list[Selection]()
    for left, level in zip(range(len(used), 0, -1), used, strict=True):
        chosen.append(Selection(level, min(level.channels, rest // left)))
        rest -= chosen[-1].num_channels
    return Block(DEEP, used[-1].stride, tuple(chosen))


@contextmanager
def _named_refusals(section: str) -> Iterator[None]:
    """Report a network's ValueError as a UserError that names the section of the config."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{section}: {error}") from error


def has_backbone(state: Mapping[str, Tensor]) -> bool:
    """Tell whether a detector's state dict includes the backbone, as the published ones do."""
    return any(key.startswith("backbone.") for key in state)
