import math

import pytest
import torch

from realnet.models.losses import cross_entropy_loss, focal_loss, reconstruction_loss
from tests.closed_form import wave


def test_figures():
    logits, mask = 2 * wave("logits", 2, 2, 6, 8), (wave("mask", 2, 1, 6, 8) > 0.3).float()
    assert cross_entropy_loss(logits, mask).item() == pytest.approx(1.02513, rel=1e-4)
    assert focal_loss(logits, mask).item() == pytest.approx(0.787095, rel=1e-4)
    assert focal_loss(logits, mask, gamma=0.5).item() == pytest.approx(0.933898, rel=1e-4)
    features, clean = ({"a": wave(f"{k}a", 2, 3, 4, 4), "b": wave(f"{k}b", 2, 5, 2, 2)} for k in "fc")
    assert reconstruction_loss(features, clean).item() == pytest.approx(3.66458, rel=1e-4)


def test_undecided_logits():
    logits, mask = torch.zeros(1, 2, 3, 3), torch.ones(1, 1, 3, 3)
    assert cross_entropy_loss(logits, mask).item() == pytest.approx(math.log(2))
    assert focal_loss(logits, mask).item() == pytest.approx(math.log(2) / 4, rel=1e-4)


def test_channel_1_is_the_anomalys():
    logits = torch.tensor([0.0, 9.0])[None, :, None, None].expand(1, 2, 3, 3)
    right, wrong = torch.ones(1, 1, 3, 3), torch.zeros(1, 1, 3, 3)
    for loss in (cross_entropy_loss, focal_loss):
        assert loss(logits, right) < 1e-3 < 1 < loss(logits, wrong)


def test_the_focal_loss_stays_finite_where_the_network_is_sure_and_wrong():
    logits = torch.tensor([100.0, -100.0])[None, :, None, None].expand(1, 2, 2, 2)
    loss = focal_loss(logits, torch.ones(1, 1, 2, 2))
    assert loss.item() == pytest.approx(-math.log(2e-5), rel=1e-3)


def test_half_precision_loses_nothing():
    logits, mask = wave("logits", 1, 2, 8, 8).bfloat16(), (wave("mask", 1, 1, 8, 8) > 0).float()
    for loss in (cross_entropy_loss, focal_loss):
        assert loss(logits, mask).dtype == torch.float32
    features = {"a": wave("a", 1, 4, 4, 4)}
    assert reconstruction_loss({"a": features["a"].bfloat16()}, features).dtype == torch.float32


def test_the_reconstruction_loss_sums_the_blocks_means():
    clean = {"a": torch.zeros(1, 2, 8, 8), "b": torch.zeros(1, 64, 1, 1)}
    reconstructed = {"a": torch.full((1, 2, 8, 8), 2.0), "b": torch.full((1, 64, 1, 1), 3.0)}
    assert reconstruction_loss(reconstructed, clean).item() == 4 + 9
