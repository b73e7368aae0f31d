"""``blocks: auto``: the rules on plain levels, and what configs make of them."""

import pytest
import torch

from realnet.config import BackboneConfig, RealNetConfig, ReconstructionConfig, RRSConfig
from realnet.config.detector import PUBLISHED_BLOCKS
from realnet.models.backbone import Level
from realnet.models.build import build_detector, settle
from realnet.models.fitting import BUDGETS, choose_blocks, fitting_mult, head_channels, ranked_channels
from realnet.models.reconstruction import ReconstructionSize

RESNET50 = [(64, 2), (256, 4), (512, 8), (1024, 16), (2048, 32)]
LITE0 = [(16, 2), (24, 4), (40, 8), (112, 16), (320, 32)]
DINO = [(384, 14)] * 4


def levels(*shapes):
    return [Level(f"layer{i}", *shape) for i, shape in enumerate(shapes, start=1)]


def blocks(shapes, size, side=256):
    chosen = choose_blocks(levels(*shapes), (side, side), BUDGETS[size])
    return [(b.selections[0].level.name, b.selections[0].num_channels, b.stride) for b in chosen]


@pytest.mark.parametrize(
    ("shapes", "size", "side", "expected"),
    [
        (RESNET50, "published", 256, [(2, 256, 4), (3, 512, 8), (4, 512, 16), (5, 256, 32)]),
        (RESNET50, "medium", 256, [(2, 128, 4), (3, 256, 8), (4, 256, 16), (5, 128, 32)]),
        (RESNET50, "small", 256, [(2, 64, 4), (3, 128, 8), (4, 128, 16)]),
        (LITE0, "small", 256, [(2, 24, 4), (3, 40, 8), (4, 112, 16)]),
        (LITE0, "published", 64, [(2, 24, 4), (3, 40, 8), (4, 112, 16)]),  # at stride 32 a map of two pixels
        (LITE0, "published", 32, [(2, 24, 4), (3, 40, 8)]),
        (LITE0, "published", 240, [(2, 24, 4), (3, 40, 8), (4, 112, 16)]),  # 32 does not divide it
        (DINO, "small", 224, [(1, 128, 14), (2, 128, 14), (3, 128, 14), (4, 128, 14)]),
        ([(64, 7), (128, 14)], "small", 224, [(1, 64, 7), (2, 128, 14)]),
        ([(192, 32)] * 2, "small", 256, [(1, 128, 32), (2, 128, 32)]),  # beyond the budget, but all there is
        ([(64, 1), (64, 2)], "small", 250, [(2, 64, 2)]),
        ([(24, 4), (40, 8)], "small", 250, [(1, 24, 4)]),  # none divides it: refused later, with a size that does
    ],
)
def test_blocks_follow_from_levels_image_size_and_budget(shapes, size, side, expected):
    assert blocks(shapes, size, side) == [(f"layer{i}", channels, stride) for i, channels, stride in expected]


@pytest.mark.parametrize(
    ("shapes", "side", "expected"),
    [
        (LITE0, 256, (1, 2, 4)),
        (LITE0, 64, (1, 2)),  # a map of one pixel says nothing
        (LITE0, 32, (1, 2)),
        (LITE0[:2], 32, (1, 2, 4)),
        (DINO, 504, (1, 2, 4)),
        (DINO, 518, (1,)),  # 37 patches a side
        (DINO, 140, (1, 2)),
        (DINO, 256, (1, 2, 4)),  # refused, with the nearest multiple of 56
    ],
)
def test_the_reconstruction_is_as_deep_as_the_maps_allow(shapes, side, expected):
    chosen = choose_blocks(levels(*shapes), (side, side), BUDGETS["medium"])
    assert fitting_mult(chosen, (side, side), BUDGETS["medium"]) == expected
    assert fitting_mult(chosen, (side, side), BUDGETS["small"]) == expected[:2]


def test_rankings_keep_at_most_half_of_the_channels():
    budget = BUDGETS["small"]
    assert ranked_channels(choose_blocks(levels(*LITE0), (256, 256), budget), budget) == 64
    assert ranked_channels(choose_blocks(levels((10, 4), (11, 8)), (256, 256), budget), budget) == 10


def test_heads_are_of_32_channels_where_64_do_not_divide():
    chosen = choose_blocks(levels((24, 4), (190, 8)), (256, 256), BUDGETS["published"])  # of width 32 and 96
    assert head_channels(chosen, ReconstructionSize()) == 64
    assert head_channels(chosen, ReconstructionSize(channel_mult=(1,))) == 32
    assert head_channels(chosen, ReconstructionSize(channel_mult=(1, 3), attention_downsampling=())) == 32


def config(**values) -> RealNetConfig:
    return RealNetConfig.model_validate(values)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"backbone": {"weights": "none"}},
        {"backbone": {"name": "wide_resnet50_2.tv_in1k"}},
        {"backbone": BackboneConfig(name="wide_resnet50_2")},
        {"size": "published"},
        {"backbone": {"name": "resnet18"}, "blocks": PUBLISHED_BLOCKS},
    ],
)
def test_the_published_backbone_and_blocks_that_are_named_stay_as_they_are(values):
    made, published = config(**values), RealNetConfig()
    assert (made.blocks, made.rrs, made.reconstruction) == (PUBLISHED_BLOCKS, published.rrs, published.reconstruction)
    assert settle(made) is made


@pytest.mark.parametrize(
    "values",
    [
        {"backbone": {"name": "resnet18"}},
        {"backbone": BackboneConfig(name="resnet18")},
        {"size": "small"},
        {"blocks": "auto"},
    ],
)
def test_otherwise_blocks_and_the_rest_follow_from_the_backbone(values):
    made = config(**values)
    assert (made.blocks, made.rrs.modes, made.reconstruction.channel_mult) == ("auto", "auto", "auto")
    settled = settle(made)
    assert (
        settled.backbone == made.backbone
        and list(settled.blocks) == ["block1", "block2", "block3", "block4"][: len(settled.blocks)]
    )
    assert config(**settled.model_dump(mode="json")) == settled == settle(settled)


def test_what_is_named_wins():
    made = config(
        backbone={"name": "resnet18"},
        size="small",
        rrs=RRSConfig(stop_grad=True),
        reconstruction={"channel_mult": [1, 2]},
    )
    settled = settle(made)
    assert settled.reconstruction == ReconstructionConfig(channel_mult=(1, 2))
    assert settled.rrs == RRSConfig(modes={"max": 64, "mean": 64}, stop_grad=True)
    assert [block.levels for block in settled.blocks.values()] == [{"layer1": 64}, {"layer2": 128}, {"layer3": 128}]
    given = config(blocks={"own": {"levels": {"layer2": "all"}}}, rrs={"modes": "auto"}, backbone={"name": "resnet18"})
    assert settle(given).rrs.modes == {"max": 64, "mean": 64}


@pytest.mark.parametrize("size", BUDGETS)
@pytest.mark.parametrize(
    ("name", "side"), [("tf_efficientnet_lite0", 256), ("vit_small_patch14_dinov2", 518), ("resnet50", 64)]
)
def test_every_size_can_be_built(name, side, size):
    made = config(backbone={"name": name, "weights": "none"}, image_size=side, size=size)
    with torch.device("meta"):
        model = build_detector(made)
        selected = model.afs(model.backbone(torch.empty(2, 3, side, side)), (side, side))
        assert model.detect(selected, (side, side)).logits.shape == (2, 2, side, side)
