import pytest
import torch

from guided_diffusion import GaussianDiffusion, UNet
from tests.closed_form import fill, wave

T, Y = torch.tensor([3, 977]), torch.tensor([0, 2])


def small(**changes) -> UNet:
    sizes = {
        "model_channels": 32,
        "num_classes": 3,
        "channel_mult": (1, 2),
        "num_res_blocks": 1,
        "attention_downsampling": (2,),
        "num_head_channels": 16,
    }
    return UNet(**(sizes | changes))


@torch.no_grad()
@pytest.mark.parametrize(
    ("published", "expected"),
    [
        (True, [0.07571, 0.14318, -0.02173, -0.19467, -0.11721, 0.10773]),
        (False, [0.07793, 0.18071, -0.00704, -0.22558, -0.14583, 0.12574]),
    ],
)
def test_figures_on_a_rectangle(published, expected):
    unet = fill(small(use_scale_shift_norm=published, resblock_updown=published)).eval()
    output = unet(wave("image", 2, 3, 8, 16), T, Y)
    assert output.shape == (2, 6, 8, 16)
    assert output[0, :, 5, 9].tolist() == pytest.approx(expected, abs=5e-5)


def test_checkpointing_changes_no_number():
    x = wave("image", 2, 3, 8, 8)
    plain, saving = fill(small(dropout=0.3)).train(), fill(small(dropout=0.3, use_checkpoint=True)).train()
    for unet in (plain, saving):
        torch.manual_seed(0)
        unet(x, T, Y).square().mean().backward()
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_checkpointing_stores_less():
    def stored(unet: UNet) -> int:
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            unet(wave("image", 2, 3, 16, 16), T, Y)
        return sum(sizes)

    assert stored(small(use_checkpoint=True)) < 0.5 * stored(small())


def test_every_parameter_learns():
    unet = fill(small())
    diffusion = GaussianDiffusion.create(respacing="ddim20")
    x = wave("image", 2, 3, 8, 8)
    diffusion.training_losses(unet, x, torch.tensor([0, 11]), wave("noise", 2, 3, 8, 8), y=Y).loss.mean().backward()
    assert [name for name, p in unet.named_parameters() if p.grad is None or p.grad.abs().max() == 0] == []


@torch.no_grad()
def test_starts_by_predicting_zero():
    assert small()(wave("image", 2, 3, 8, 8), T, Y).abs().max() == 0


@torch.no_grad()
def test_timestep_and_class_matter():
    unet, x = fill(small()).eval(), wave("image", 1, 3, 8, 8)
    outputs = [unet(x, torch.tensor([t]), torch.tensor([y])) for t, y in ((3, 0), (900, 0), (3, 2))]
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-4)
    assert not torch.allclose(outputs[0], outputs[2], atol=1e-4)


@torch.no_grad()
def test_an_image_alone_is_the_image_in_a_batch():
    unet, x = fill(small()).eval(), wave("image", 2, 3, 8, 8)
    torch.testing.assert_close(unet(x[1:], T[1:], Y[1:]), unet(x, T, Y)[1:], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_heads_may_be_given_by_their_number():
    x = wave("image", 2, 3, 8, 8)
    by_channels, by_number = fill(small()), fill(small(num_head_channels=None, num_heads=4))
    torch.testing.assert_close(by_channels(x, T, Y), by_number(x, T, Y))


@torch.no_grad()
def test_channels_last_and_bfloat16_come_back_as_float32():
    unet, x = fill(small()).eval(), wave("image", 2, 3, 8, 8)
    expected = unet(x, T, Y)
    unet.to(memory_format=torch.channels_last)
    torch.testing.assert_close(unet(x.to(memory_format=torch.channels_last), T, Y), expected, rtol=1e-3, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = unet(x, T, Y)
    assert rounded.dtype == torch.float32
    assert (rounded - expected).abs().max() < 0.2 * expected.abs().max()


def test_unconditional_network_takes_no_class():
    unet = small(num_classes=None, out_channels=3)
    assert unet(wave("image", 2, 3, 8, 8), T).shape == (2, 3, 8, 8)
    assert not any(key.startswith("label_emb") for key in unet.state_dict())


@pytest.mark.parametrize(("num_classes", "y"), [(3, None), (None, Y)])
def test_refuses_classes_that_do_not_fit(num_classes, y):
    with pytest.raises(ValueError, match=f"num_classes {num_classes}"):
        small(num_classes=num_classes)(wave("image", 2, 3, 8, 8), T, y)


def test_refuses_a_size_that_cannot_be_halved():
    with pytest.raises(ValueError, match=r"8×9.*multiples of 2"):
        small()(torch.zeros(2, 3, 8, 9), T, Y)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_channels": 40}, "40 channels"),
        ({"num_head_channels": 48}, "64 channels.*48"),
        ({"num_head_channels": None, "num_heads": 7}, "64 channels.*7 heads"),
        ({"num_head_channels": None}, "both None"),
    ],
)
def test_refuses_sizes_that_do_not_divide(changes, said):
    with pytest.raises(ValueError, match=said):
        small(**changes)
