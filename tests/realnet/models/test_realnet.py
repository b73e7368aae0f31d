import pytest
import torch
from torch import nn

from realnet.errors import UserError
from realnet.models.afs import Block, Selection
from realnet.models.backbone import Backbone
from realnet.models.losses import cross_entropy_loss, focal_loss, reconstruction_loss
from realnet.models.normal import centred, root_mean_square, squash
from realnet.models.realnet import RealNet
from realnet.models.reconstruction import ReconstructionSize
from tests.closed_form import fill, wave

SIZE = (64, 96)


def small(*, stop_grad: bool = False, has_deep: bool = False) -> RealNet:
    backbone = Backbone("torchvision/shufflenet_v2_x0_5", "none")
    layer1, layer2, layer3, layer4 = backbone.levels
    model = RealNet(
        backbone,
        [Block("a", 8, (Selection(layer2, 16), Selection(layer1, 8))), Block("b", 16, (Selection(layer3, 20),))],
        reconstruction=ReconstructionSize(channel_mult=(1, 2), num_res_blocks=1, attention_downsampling=(2,)),
        rrs_modes={"max": 6, "mean": 4},
        stop_grad=stop_grad,
        deep=Block("deep", 32, (Selection(layer4, 50),)) if has_deep else None,
    )
    model.afs.indexes.a_layer2.copy_(torch.arange(16) * 3)
    return fill(model).eval()


@torch.no_grad()
def test_figures():
    model, image, clean = small(), wave("image", 2, 3, *SIZE), wave("clean", 2, 3, *SIZE)
    mask = (wave("mask", 2, 1, *SIZE) > 0.6).float()
    detection = model(image)
    assert detection.logits[0, :, 40, 70].tolist() == pytest.approx([0.0142371, 0.0501497], abs=5e-6)
    assert detection.anomaly_map[:, 0, 40, 70].tolist() == pytest.approx([0.508977, 0.508682], abs=2e-6)
    assert detection.selected["a"][0, ::9, 3, 5].tolist() == pytest.approx([0, 0, 0.413177], rel=1e-3)
    assert detection.residuals["a"][0, ::9, 3, 5].tolist() == pytest.approx([0.0190429, 0.0477277, 0.891522], rel=1e-3)
    assert detection.residuals["b"][1, ::9, 2, 3].tolist() == pytest.approx([0.0306464, 0.0797477, 0.562824], rel=1e-3)
    assert detection.chosen["max"].tolist() == [[20, 23, 19, 22, 17, 18], [20, 23, 19, 22, 17, 18]]
    assert detection.chosen["mean"].tolist() == [[20, 23, 17, 21], [20, 23, 17, 21]]
    assert cross_entropy_loss(detection.logits, mask).item() == pytest.approx(0.699714, rel=1e-4)
    assert focal_loss(detection.logits, mask).item() == pytest.approx(0.177333, rel=1e-4)
    losses = reconstruction_loss(detection.reconstructed, model.select(clean))
    assert losses.item() == pytest.approx(0.359043, rel=1e-4)
    model.train()(image)
    assert model.rrs.bn_idx.running_mean[::11].tolist() == pytest.approx(
        [0.125743, 0.116221, 0.38486, 0.0350955], rel=1e-3
    )
    assert model.rrs.decoder1[2].running_mean[:3].tolist() == pytest.approx(
        [0.0229799, -0.00952274, -0.0402645], rel=1e-3
    )


@torch.no_grad()
def test_the_outputs_hang_together():
    detection = small()(wave("image", 2, 3, *SIZE))
    assert detection.anomaly_map.shape == (2, 1, *SIZE)
    torch.testing.assert_close(detection.anomaly_map[:, 0], detection.logits.softmax(dim=1)[:, 1])
    for name, residual in detection.residuals.items():
        torch.testing.assert_close(residual, (detection.selected[name] - detection.reconstructed[name]).square())


@torch.no_grad()
def test_an_image_scores_the_same_alone_and_in_a_batch():
    model, images = small(), wave("image", 3, 3, *SIZE)
    together, alone = model(images), model(images[1:2])
    torch.testing.assert_close(together.anomaly_map[1:2], alone.anomaly_map, rtol=0, atol=1e-5)


