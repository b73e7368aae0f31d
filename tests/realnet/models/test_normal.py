import pytest
import torch

from realnet.models.gaussian import Moments
from realnet.models.normal import ChannelScale, Fusion, root_mean_square, smooth, squash


def test_channels_are_standardised_over_images_and_positions():
    generator = torch.Generator().manual_seed(0)
    features = torch.tensor([1.0, 100.0])[:, None, None] * torch.randn(200, 2, 3, 4, generator=generator) + 7
    moments = Moments.empty(features[0].flatten(1).T)
    moments.add(features)
    scale = ChannelScale(2).fit(moments, 1e-5)
    found = scale(features)
    assert found.mean(dim=(0, 2, 3)).abs().max() < 0.01
    assert found.std(dim=(0, 2, 3)).sub(1).abs().max() < 0.01


@pytest.mark.parametrize("variance", [0.0, -1e-4])
def test_a_channel_that_hardly_varies_does_not_outweigh_the_others(variance):
    second = torch.diag(torch.tensor([variance, 4.0, 8.0]))[None]
    moments = Moments(torch.zeros(1, 3), 2, torch.zeros(1, 3), second)
    deviation = ChannelScale(3).fit(moments, 1e-3).deviation
    assert torch.allclose(deviation, torch.tensor([0.004 + variance / 3e3, 4, 8]).sqrt())


def test_squashing_keeps_every_order_and_keeps_normal_pixels_cold():
    deviations = torch.tensor([-1000.0, -100.0, -3.0, -0.1, 0.0, 0.1, 4.0, 100.0, 1000.0, 1001.0])
    found = squash(deviations)
    assert (found.diff() > 0).all() and found.min() > 0 and found.max() < 1
    assert found[4] == pytest.approx(1 / 9) and found[6] == pytest.approx(0.5, abs=0.01)


@pytest.fixture
def signals():
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(2, 1, 3, 3, generator=generator) for name in Fusion((3, 3)).signals}


def test_fusion_is_the_weighted_sum_of_deviations_and_its_map_is_less_half_of_the_median(signals):
    fusion = Fusion((3, 3))
    fusion.weights.copy_(torch.tensor([0.5, 0.0, 2.0, 0.0]))
    fusion.score_weights.copy_(torch.tensor([0.0, 1.0, 0.0, 3.0]))
    fusion.centres.copy_(torch.tensor([1.0, 9.0, -1.0, 0.0])[:, None, None])
    fusion.scales.copy_(torch.tensor([2.0, 1.0, 4.0, 6.0]))
    joined = 0.5 * (signals["logit"] - 1) / 2 + 2 * (signals["distance"] + 1) / 4
    medians = joined.flatten(1).median(dim=1).values[:, None, None, None]
    found, scored = fusion(torch.cat(list(signals.values()), dim=1)).chunk(2, dim=1)
    assert torch.allclose(found, squash(joined - medians / 2))
    assert torch.allclose(scored, squash(signals["residual"] - 9 + 3 * signals["nearest"] / 6))


def test_the_root_mean_square_weighs_each_channel_of_each_block_alike():
    blocks = [torch.full((1, 3, 8, 8), 4.0), torch.full((1, 1, 4, 4), 16.0)]
    assert torch.allclose(root_mean_square(blocks, (32, 32)), torch.tensor((3 * 4 + 16) / 4).sqrt())


def test_smoothing_keeps_the_mean_of_a_constant_and_spreads_a_point():
    assert torch.allclose(smooth(torch.full((1, 1, 40, 50), 3.0)), torch.tensor(3.0))
    point = torch.zeros(1, 1, 65, 65)
    point[0, 0, 32, 32] = 1
    found = smooth(point)
    assert found.sum() == pytest.approx(1, abs=1e-5) and found[0, 0, 32, 32] == found.max()
    rows = torch.arange(65.0) - 32
    assert (found[0, 0].sum(dim=1) * rows.square()).sum() == pytest.approx(16, rel=0.02)  # the variance is σ²
    assert smooth(torch.ones(1, 1, 4, 4)).shape == (1, 1, 4, 4)
