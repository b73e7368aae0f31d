import pytest
import torch

from realnet.errors import UserError
from realnet.models.rrs import RRS
from tests.closed_form import fill, wave

FINE, COARSE = (2, 10, 8, 12), (2, 6, 4, 6)


def small(**changes) -> RRS:
    return fill(RRS(16, **({"modes": {"max": 4, "mean": 3}} | changes))).eval()


def residuals() -> list[torch.Tensor]:
    return [wave("fine", *FINE).square(), wave("coarse", *COARSE).square()]


@torch.no_grad()
def test_figures_on_a_rectangle():
    output = small()(residuals(), (32, 48))
    assert output.logits.shape == (2, 2, 32, 48)
    assert output.logits[1, :, 20, 30].tolist() == pytest.approx([0.00595809, 0.0315589], abs=5e-6)
    assert output.chosen["max"].tolist() == [[3, 11, 2, 4], [3, 2, 11, 4]]
    assert output.chosen["mean"].tolist() == [[3, 11, 12], [3, 11, 12]]


@torch.no_grad()
def test_ranks_are_those_of_the_normalised_residual_best_first():
    rrs, residual = small(), wave("residual", 2, 16, 5, 7)
    mean, variance = (value[None, :, None, None] for value in (rrs.bn_idx.running_mean, rrs.bn_idx.running_var))
    normalised = (residual - mean) / (variance + 1e-5).sqrt()
    chosen = rrs.rank(residual)
    assert list(chosen) == ["max", "mean"]
    expected = {"max": normalised.amax((2, 3)), "mean": normalised.mean((2, 3))}
    for mode, number in (("max", 4), ("mean", 3)):
        assert torch.equal(chosen[mode], expected[mode].argsort(dim=1, descending=True)[:, :number])


@torch.no_grad()
def test_the_decoder_is_given_the_residuals_as_they_are_not_normalised():
    rrs, seen = small(), []
    rrs.decoder1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    fine = wave("fine", *FINE).square()
    chosen = rrs([fine, torch.zeros(COARSE)], (32, 48)).chosen
    index = torch.cat([chosen["max"], chosen["mean"]], dim=1)
    whole = torch.cat([fine, torch.zeros(2, 6, 8, 12)], dim=1)
    assert torch.equal(seen[0], torch.stack([image[kept] for image, kept in zip(whole, index, strict=True)]))


@torch.no_grad()
def test_a_loud_channel_is_kept_and_a_silent_one_cannot_change_the_result():
    rrs = small()
    fine, coarse = residuals()
    fine[0, 7, 2, 3] = 100
    output = rrs([fine, coarse], (32, 48))
    assert output.chosen["max"][0, 0] == 7
    ignored = next(c for c in range(10) if not any((chosen[0] == c).any() for chosen in output.chosen.values()))
    fine[0, ignored] *= 0.9
    assert torch.equal(rrs([fine, coarse], (32, 48)).logits, output.logits)


@torch.no_grad()
def test_an_image_scores_the_same_alone_and_in_a_batch():
    rrs, parts = small(), residuals()
    together, alone = rrs(parts, (32, 48)), rrs([part[1:] for part in parts], (32, 48))
    torch.testing.assert_close(together.logits[1:], alone.logits, rtol=0, atol=1e-6)
    for mode, chosen in alone.chosen.items():
        assert torch.equal(together.chosen[mode][1:], chosen)


@pytest.mark.parametrize("stop_grad", [False, True])
def test_stop_grad_keeps_the_loss_from_the_residuals(stop_grad):
    parts = [part.requires_grad_() for part in residuals()]
    rrs = small(stop_grad=stop_grad)
    rrs(parts, (32, 48)).logits.sum().backward()
    assert [part.grad is not None and bool(part.grad.any()) for part in parts] == [not stop_grad] * 2
    assert rrs.decoder1[1].weight.grad.any()


def test_the_ranking_learns_its_statistics_in_training_only_with_momentum_0_9():
    rrs, parts = small(modes={"mean": 5}), residuals()
    before = rrs.bn_idx.running_mean.clone()
    rrs(parts, (32, 48))
    assert torch.equal(rrs.bn_idx.running_mean, before)
    rrs.train()(parts, (32, 48))
    expected = 0.1 * before[:10] + 0.9 * parts[0].mean(dim=(0, 2, 3))
    torch.testing.assert_close(rrs.bn_idx.running_mean[:10], expected)
    assert not list(rrs.bn_idx.parameters())


def test_a_ranking_that_keeps_more_than_there_is_is_refused():
    with pytest.raises(UserError, match=r"rrs\.modes\.mean keeps 17 channels, but the blocks have 16"):
        RRS(16, modes={"max": 4, "mean": 17})
