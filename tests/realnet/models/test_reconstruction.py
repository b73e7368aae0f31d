import pytest
import torch

from realnet.models.reconstruction import ReconstructionSize, ReconstructionUNet, ResBlock
from tests.closed_form import fill, wave

SMALL = ReconstructionSize(channel_mult=(1, 2), num_res_blocks=1, attention_downsampling=(2,), num_head_channels=32)


@torch.no_grad()
def test_figures_on_a_rectangle():
    network = fill(ReconstructionUNet(40, SMALL)).eval()
    output = network(wave("features", 2, 40, 4, 8))
    assert output.shape == (2, 40, 4, 8)
    assert output[1, :5, 2, 5].tolist() == pytest.approx(
        [0.193163, 0.379621, -0.0326194, -0.436018, -0.215087], abs=5e-5
    )


def test_it_starts_at_zero_so_that_the_first_residual_is_the_square_of_the_features():
    assert not ReconstructionUNet(32, SMALL)(wave("features", 1, 32, 4, 4)).any()


@pytest.mark.parametrize(
    ("ratio", "channels", "width"), [(0.5, 256, 128), (0.5, 2048, 1024), (0.5, 20, 32), (0.3, 128, 64), (0.01, 20, 32)]
)
def test_the_width_is_a_multiple_of_the_norms_groups(ratio, channels, width):
    size = ReconstructionSize(hidden_ratio=ratio)
    assert size.width(channels) == width
    with torch.device("meta"):
        network = ReconstructionUNet(channels, size)
    assert network.input_blocks[0].weight.shape == (width, channels, 3, 3)


def test_an_up_block_has_two_transposed_convolutions_of_its_own():
    block = fill(ResBlock(32, 32, up=True))
    shapes = {key: tuple(value.shape) for key, value in block.state_dict().items() if "upd" in key}
    kernel = {"weight": (32, 32, 4, 4), "bias": (32,)}
    assert shapes == {f"{part}_upd.conv.{key}": shape for part in "hx" for key, shape in kernel.items()}
    assert block(wave("x", 1, 32, 3, 5)).shape == (1, 32, 6, 10)


def test_a_down_block_averages_both_ways():
    block, x = ResBlock(32, 32, down=True), wave("x", 1, 32, 4, 4)
    torch.nn.init.zeros_(block.in_layers[2].weight)
    torch.nn.init.zeros_(block.in_layers[2].bias)
    torch.testing.assert_close(block(x), torch.nn.functional.avg_pool2d(x, 2))


def test_heads_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ValueError, match="heads of 64"):
        ReconstructionUNet(32, ReconstructionSize(channel_mult=(1, 1)))
