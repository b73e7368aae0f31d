import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from guided_diffusion import (
    ClassifierGuidance,
    GaussianDiffusion,
    classifier_gradient,
    ddim_reverse,
    ddim_reverse_loop,
    ddim_sample,
    ddim_sample_loop,
    p_sample,
    p_sample_loop,
)
from guided_diffusion.gaussian import NoisePredictor
from tests.closed_form import wave

DDIM20 = GaussianDiffusion.create(respacing="ddim20")
T = torch.tensor([0, 11])
STRENGTH = torch.tensor([0.1, 0.2])
CENTRE, SPREAD = 0.1, 0.2


def figures(values: Tensor) -> list[float]:
    """One position of each image."""
    return [*values[0, :, 1, 2].tolist(), *values[1, :, 3, 0].tolist()]


def exact_network(diffusion: GaussianDiffusion) -> NoisePredictor:
    """The exact ε̂ and v for data whose values are independent, N(CENTRE, SPREAD²)."""
    kept = {int(original): step for step, original in enumerate(diffusion.timestep_map)}
    level, smallest = diffusion.alphas_cumprod, diffusion.posterior_log_variance_clipped
    span = np.log(diffusion.betas) - smallest
    frac = (np.log(reverse_variance(diffusion)) - smallest) / np.where(span == 0, 1, span)

    def predict(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        step = kept[int(t[0])]
        eps = math.sqrt(1 - level[step]) * (x - math.sqrt(level[step]) * CENTRE)
        eps = eps / (level[step] * SPREAD**2 + 1 - level[step])
        return torch.cat([eps, torch.full_like(x, 2 * frac[step] - 1)], dim=1)

    return predict


def reverse_variance(diffusion: GaussianDiffusion) -> np.ndarray:
    """The exact variance of x_{t-1} given x_t: the posterior's, and that of x_0 given x_t seen through it."""
    level = diffusion.alphas_cumprod
    uncertainty = SPREAD**2 * (1 - level) / (level * SPREAD**2 + 1 - level)
    return diffusion.posterior_variance + diffusion.posterior_mean_coef1**2 * uncertainty


def spread_after_sampling(diffusion: GaussianDiffusion, strength: float) -> float:
    """The standard deviation that ancestral sampling must end with: Var ← (dμ/dx)²·Var + (1+s)·σ²."""
    level, sigma2, variance = diffusion.alphas_cumprod, reverse_variance(diffusion), 1.0
    xstart_slope = np.sqrt(level) * SPREAD**2 / (level * SPREAD**2 + 1 - level)
    slope = diffusion.posterior_mean_coef1 * xstart_slope + diffusion.posterior_mean_coef2
    for step in reversed(range(diffusion.num_steps)):
        variance = slope[step] ** 2 * variance + (step > 0) * (1 + strength) * sigma2[step]
    return math.sqrt(variance)


def test_one_step_figures(model, classifier, x, noise, y):
    guidance = ClassifierGuidance(classifier, 0.7)
    shared = {"y": y, "anomaly_strength": STRENGTH}
    actual = {
        "ancestral": p_sample(DDIM20, model, x, T, noise, **shared),
        "ancestral, guided": p_sample(DDIM20, model, x, T, noise, guidance=guidance, **shared),
        "ddim": ddim_sample(DDIM20, model, x, T, noise, eta=0.5, **shared),
        "ddim, guided": ddim_sample(DDIM20, model, x, T, noise, eta=0.5, guidance=guidance, **shared),
        "reverse": ddim_reverse(DDIM20, model, x, T, y=y),
    }
    expected = {
        "ancestral": [-0.890511, -0.572519, 0.070268, 0.988789, -0.087961, -1.145472],
        "ancestral, guided": [-0.890493, -0.572542, 0.070276, 0.850768, -0.090726, -1.092258],
        "ddim": [-0.890511, -0.572519, 0.070268, 0.974999, -0.141187, -1.197034],
        "ddim, guided": [-0.890493, -0.572542, 0.070276, 0.853288, -0.143601, -1.150247],
        "reverse": [-0.958187, -0.62048, 0.07655, 0.416279, -0.24979, -0.760776],
    }
    for name, values in expected.items():
        assert figures(actual[name]) == pytest.approx(values, abs=2e-5), name


def test_inversion_figures(model, x, y):
    expected = [-0.388319, -0.138753, 0.273407, 0.759346, 0.392847, -0.058783]
    assert figures(ddim_reverse_loop(DDIM20, model, x, y=y)) == pytest.approx(expected, abs=1e-4)


def test_gradient_is_that_of_the_log_probability(classifier, x, y):
    t = DDIM20.original_timesteps(T)
    actual = classifier_gradient(classifier, x, t, y=y, scale=0.7)
    direction = wave("direction", *x.shape)

    def log_probability(step: float) -> Tensor:
        return F.log_softmax(classifier(x + step * direction, t), dim=1)[torch.arange(2), y].sum()

    slope = (log_probability(1e-2) - log_probability(-1e-2)) / 2e-2
    torch.testing.assert_close((actual * direction).sum(), 0.7 * slope, rtol=1e-3, atol=0)
    assert figures(actual) == pytest.approx([0.180032, -0.235449, 0.076519, -0.339444, -0.006734, 0.130486], abs=1e-5)


def test_the_classifier_is_given_the_original_timesteps(model, classifier, x, noise, y):
    seen = []

    def watched(x, t):
        seen.append(t.tolist())
        return classifier(x, t)

    for sample in (p_sample, ddim_sample):
        sample(DDIM20, model, x, T, noise, y=y, guidance=ClassifierGuidance(watched))
    assert seen == [[0, 550], [0, 550]]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_guidance_works_where_gradients_are_off(mode, model, classifier, x, noise, y):
    guidance = ClassifierGuidance(classifier)
    expected = p_sample(DDIM20, model, x, T, noise, y=y, guidance=guidance)
    with mode():
        actual = p_sample(DDIM20, model, x.clone(), T.clone(), noise, y=y.clone(), guidance=guidance)
    assert torch.equal(actual, expected)
    assert not actual.requires_grad


def test_guidance_needs_classes(model, classifier, x, noise):
    with pytest.raises(ValueError, match="y is None"):
        p_sample(DDIM20, model, x, T, noise, guidance=ClassifierGuidance(classifier))


def test_strength_zero_is_plain_ancestral_sampling(model, x, noise, y):
    step = DDIM20.p_mean_variance(model, x, T, y=y)
    gate = torch.tensor([0.0, 1.0])[:, None, None, None]
    expected = step.mean + gate * step.variance.sqrt() * noise
    torch.testing.assert_close(p_sample(DDIM20, model, x, T, noise, y=y), expected)


@pytest.mark.parametrize("sample", [p_sample, ddim_sample])
def test_the_last_step_adds_no_noise(sample, model, x, noise, y):
    last = torch.zeros(2, dtype=torch.long)
    step = [sample(DDIM20, model, x, last, z, y=y, anomaly_strength=0.2) for z in (noise, -noise)]
    assert torch.equal(*step)


def test_strength_multiplies_the_noises_variance_by_one_plus_s(model, x, noise, y):
    t = torch.tensor([5, 11])
    mean = p_sample(DDIM20, model, x, t, torch.zeros_like(x), y=y)
    plain, amplified = (p_sample(DDIM20, model, x, t, noise, y=y, anomaly_strength=s) - mean for s in (0.0, STRENGTH))
    ratio = amplified.square().sum(dim=(1, 2, 3)) / plain.square().sum(dim=(1, 2, 3))
    torch.testing.assert_close(ratio, 1 + STRENGTH, rtol=1e-5, atol=0)


def test_ddim_strength_adds_the_learned_variances_noise(model, x, noise, y):
    t = torch.tensor([5, 11])
    plain, amplified = (ddim_sample(DDIM20, model, x, t, noise, y=y, anomaly_strength=s) for s in (0.0, STRENGTH))
    sigma = DDIM20.p_mean_variance(model, x, t, y=y).variance.sqrt()
    torch.testing.assert_close(amplified - plain, STRENGTH.sqrt()[:, None, None, None] * sigma * noise)


def test_ddim_at_eta_one_is_ancestral_sampling_with_the_posteriors_variance(x, noise):
    def model(x, t, y):
        return 0.3 * x

    t = torch.tensor([1, 12])
    ancestral = p_sample(DDIM20, model, x, t, noise)
    torch.testing.assert_close(ddim_sample(DDIM20, model, x, t, noise, eta=1.0), ancestral, rtol=1e-4, atol=1e-4)


def test_a_coarse_process_at_eta_one_stays_finite(x, noise):
    coarse = GaussianDiffusion.create(respacing="ddim2")
    sample = ddim_sample(coarse, lambda x, t, y: x, x, torch.tensor([1, 1]), noise, eta=1.0)
    assert sample.isfinite().all()


@pytest.mark.parametrize("sample", [p_sample_loop, ddim_sample_loop])
def test_loops_chain_the_steps_downwards(sample, model, classifier, x, noise, y):
    guidance = ClassifierGuidance(classifier, 0.5)
    shared = {"y": y, "anomaly_strength": STRENGTH, "guidance": guidance}
    looped = sample(DDIM20, model, x, lambda step: noise * (step + 1) / 20, **shared)
    one_step = {p_sample_loop: p_sample, ddim_sample_loop: ddim_sample}[sample]
    for step in range(19, -1, -1):
        x = one_step(DDIM20, model, x, torch.tensor([step, step]), noise * (step + 1) / 20, **shared)
    assert torch.equal(looped, x)


def test_each_step_evaluates_the_network_and_the_classifier_once(model, classifier, x, noise, y):
    calls = []

    def watched_model(*given):
        calls.append("network")
        return model(*given)

    def watched_classifier(*given):
        calls.append("classifier")
        return classifier(*given)

    guidance = ClassifierGuidance(watched_classifier)
    for sample in (p_sample_loop, ddim_sample_loop):
        calls.clear()
        sample(DDIM20, watched_model, x, lambda step: noise, y=y, guidance=guidance)
        assert sorted(calls) == ["classifier"] * 20 + ["network"] * 20


@pytest.mark.parametrize("sample", [p_sample_loop, ddim_sample_loop])
def test_an_image_alone_is_the_image_in_a_batch(sample, model, classifier, x, noise, y):
    def loop(part: slice) -> Tensor:
        return sample(
            DDIM20,
            model,
            x[part],
            lambda step: noise[part] * (step % 3),
            y=y[part],
            anomaly_strength=STRENGTH[part],
            guidance=ClassifierGuidance(classifier),
        )

    together = loop(slice(None))
    for index in range(2):
        torch.testing.assert_close(loop(slice(index, index + 1))[0], together[index])


def test_ancestral_sampling_ends_in_the_datas_distribution_widened_by_the_strength():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, 3, 96, 96, generator=generator)
    samples = p_sample_loop(
        DDIM20,
        exact_network(DDIM20),
        start,
        lambda step: torch.randn(start.shape, generator=generator),
        anomaly_strength=torch.tensor([0.0, 0.2]),
    )
    assert samples.mean(dim=(1, 2, 3)).tolist() == pytest.approx([CENTRE, CENTRE], abs=0.01)
    expected = [spread_after_sampling(DDIM20, s) for s in (0.0, 0.2)]
    assert expected[0] == pytest.approx(SPREAD, rel=2e-3)
    assert expected[1] > 1.05 * SPREAD
    assert samples.std(dim=(1, 2, 3)).tolist() == pytest.approx(expected, rel=0.015)


