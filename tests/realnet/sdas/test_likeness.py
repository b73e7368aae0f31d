import pytest
import torch
from torch import Tensor

from realnet.sdas.likeness import NUM_OCTAVES, features, sample_distance


@pytest.fixture
def normal() -> Tensor:
    """Grey images of stripes, whose brightness, contrast and grain differ by more than the least that counts."""
    generator = torch.Generator().manual_seed(0)
    level, contrast, grain = torch.rand(3, 64, 1, 1, 1, generator=generator)
    stripes = torch.linspace(0, 25, 32).sin().expand(64, 3, 32, 32)
    noise = torch.randn(64, 1, 32, 32, generator=generator)
    return 0.4 * level + 0.3 * (0.5 + contrast) * stripes + 0.1 * (0.5 + grain) * noise


def distance(samples: Tensor, normal: Tensor) -> float:
    of_one_class = torch.zeros(64, dtype=torch.long)
    return sample_distance(samples, of_one_class[: len(samples)], normal, of_one_class)


def test_normal_images_are_at_one(normal):
    assert distance(normal, normal) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)),
        lambda x: torch.nn.functional.avg_pool2d(x, 5, 1, 2),
        lambda x: x + torch.tensor([0.5, 0, -0.5])[:, None, None],
        lambda x: x.mean(dim=(2, 3), keepdim=True).expand_as(x),
    ],
    ids=["noise", "blur", "colours", "nothing to be seen"],
)
def test_what_the_eye_sees_at_once_is_beyond_two(normal, spoil):
    assert distance(spoil(normal), normal) > 2


def test_each_class_has_its_own_measure(normal):
    dark, bright = normal - 0.3, normal
    both, classes = torch.cat([dark, bright]), torch.arange(2).repeat_interleave(64)
    assert sample_distance(both, classes, both, classes) == pytest.approx(1, abs=1e-3)
    assert sample_distance(both, 1 - classes, both, classes) > 1.5


def test_features_tell_octaves_apart():
    rows = torch.arange(32.0)
    for octave in range(NUM_OCTAVES):
        wave = (2 * torch.pi * 0.36 / 2**octave * rows).sin().expand(1, 3, 32, 32)
        logs = features(wave)[0, 6:]
        assert logs.argmax() == octave