@pytest.mark.parametrize("stop_grad", [False, True])
def test_only_reconstruction_and_rrs_learn(stop_grad):
    model = small(stop_grad=stop_grad).train()
    detection = model(wave("image", 2, 3, *SIZE))
    cross_entropy_loss(detection.logits, torch.ones(2, 1, *SIZE)).backward()
    learning = {name.split(".")[0] for name, value in model.named_parameters() if value.grad is not None}
    assert learning == ({"rrs"} if stop_grad else {"recon", "rrs"})
    assert not model.backbone.training and model.rrs.training


def test_the_trainable_state_is_all_but_the_backbone():
    model = small()
    kept = model.trainable_state()
    assert set(model.state_dict()) - set(kept) == {f"backbone.{key}" for key in model.backbone.state_dict()}
    assert {"afs.indexes.a_layer1", "rrs.bn_idx.num_batches_tracked"} <= set(kept)


@pytest.mark.parametrize("size", [(64, 80), (48, 64)])
def test_sides_that_the_strides_do_not_divide_are_refused(size):
    with pytest.raises(UserError, match=rf"image_size {size[0]}x{size[1]}: both sides must be multiples of 32"):
        small()(torch.zeros(1, 3, *size))


def test_maps_of_one_pixel_need_channels_to_be_normalised():
    def model(channel_mult: tuple[int, ...]) -> RealNet:
        backbone = Backbone("torchvision/shufflenet_v2_x0_5", "none")
        blocks = [Block("a", 8, (Selection(backbone.levels[1], 16),))]
        size = ReconstructionSize(channel_mult=channel_mult, num_res_blocks=1, attention_downsampling=())
        return RealNet(backbone, blocks, reconstruction=size, rrs_modes={"max": 2}).eval()

    assert model((2, 2))(torch.zeros(1, 3, 16, 16)).logits.shape == (1, 2, 16, 16)
    with pytest.raises(
        UserError,
        match=r"image_size 16x16: the reconstruction of a .* set image_size to 32x32, or keep more channels in a",
    ):
        model((1, 2))(torch.zeros(1, 3, 16, 16))
    assert model((1, 2))(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 2, 32, 32)


@torch.no_grad()
def test_deep_features_are_measured_and_neither_reconstructed_nor_compared():
    model, image = small(has_deep=True), wave("image", 2, 3, *SIZE)
    model.measure_by(["position"], SIZE)
    model.fuse_maps(SIZE, 64)
    model.normal["deep"].whitening.mul_(3)
    detection, signals = model.sense(image)
    deep, levels = signals[:, model.fusion.signals.index("deep"), None], model.backbone(image)
    squares = model.normal["deep"](levels["layer4"][:, :50]).square()
    assert torch.allclose(deep, root_mean_square([squares], SIZE))
    compared = model.compared(model.measured(levels, SIZE))
    assert set(detection.reconstructed) == {"a", "b"} and "deep" not in compared
    assert torch.allclose(detection.logits, small()(image).logits, atol=1e-6)  # the identity measures the others
    model.fusion.weights.copy_(torch.eye(5)[4])
    assert torch.allclose(model(image).anomaly_map, squash(centred(deep)))


@pytest.mark.parametrize(("kind", "is_tied"), [("channel", False), ("pooled", False), ("position", True)])
@pytest.mark.parametrize("num_classes", [1, 2])
def test_statistics_by_position_tie_a_detector_to_one_size(kind, is_tied, num_classes):
    model = small()
    if num_classes > 1:
        model.tell_classes(num_classes)
    model.measure_by([kind] * num_classes, SIZE)
    assert bool(model.ties_to_size()) == is_tied


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
def test_in_16_bits_features_and_what_repeats_them_stay_exact_in_use(training):
    model, image = small().train(training), wave("image", 2, 3, *SIZE)
    expected = model.select(image)
    parts = [model.backbone] if training else model.exact_parts()
    exact = {layer for part in parts for layer in part.modules()}
    formats = {}
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            layer.register_forward_hook(lambda layer, _, output: formats.__setitem__(layer, output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        detection = model(image)
    for layer, dtype in formats.items():
        assert dtype == (torch.float32 if layer in exact else torch.bfloat16)
    assert set(formats.values()) == {torch.float32, torch.bfloat16}
    for name, features in detection.selected.items():
        assert torch.equal(features, expected[name])
        assert detection.reconstructed[name].dtype == (torch.bfloat16 if training else torch.float32)