def test_inversion_is_undone_by_sampling_with_an_exact_network():
    source = CENTRE + 0.5 * wave("source", 2, 3, 4, 4)
    diffusion = GaussianDiffusion.create()
    network = exact_network(diffusion)
    latent = ddim_reverse_loop(diffusion, network, source)
    rebuilt = ddim_sample_loop(diffusion, network, latent)
    torch.testing.assert_close(rebuilt, source, rtol=0, atol=0.01)
    # The exact flow maps N(CENTRE, SPREAD²) to N(0, 1) linearly.
    torch.testing.assert_close(latent, (source - CENTRE) / SPREAD, rtol=0, atol=0.1)


def test_an_oracle_that_knows_the_source_rebuilds_it(x):
    def oracle(x_t, t, y):
        return DDIM20.predict_eps_from_xstart(x_t, torch.div(t, 50, rounding_mode="floor"), x)

    rebuilt = ddim_sample_loop(DDIM20, oracle, ddim_reverse_loop(DDIM20, oracle, x))
    torch.testing.assert_close(rebuilt, x, rtol=0, atol=1e-4)


@pytest.mark.parametrize("asked", [{"eta": 0.5}, {"anomaly_strength": 0.02}, {"anomaly_strength": STRENGTH}])
def test_ddim_asks_for_the_noise_it_needs(asked, model, x):
    with pytest.raises(ValueError, match="need noise"):
        ddim_sample_loop(DDIM20, model, x, **asked)


@pytest.mark.parametrize("sample", [p_sample, ddim_sample])
def test_refuses_a_negative_strength(sample, model, x, noise):
    with pytest.raises(ValueError, match=r"anomaly_strength is -1\.5"):
        sample(DDIM20, model, x, T, noise, anomaly_strength=-1.5)
    assert math.isfinite(sample(DDIM20, model, x, T, noise, anomaly_strength=0).sum())
