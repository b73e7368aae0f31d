import math

import pytest
import torch

from guided_diffusion import ClassifierGuidance, GaussianDiffusion, ddim_sample_loop, dpm_sample_loop
from tests.closed_form import wave
from tests.guided_diffusion.test_sampling import CENTRE, SPREAD, STRENGTH, exact_network


def errors(sample, numbers=(10, 20, 40)):
    """How far sampling ends from the exact flow of the data N(CENTRE, SPREAD²), which is linear, by number of steps."""
    found = []
    for number in numbers:
        diffusion = GaussianDiffusion.create(respacing=f"snr{number}")
        x, level = wave("x", 2, 3, 4, 4), diffusion.alphas_cumprod[-1]
        deviation = math.sqrt(level * SPREAD**2 + 1 - level)
        exact = CENTRE + SPREAD / deviation * (x - math.sqrt(level) * CENTRE)
        found.append(float((sample(diffusion, exact_network(diffusion), x) - exact).abs().max()))
    return found


def test_it_follows_the_exact_flow_far_closer_than_ddim_of_as_many_steps():
    solver, ddim = errors(dpm_sample_loop), errors(ddim_sample_loop)
    assert solver[0] < 0.005 and all(ours < theirs / 8 for ours, theirs in zip(solver, ddim, strict=True))


def test_two_steps_are_those_of_ddim(model, classifier, x, noise, y):
    coarse = GaussianDiffusion.create(respacing="ddim2")
    given = {"y": y, "anomaly_strength": STRENGTH, "guidance": ClassifierGuidance(classifier, 0.7)}
    expected, actual = (f(coarse, model, x, lambda step: noise, **given) for f in (ddim_sample_loop, dpm_sample_loop))
    torch.testing.assert_close(actual, expected)


def test_strength_widens_the_distribution_that_sampling_ends_in():
    generator = torch.Generator().manual_seed(0)
    diffusion = GaussianDiffusion.create(respacing="snr20")
    start = torch.randn(2, 3, 96, 96, generator=generator)
    samples = dpm_sample_loop(
        diffusion,
        exact_network(diffusion),
        start,
        lambda step: torch.randn(start.shape, generator=generator),
        anomaly_strength=torch.tensor([0.0, 0.05]),
    )
    plain, amplified = samples.std(dim=(1, 2, 3)).tolist()
    assert plain == pytest.approx(SPREAD, rel=0.02) and amplified > 1.05 * SPREAD


def test_an_image_alone_is_the_image_in_a_batch(model, classifier, x, noise, y):
    diffusion, guidance = GaussianDiffusion.create(respacing="ddim5"), ClassifierGuidance(classifier)

    def loop(part):
        given = {"y": y[part], "anomaly_strength": STRENGTH[part], "guidance": guidance}
        return dpm_sample_loop(diffusion, model, x[part], lambda step: noise[part] * (step % 3), **given)

    together = loop(slice(None))
    for index in range(2):
        torch.testing.assert_close(loop(slice(index, index + 1))[0], together[index])


@pytest.mark.parametrize(
    ("asked", "says"), [({}, "needs noise"), ({"noise": lambda step: torch.zeros(1)}, r"anomaly_strength is -0\.1")]
)
def test_refuses_a_strength_that_it_cannot_use(asked, says, model, x):
    diffusion = GaussianDiffusion.create(respacing="ddim5")
    with pytest.raises(ValueError, match=says):
        dpm_sample_loop(diffusion, model, x, asked.get("noise"), anomaly_strength=-0.1)
