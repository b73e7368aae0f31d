import math

import torch
from torch.distributions import Normal, kl_divergence

from guided_diffusion.losses import discretised_gaussian_log_likelihood, normal_kl


def test_kl_is_torchs_own():
    mean1, log_variance1, mean2, log_variance2 = torch.randn(4, 2, 3, 5, generator=torch.Generator().manual_seed(0))
    expected = kl_divergence(Normal(mean1, (0.5 * log_variance1).exp()), Normal(mean2, (0.5 * log_variance2).exp()))
    torch.testing.assert_close(normal_kl(mean1, log_variance1, mean2, log_variance2), expected)


def test_probabilities_of_all_levels_add_up_to_one():
    levels = torch.linspace(-1, 1, 256).reshape(1, 1, 16, 16)
    for mean, log_scale in ((0.1, -2.0), (-0.95, -1.0), (1.4, -3.0)):
        log_likelihood = discretised_gaussian_log_likelihood(
            levels, mean=torch.full_like(levels, mean), log_scale=torch.full_like(levels, log_scale)
        )
        assert math.isclose(log_likelihood.exp().sum().item(), 1, abs_tol=1e-4)


def test_likelihood_is_the_normal_distributions_mass_of_the_bin():
    x, mean, scale = torch.tensor([[[[0.2]]]]), torch.tensor([[[[0.15]]]]), 0.1
    normal = Normal(mean, scale)
    expected = (normal.cdf(x + 1 / 255) - normal.cdf(x - 1 / 255)).log()
    log_scale = torch.tensor(scale).log().reshape(1, 1, 1, 1)
    actual = discretised_gaussian_log_likelihood(x, mean=mean, log_scale=log_scale)
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-3)  # the approximation of the cdf


def test_a_hopeless_mean_costs_a_finite_amount():
    x = torch.zeros(1, 1, 1, 1)
    actual = discretised_gaussian_log_likelihood(x, mean=x + 100, log_scale=x - 5)
    assert math.isclose(actual.item(), math.log(1e-12), rel_tol=1e-5)
