"""The verdict on diffusion models: one that knows nothing, ones with a fault each, and one that knows the images."""

from pathlib import Path

import pytest
import torch
from alone import ALONE
from torch import Tensor, nn

from realnet import config
from realnet.config import DiffusionConfig
from realnet.data.items import DiffusionDataset
from realnet.models.build import build_diffusion, build_unet
from realnet.sdas.readiness import Health, check_health, readiness, verdict
from realnet.training.diffusion_task import noisy_images, normal_images

READY = {"relative_error": 0.05, "sample_distance": 1.5}


@pytest.fixture
def described(tiny: Path) -> DiffusionConfig:
    sizes = ["train.batch_size=12", "validation.num_batches=1", "validation.respacing=ddim20"]
    return config.load(DiffusionConfig, tiny / "experiments/tiny/diffusion.yaml", sizes)


@pytest.fixture
def images(described: DiffusionConfig) -> DiffusionDataset:
    return noisy_images(described, normal_images("tiny"), purpose="diffusion")


class Knowing(nn.Module):
    """The best possible model of the images: E[ε | x_t] under equal chances of each image of the class."""

    def __init__(self, described: DiffusionConfig, images: DiffusionDataset) -> None:
        super().__init__()
        self.alphas = torch.from_numpy(build_diffusion(described.process).alphas_cumprod).float()
        self.images = torch.stack([images[0, index]["image"] for index in range(len(images))])
        self.classes = torch.tensor(images.class_indexes)

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor) -> Tensor:
        alpha = self.alphas[timesteps.long()][:, None]
        flat, known = x.flatten(1), self.images.flatten(1)
        distances = (flat[:, None] - alpha.sqrt()[:, :, None] * known).square().sum(dim=2)
        odds = torch.where(self.classes == y[:, None], -distances / (2 * (1 - alpha)), -torch.inf)
        expected = odds.softmax(dim=1) @ known
        noise = ((flat - alpha.sqrt() * expected) / (1 - alpha).sqrt()).view_as(x)
        return torch.cat([noise, -torch.ones_like(noise)], dim=1)  # the smaller of the two variances


class Tinted(Knowing):
    """Knows the images, but paints them redder than they are."""

    def __init__(self, described: DiffusionConfig, images: DiffusionDataset) -> None:
        super().__init__(described, images)
        self.images = self.images + torch.tensor([0.4, 0, 0])[:, None, None]


class Indifferent(nn.Module):
    """Takes images for white noise of variance 1, x̂₀ = √ᾱ·x_t: finds back to each image, and cannot make one."""

    def __init__(self, described: DiffusionConfig) -> None:
        super().__init__()
        self.alphas = torch.from_numpy(build_diffusion(described.process).alphas_cumprod).float()

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor) -> Tensor:
        noise = (1 - self.alphas[timesteps.long()]).sqrt()[:, None, None, None] * x
        return torch.cat([noise, -torch.ones_like(noise)], dim=1)


def look(model: nn.Module, described: DiffusionConfig, images: DiffusionDataset) -> Health:
    return check_health(model.eval(), described, images, ALONE)


def record(health: Health) -> list[dict[str, float]]:
    return [{"step": 1.0, **vars(health.figures)}]


def test_an_untrained_model_is_not_ready(described, images):
    health = look(build_unet(described, 2), described, images)
    assert health.figures.relative_error > 0.5 and health.figures.sample_distance > 5
    assert readiness(record(health)) == "unready"
    assert verdict(record(health)).startswith("not ready: train longer; ")


def test_a_model_that_knows_the_images_is_ready(described, images):
    health = look(Knowing(described, images), described, images)
    assert health.figures.relative_error < 0.05 and health.figures.sample_distance < 1.5
    assert readiness(record(health)) == "ready" and verdict(record(health)).startswith("ready; ")


def test_a_good_round_trip_is_not_enough(described, images):
    health = look(Indifferent(described), described, images)
    assert health.figures.relative_error < 0.1 and health.figures.sample_distance > 5
    assert readiness(record(health)) == "unready"


def test_false_colours_in_the_samples_show(described, images):
    assert look(Tinted(described, images), described, images).figures.sample_distance > 2


def test_panels_have_a_row_for_each_stage_and_strength(described, images):
    panels = look(Indifferent(described), described, images).panels
    assert set(panels) == {"round_trip", "strengths"}
    for panel in panels.values():  # three rows of eight pictures, enlarged to 96 pixels
        assert panel.shape[0] > 3 * 96 and panel.shape[1] > 8 * 96


@pytest.mark.parametrize(
    ("entries", "state", "words"),
    [
        (None, "unknown", ["not known to be ready: the checkpoint has no record of validations"]),
        ([], "unready", ["not ready: its training has not reached the first validation"]),
        ([READY], "ready", ["ready; ", "round-trip error 0.050", "samples 1.5 times"]),
        (
            [READY | {"relative_error": 0.2}],
            "unready",
            ["not ready: train longer; ", "0.200", "(ready at 0.1 or less)"],
        ),
        ([READY | {"sample_distance": 2.1}], "unready", ["not ready", "(ready at 2 or less)"]),
        ([READY | {"relative_error": 0.5}, READY], "ready", ["falling from 0.5", "steady from 1.5"]),
        ([READY, READY | {"sample_distance": 1.9}], "ready", ["steady from 0.05", "rising from 1.5"]),
        ([{"relative_error": 0.05}], "unknown", ["not known to be ready; ", "no sample_distance on record"]),
        ([{"relative_error": 0.5}], "unready", ["not ready", "no sample_distance on record"]),
        ([READY, READY | {"relative_error": float("nan")}], "unready", ["not ready"]),
    ],
)
def test_the_verdict_follows_the_last_validation_and_names_the_trend(entries, state, words):
    assert readiness(entries) == state
    assert all(word in verdict(entries) for word in words), verdict(entries)
