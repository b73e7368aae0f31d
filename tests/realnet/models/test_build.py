import copy

import pytest
import torch
from torch import nn

from realnet.config import ClassifierConfig, DiffusionConfig, ProcessConfig, RealNetConfig, RuntimeConfig
from realnet.errors import UserError
from realnet.models.build import build_classifier, build_detector, build_diffusion, build_unet, has_backbone
from realnet.runtime import precision
from realnet.runtime.packing import can_pack
from realnet.runtime.placement import compile_networks, make_ready

SMALL = {
    "image_size": 64,
    "backbone": {"name": "torchvision/shufflenet_v2_x0_5", "weights": "none"},
    "blocks": {"fine": {"levels": {"layer2": "all", "layer1": 8}}, "coarse": {"levels": {"layer3": 20}, "stride": 8}},
    "rrs": {"modes": {"mean": 6}},
}


def small(**changes) -> RealNetConfig:
    return RealNetConfig(**(SMALL | changes))


def test_the_published_sizes():
    with torch.device("meta"):
        detector = build_detector(RealNetConfig(), backbone_weights="none")
        unet, classifier = build_unet(DiffusionConfig(), 15), build_classifier(ClassifierConfig(), 15)
    learned = sum(value.numel() for value in detector.parameters() if value.requires_grad)
    assert (round(learned / 1e6), round(sum(value.numel() for value in detector.parameters()) / 1e6)) == (524, 591)
    assert round(sum(value.numel() for value in unet.parameters()) / 1e6, 1) == 552.8
    assert round(sum(value.numel() for value in classifier.parameters()) / 1e6, 1) == 53.6


def test_derived_sizes_come_from_the_backbone():
    with torch.device("meta"):
        model = build_detector(small())
    assert [(block.name, block.stride, block.num_channels) for block in model.afs.blocks] == [
        ("fine", 4, 48 + 8),
        ("coarse", 8, 20),
    ]
    assert model.rrs.bn_idx.num_features == 76 and model.rrs.modes == {"mean": 6}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": (64, 40)}, "image_size 64x40: both sides must be multiples of 32"),
        ({"blocks": {"b": {"levels": {"layer9": 3}}}}, "has no level 'layer9'; it has layer1 "),
        ({"blocks": {"b": {"levels": {"layer1": 25}}}}, "b_layer1 keeps 25 channels, but the level has 24"),
        ({"rrs": {"modes": {"max": 77}}}, r"rrs\.modes\.max keeps 77 channels, but the blocks have 76"),
        ({"reconstruction": {"channel_mult": [1, 1]}}, "reconstruction: .*heads of 64"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with torch.device("meta"), pytest.raises(UserError, match=message):
        build_detector(small(**changes))


def test_a_model_that_does_not_divide_into_groups_or_heads_is_refused():
    with torch.device("meta"), pytest.raises(UserError, match="model: 48 channels cannot"):
        build_unet(DiffusionConfig(model={"channels": 48}), 3)
    with torch.device("meta"), pytest.raises(UserError, match=r"model: .*heads of 60"):
        build_classifier(ClassifierConfig(model={"num_head_channels": 60}), 3)


def test_a_respacing_that_gives_other_steps_is_refused():
    assert build_diffusion(ProcessConfig(), "ddim20").num_steps == 20
    with pytest.raises(UserError, match="respacing 'ddim300': "):
        build_diffusion(ProcessConfig(), "ddim300")


def test_a_published_detector_brings_its_backbone():
    model = build_detector(small())
    assert has_backbone(model.state_dict()) and not has_backbone(model.trainable_state())


TRACED = {
    "backbone": {"name": "test_resnet", "weights": "none"},
    "blocks": {"fine": {"levels": {"layer1": 8}}},
    "reconstruction": {
        "channel_mult": [1],
        "num_res_blocks": 1,
        "attention_downsampling": [1],
        "num_head_channels": 8,
    },
}
"""A network of every kind of layer, and few of them: tracing takes long."""


@torch.no_grad()
def test_compiled_networks_keep_their_keys_and_numbers(monkeypatch):
    whole = nn.Module.compile  # traces, and runs what it has traced: no compiler is needed
    monkeypatch.setattr(nn.Module, "compile", lambda module: whole(module, backend="eager"))
    monkeypatch.setenv("CXX", "true")
    model, image = build_detector(small(**TRACED)).eval(), torch.rand(1, 3, 64, 64)
    keys, expected = list(model.state_dict()), model(image).logits
    compile_networks(RuntimeConfig(compile=True), model)
    assert all(part._compiled_call_impl for part in (model.backbone, *model.recon.values(), model.rrs))
    torch.testing.assert_close(model(image).logits, expected)
    assert list(model.state_dict()) == keys


def test_a_network_made_ready_gives_the_same_numbers_and_keeps_gradients_only_on_request():
    model, image = build_detector(small()).eval(), torch.rand(1, 3, 64, 64)
    number_format, runtime = precision.resolve("fp32", torch.device("cpu")), RuntimeConfig()
    guide = make_ready(copy.deepcopy(model), number_format, runtime, differentiable=True)
    seen = image.clone().requires_grad_()
    expected = guide.detect(guide.afs(guide.backbone(seen), (64, 64)), (64, 64)).logits
    assert torch.autograd.grad(expected.sum(), seen)[0].abs().sum() > 0
    with torch.inference_mode():
        actual = make_ready(model, number_format, runtime)(image).logits
    torch.testing.assert_close(actual, expected.detach(), rtol=1e-4, atol=1e-4)
    assert not any(parameter.requires_grad for parameter in guide.parameters())
    if can_pack(torch.float32):
        assert not any(isinstance(part, torch.nn.Conv2d) for part in model.modules())


def test_compiling_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"runtime\.compile needs a C\+\+ compiler, but no-such-compiler was not found"):
        compile_networks(RuntimeConfig(compile=True))
    compile_networks(RuntimeConfig())
