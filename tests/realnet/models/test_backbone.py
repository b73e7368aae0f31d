import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from realnet.data.images import IMAGENET_MEAN, IMAGENET_STD
from realnet.errors import UserError
from realnet.models.backbone import Backbone, Level
from realnet.models.statistics import IMAGENET, Statistics

RESNET = [(64, 4), (128, 8), (256, 16), (512, 32)]
WIDE_RESNET = [(256, 4), (512, 8), (1024, 16), (2048, 32)]
SMALL = "torchvision/shufflenet_v2_x0_5"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("wide_resnet50_2.racm_in1k", WIDE_RESNET),
        ("wide_resnet50_2", WIDE_RESNET),
        ("resnet50", WIDE_RESNET),
        ("resnet18", RESNET),
        ("resnet34", RESNET),
        ("efficientnet_b4", [(24, 2), (32, 4), (56, 8), (160, 16), (448, 32)]),
        ("convnext_tiny", [(96, 4), (192, 8), (384, 16), (768, 32)]),
        ("torchvision/resnet18", RESNET),
        ("torchvision/shufflenet_v2_x0_5", [(24, 4), (48, 8), (96, 16), (192, 32)]),
        ("torchvision/mobilenet_v2", [(24, 4), (32, 8), (96, 16), (320, 32)]),
        ("torchvision/convnext_tiny", [(96, 4), (192, 8), (384, 16), (768, 32)]),
        ("torchvision/vgg11", [(256, 4), (512, 8), (512, 16), (512, 32)]),
    ],
)
def test_levels_and_features_of_many_models_without_weights(name, expected):
    with torch.device("meta"):
        backbone = Backbone(name, "none")
        features = backbone(torch.empty(1, 3, 64, 128))
    assert backbone.levels == tuple(Level(f"layer{i}", c, s) for i, (c, s) in enumerate(expected, start=1))
    assert {key: tuple(value.shape) for key, value in features.items()} == {
        f"layer{i}": (1, c, 64 // s, 128 // s) for i, (c, s) in enumerate(expected, start=1)
    }


def test_a_regnet_of_torchvision():
    backbone = Backbone("torchvision/regnet_y_400mf", "none")
    assert [(level.channels, level.stride) for level in backbone.levels] == [(48, 4), (104, 8), (208, 16), (440, 32)]


def test_it_stays_frozen_and_in_eval_mode():
    backbone = nn.Sequential(Backbone(SMALL, "none")).train()[0]
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    backbone(torch.rand(2, 3, 64, 64))
    assert not backbone.training and not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_random_weights_are_the_same_at_each_start_and_leave_the_generator_alone():
    torch.manual_seed(5)
    first, drawn = Backbone(SMALL, "none"), torch.rand(1)
    torch.manual_seed(6)
    assert Backbone(SMALL, "none").checksum == first.checksum
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn)


def test_the_checksum_names_the_weights():
    first, other = Backbone(SMALL, "none"), Backbone(SMALL, "none")
    next(other.parameters()).data[0, 0, 0, 0] += 1e-3
    assert first.checksum != other.checksum


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", ["whole model", "its levels", "prefixed by module."])
def test_weights_from_a_file(tmp_path, content, suffix):
    from torchvision.models import get_model

    model = get_model("shufflenet_v2_x0_5", weights=None)
    state = model.state_dict()
    if content == "its levels":
        state = {key: value for key, value in state.items() if not key.startswith(("conv5", "fc"))}
    elif content == "prefixed by module.":
        state = {f"module.{key}": value for key, value in state.items()}
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    backbone = Backbone(SMALL, str(path))
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(backbone(image)["layer1"], model.eval().maxpool(model.conv1(image)))


def test_a_timm_file_whose_stages_have_dots_fits_the_flattened_extractor(tmp_path):
    import timm

    model = timm.create_model("convnext_atto")
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    backbone = Backbone("convnext_atto", str(tmp_path / "weights.pth"))
    stem = backbone.feature_extractor.state_dict()["stem_0.weight"]
    assert torch.equal(stem, model.state_dict()["stem.0.weight"])


