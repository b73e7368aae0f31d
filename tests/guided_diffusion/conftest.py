"""A network in closed form, small enough to follow by hand."""

import pytest
import torch
from torch import Tensor

from tests.closed_form import wave


def closed_form_model(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
    """An ε̂ that depends on image, timestep and class, and a v within [-1, 1]."""
    level = (t / 1000)[:, None, None, None]
    label = 0 if y is None else 0.1 * y[:, None, None, None]
    return torch.cat([0.6 * x.sin() + 0.2 * level + label, 0.8 * (2 * x + level).cos()], dim=1)


def closed_form_classifier(x: Tensor, t: Tensor) -> Tensor:
    """Logits of 3 classes, quadratic in the image."""
    features = x.flatten(1)
    return (features + features**2 / 3) @ wave("classifier", features.shape[1], 3) * (1 + t[:, None] / 1000)


@pytest.fixture
def model():
    return closed_form_model


@pytest.fixture
def classifier():
    return closed_form_classifier


@pytest.fixture
def x():
    return 0.9 * wave("x", 2, 3, 4, 4)


@pytest.fixture
def noise():
    return 1.3 * wave("noise", 2, 3, 4, 4)


@pytest.fixture
def y():
    return torch.tensor([0, 2])
