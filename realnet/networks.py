"""From configs to networks: the only place where the two meet."""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from guided_diffusion.classifier import NoisyClassifier
from guided_diffusion.gaussian import GaussianDiffusion
from guided_diffusion.unet import UNet
from realnet.config import (
    BlockConfig,
    ClassifierConfig,
    DiffusionConfig,
    ProcessConfig,
    RealNetConfig,
    RuntimeConfig,
)
from realnet.errors import UserError
from realnet.models.afs import Block, Selection
from realnet.models.backbone import Backbone, Level, find_level, measure_levels
from realnet.models.fitting import BUDGETS, choose_blocks, fitting_mult, head_channels, ranked_channels
from realnet.models.realnet import RealNet
from realnet.models.reconstruction import ReconstructionSize
from realnet.models.statistics import Statistics
from realnet.packing import pack_convolutions
from realnet.precision import Precision

NetworkT = TypeVar("NetworkT", bound=nn.Module)


def build_diffusion(process: ProcessConfig, respacing: str = "") -> GaussianDiffusion:
    """Build the diffusion process (method, section 1, Process); respacing ``""`` keeps every step.

    Raises:
        UserError: for a respacing that does not divide the steps.
    """
    with _named_refusals(f"respacing {respacing!r}"):
        return GaussianDiffusion.create(
            noise_schedule=process.noise_schedule, num_steps=process.num_steps, respacing=respacing
        )


def build_unet(config: DiffusionConfig, num_classes: int) -> UNet:
    """Build the class-conditional U-Net with learned variance (method, section 1, U-Net).

    Raises:
        UserError: where channels, normalisation groups and attention heads do not fit.
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
    """Build the noise-aware classifier (method, section 1, Classifier).

    Raises:
        UserError: as :func:`build_unet`.
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
    """Build the feature extractor that a config describes (method, section 3, Backbone).

    Args:
        config: the detector's config.
        weights: instead of the config's.

    Raises:
        UserError: as :class:`Backbone`.
    """
    chosen = config.backbone
    given = Statistics(chosen.mean, chosen.std) if chosen.mean and chosen.std else None
    return Backbone(chosen.name, weights or chosen.weights, image_size=config.image_size, statistics=given)


def settle(config: RealNetConfig) -> RealNetConfig:
    """Write out what a config leaves to the backbone (``auto``), measuring its levels without its weights.

    Raises:
        UserError: as :class:`Backbone`.
    """
    recon, modes = config.reconstruction, config.rrs.modes
    if "auto" not in (config.blocks, modes, recon.channel_mult, recon.num_head_channels):
        return config
    budget, levels = BUDGETS[config.size], measure_levels(config.backbone.name, config.image_size)
    if isinstance(config.blocks, dict):
        blocks = [_block(name, block, levels, config.backbone.name) for name, block in config.blocks.items()]
    else:
        blocks = choose_blocks(levels, config.image_size, budget)
    mult = fitting_mult(blocks, config.image_size) if recon.channel_mult == "auto" else recon.channel_mult
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
    config: RealNetConfig, *, backbone_weights: str | None = None, only_backbone: bool = False
) -> RealNet:
    """Build the detector that a config describes (method, section 3).

    Args:
        config: the detector's config.
        backbone_weights: instead of the config's; ``given`` where a checkpoint brings them.
        only_backbone: leave the rest without contents, on the meta device.

    Raises:
        UserError: where backbone, blocks and image size do not fit.
    """
    config = settle(config)
    assert isinstance(config.blocks, dict) and isinstance(config.rrs.modes, dict)
    backbone = build_backbone(config, backbone_weights)
    with _named_refusals("reconstruction"), torch.device("meta") if only_backbone else nullcontext():
        model = RealNet(
            backbone,
            [_block(name, block, backbone.levels, backbone.name) for name, block in config.blocks.items()],
            reconstruction=ReconstructionSize(**config.reconstruction.model_dump()),
            rrs_modes={str(mode): number for mode, number in config.rrs.modes.items()},
            num_residual_layers=config.rrs.num_residual_layers,
            stop_grad=config.rrs.stop_grad,
            use_checkpoint=config.runtime.activation_checkpointing,
        )
    model.check_image_size(config.image_size)
    return model


def place(network: NetworkT, device: torch.device, runtime: RuntimeConfig) -> NetworkT:
    """Move a network to its device, in the memory layout that the config asks for there."""
    network.to(device)
    if device.type == "cuda" and runtime.channels_last:
        cast(Any, network).to(memory_format=torch.channels_last)  # a keyword that torch 2.11's types do not know
    return network


def make_ready(
    network: NetworkT, number_format: Precision, runtime: RuntimeConfig, *, differentiable: bool = False
) -> NetworkT:
    """Make a trained network as fast as it gets: placed, in its number format, and compiled or packed.

    Args:
        network: whose weights change no more.
        number_format: and device.
        runtime: of the config.
        differentiable: gradients of the input, and of it alone, are wanted, as of a guiding classifier.

    Raises:
        UserError: as :func:`compile_networks`.
    """
    place(network, number_format.device, runtime).eval()
    number_format.cast(network, exact=network.exact_parts() if isinstance(network, RealNet) else ())
    compile_networks(runtime, network)
    if differentiable:
        network.requires_grad_(False)
    elif number_format.device.type == "cpu" and not runtime.compile:
        pack_convolutions(network)
    return network


def compile_networks(runtime: RuntimeConfig, *networks: nn.Module) -> None:
    """Have networks compiled at their first call, where the config asks for it; their state dicts keep their keys.

    Raises:
        UserError: where there is no C++ compiler.
    """
    if not runtime.compile:
        return
    compiler = os.environ.get("CXX") or _DEFAULT_COMPILER.get(sys.platform, "g++")
    if shutil.which(compiler) is None:
        raise UserError(
            f"runtime.compile needs a C++ compiler, and there is no {compiler}; install it, name another one in the "
            "environment variable CXX, or set runtime.compile to false"
        )
    for network in networks:
        for part in _compiled_parts(network):
            part.compile()


_DEFAULT_COMPILER = {"darwin": "clang++", "win32": "cl"}


def _compiled_parts(network: nn.Module) -> list[nn.Module]:
    """Return the parts that are called in training and in use alike: a detector is never called whole in training."""
    if isinstance(network, RealNet):
        return [network.backbone, *network.recon.values(), network.rrs]
    return [network]


def _block(name: str, config: BlockConfig, levels: Sequence[Level], backbone: str) -> Block:
    selections = []
    for level_name, number in config.levels.items():
        level = find_level(levels, level_name, backbone)
        selections.append(Selection(level, level.channels if number == "all" else number))
    return Block(name, config.stride or min(s.level.stride for s in selections), tuple(selections))


@contextmanager
def _named_refusals(section: str) -> Iterator[None]:
    """Pass a network's refusal of its sizes on to the user, who wrote them in a section of the config."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{section}: {error}") from error


def has_backbone(state: Mapping[str, Tensor]) -> bool:
    """Tell whether a detector's state dict brings the backbone, as the published ones do."""
    return any(key.startswith("backbone.") for key in state)