def test_a_wrong_file_is_refused_by_the_names_of_its_tensors(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({**Backbone(SMALL, "none").feature_extractor.state_dict(), "conv1.0.weight": torch.zeros(2)}, path)
    with pytest.raises(UserError, match=r"(?s)does not hold the weights of .*conv1\.0\.weight: \(2,\), needed \(24, 3"):
        Backbone(SMALL, str(path))
    with pytest.raises(UserError, match=r"(?s)layer1\.0\.conv1\.weight: missing.*and \d+ more"):
        Backbone("resnet18", str(path))


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_file_of_no_weights_and_one_that_is_absent(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(UserError, match="does not exist; give"):
        Backbone(SMALL, str(path))
    path.write_text("<html>not found</html>")
    with pytest.raises(UserError, match=r"is (no|not a) complete"):
        Backbone(SMALL, str(path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet19", "timm has no model 'resnet19'"),
        ("resnet18.nonsense", "gives no feature levels .*nonsense"),
        ("torchvision/resnet19", "torchvision has no model 'resnet19'"),
        ("torchvision/vit_b_16", "has no feature maps"),
    ],
)
def test_unknown_and_unfit_models_are_refused(name, message):
    with torch.device("meta"), pytest.raises(UserError, match=message):
        Backbone(name, "none")


def test_an_unknown_level_is_refused_with_those_there_are():
    with torch.device("meta"), pytest.raises(UserError, match=r"no level 'layer9'; it has layer1 \(64 channels, str"):
        Backbone("resnet18", "none").level("layer9")


WINDOWS = [(96, 4), (192, 8), (384, 16), (768, 32)]


@pytest.mark.parametrize(
    ("name", "image_size", "expected"),
    [
        ("swin_tiny_patch4_window7_224", (256, 192), WINDOWS),  # (B, H, W, C), made for 224 pixels
        ("test_mambaout", (64, 96), [(16, 4), (32, 8), (48, 16), (64, 32)]),  # (B, H, W, C)
        ("inception_v4", (256, 256), [(64, 2), (160, 4), (384, 8), (1024, 16), (1536, 32)]),  # its maps lack borders
        ("vit_tiny_patch16_224", (224, 224), [(192, 16)] * 4),  # as it is
        ("vit_tiny_patch16_224", (256, 192), [(192, 16)] * 4),
        ("vit_small_patch14_dinov2", (224, 280), [(384, 14)] * 4),  # made for 518
        ("vit_small_patch14_dinov2", (518, 518), [(384, 14)] * 4),
        ("vit_tiny_patch16_dinov3_qkvb", (256, 256), [(192, 16)] * 4),
        ("vgg11", (64, 64), [(64, 1), (128, 2), (256, 4), (512, 8), (512, 16), (512, 32)]),
        ("torchvision/swin_t", (256, 256), WINDOWS),
        ("torchvision/squeezenet1_0", (256, 256), [(256, 4), (512, 8), (512, 16)]),
        ("torchvision/maxvit_t", (224, 224), [(64, 4), (128, 8), (256, 16), (512, 32)]),
    ],
)
def test_levels_are_measured_at_the_image_size(name, image_size, expected):
    with torch.device("meta"):
        backbone = Backbone(name, "none", image_size=image_size)
        features = backbone(torch.empty(2, 3, *image_size))
    assert [(level.channels, level.stride) for level in backbone.levels] == expected
    for level in backbone.levels:
        batch, channels, *sides = features[level.name].shape
        assert (batch, channels) == (2, level.channels)
        assert all(abs(side - pixels / level.stride) <= 3 for side, pixels in zip(sides, image_size, strict=True))


def test_a_transformers_levels_lie_evenly_over_its_depth():
    import timm

    image = torch.rand(1, 3, 160, 160)
    backbone = Backbone("test_vit", "none", image_size=(160, 160), statistics=IMAGENET)
    whole = timm.create_model("test_vit").eval()
    whole.load_state_dict(
        {key.removeprefix("model."): value for key, value in backbone.feature_extractor.state_dict().items()},
        strict=False,
    )
    with torch.no_grad():
        found = backbone(image)
        expected = whole.forward_intermediates(image, intermediates_only=True)
    depth = len(expected)
    for i, features in enumerate(found.values(), start=1):
        torch.testing.assert_close(features, expected[depth * i // len(found) - 1])


@pytest.mark.parametrize(
    ("name", "image_size", "message"),
    [
        ("vit_small_patch14_dinov2", (256, 256), r"256x256: .* does not take it \(.*14.*set image_size to 280x280"),
        ("efficientformer_l1", (256, 256), r"256x256: .*does not take it .*; set image_size to 224x224, or"),
        ("torchvision/maxvit_t", (256, 256), r"256x256: .*torchvision/maxvit_t does not take it .* to 224x224, or"),
    ],
)
def test_an_image_size_that_a_model_refuses_is_answered_by_one_that_it_takes(name, image_size, message):
    with torch.device("meta"):
        with pytest.raises(UserError, match=message) as refusal:
            Backbone(name, "none", image_size=image_size)
        height, width = re.search(r"set image_size to (\d+)x(\d+)", str(refusal.value)).groups()
        Backbone(name, "none", image_size=(int(height), int(width)))


def test_images_are_normalised_by_the_models_own_statistics():
    pixels = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    assert (IMAGENET.mean, IMAGENET.std) == (IMAGENET_MEAN, IMAGENET_STD)
    backbone = Backbone("tf_efficientnet_lite0", "none")  # of mean and deviation 0.5
    assert backbone.statistics == Statistics((0.5,) * 3, (0.5,) * 3)
    with torch.no_grad():
        found, expected = backbone((pixels - mean) / std), backbone.feature_extractor(pixels * 2 - 1)
    for features, own in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(features, own, rtol=1e-4, atol=1e-5)
    assert not any("renormalise" in key for key in backbone.state_dict())


def test_images_of_imagenets_statistics_stay_as_they_are_bit_for_bit():
    backbone, image = Backbone(SMALL, "none"), torch.randn(1, 3, 64, 64)
    seen = []
    backbone.feature_extractor.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    backbone(image)
    assert seen[0] is image


def test_given_statistics_win_and_are_part_of_what_a_backbone_is():
    given = Statistics((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    own, other = Backbone(SMALL, "none"), Backbone(SMALL, "none", statistics=given)
    assert own.identity() == own.checksum == other.checksum
    assert other.identity() == f"{own.checksum}, images of mean 0.5, 0.4, 0.3, deviation 0.2, 0.3, 0.4"
    assert (other.facts()["mean"], other.facts()["std"]) == ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
