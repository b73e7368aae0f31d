import numpy as np
import pytest

from guided_diffusion import schedule


def test_linear_betas_have_the_published_ends():
    betas = schedule.betas("linear", 1000)
    assert betas.dtype == np.float64
    np.testing.assert_allclose(betas[[0, 1, 999]], [1e-4, 1e-4 + 0.0199 / 999, 0.02], rtol=1e-12)


def test_linear_betas_scale_so_that_the_last_noise_level_stays():
    np.testing.assert_allclose(schedule.betas("linear", 250)[[0, -1]], [4e-4, 0.08], rtol=1e-12)


def test_cosine_alphas_cumprod_follow_the_cosine_until_the_cap():
    betas = schedule.betas("cosine", 50)
    time = np.arange(1, 50) / 50
    level = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(np.cumprod(1 - betas)[:-1], level, rtol=1e-9)
    assert betas[-1] == 0.999


@pytest.mark.parametrize(
    ("name", "num_steps", "said"), [("quadratic", 1000, "'quadratic'"), ("linear", 0, "0"), ("linear", 20, "20")]
)
def test_refuses_impossible_schedules(name, num_steps, said):
    with pytest.raises(ValueError, match=said):
        schedule.betas(name, num_steps)
