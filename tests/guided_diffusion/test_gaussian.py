import copy

import numpy as np
import pytest
import torch

from guided_diffusion import GaussianDiffusion, schedule

DDIM20 = GaussianDiffusion.create(respacing="ddim20")
T = torch.tensor([0, 11])


def figures(values: torch.Tensor) -> list[float]:
    """One position of each image."""
    return [*values[0, :, 1, 2].tolist(), *values[1, :, 3, 0].tolist()]


def test_keeping_all_steps_changes_nothing():
    diffusion = GaussianDiffusion.create(noise_schedule="linear", num_steps=100, respacing="ddim100")
    np.testing.assert_array_equal(diffusion.timestep_map, np.arange(100))
    np.testing.assert_allclose(diffusion.betas, schedule.betas("linear", 100), rtol=1e-10)


def test_coefficients_of_a_respaced_cosine_process():
    diffusion = GaussianDiffusion.create(noise_schedule="cosine", num_steps=200, respacing="3,2")
    assert diffusion.timestep_map.tolist() == [0, 50, 99, 100, 199]
    expected = {
        "betas": [0.0002549726363720861, 0.15842761568803343, 0.999999875079329],
        "alphas_cumprod": [0.9997450273636279, 0.8413578143, 6.071799306045779e-08],
        "posterior_variance": [0, 0.0002546277627974658, 0.5139475582225229],
        "posterior_log_variance_clipped": [-8.27570783301975, -8.27570783301975, -0.6656340455364905],
        "posterior_mean_coef1": [1, 0.9985200874672582, 0.6971745451240523],
        "posterior_mean_coef2": [0, 0.0014744179383882837, 0.00018165025653463132],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(diffusion, name)[[0, 1, -1]], values, rtol=1e-7, err_msg=name)


def test_neighbouring_noise_levels_end_at_no_noise_and_at_nothing_but_noise():
    assert DDIM20.alphas_cumprod_prev[0] == 1
    assert DDIM20.alphas_cumprod_next[-1] == 0
    np.testing.assert_array_equal(DDIM20.alphas_cumprod_prev[1:], DDIM20.alphas_cumprod[:-1])
    np.testing.assert_array_equal(DDIM20.alphas_cumprod_next[:-1], DDIM20.alphas_cumprod[1:])


def test_one_kept_step_is_too_few():
    with pytest.raises(ValueError, match="'1' keeps 1 of 1000"):
        GaussianDiffusion.create(respacing="1")


def test_xstart_and_eps_are_solutions_of_q_sample(x, noise):
    x_t = DDIM20.q_sample(x, T, noise)
    alphas_cumprod = torch.from_numpy(DDIM20.alphas_cumprod)[T].float()[:, None, None, None]
    torch.testing.assert_close(x_t, alphas_cumprod.sqrt() * x + (1 - alphas_cumprod).sqrt() * noise)
    torch.testing.assert_close(DDIM20.predict_xstart_from_eps(x_t, T, noise), x)
    torch.testing.assert_close(DDIM20.predict_eps_from_xstart(x_t, T, x), noise, rtol=1e-4, atol=1e-4)


def test_the_network_is_given_the_original_timesteps(x, y):
    seen = []

    def model(x, t, y):
        seen.append((t, y))
        return x

    DDIM20.p_mean_variance(model, x, T, y=y)
    DDIM20.training_losses(model, x, T, x, y=y)
    for t, given_y in seen:
        assert t.tolist() == [0, 550]
        assert given_y is y


def test_p_mean_variance_figures(model, x, y):
    actual = DDIM20.p_mean_variance(model, x, T, y=y)
    expected = {
        "mean": [-0.890511, -0.572519, 0.070268, 0.19747, -0.344835, -0.719528],
        "log_variance": [-9.212238, -9.211431, -9.210677, -0.8999, -0.889912, -0.896961],
        "pred_xstart": [-0.890511, -0.572519, 0.070268, -0.66664, -1.0, -1.0],
        "eps": [-0.468183, -0.326683, 0.042378, 0.529689, -0.091063, -0.60871],
    }
    for name, values in expected.items():
        assert figures(getattr(actual, name)) == pytest.approx(values, abs=1e-4), name
    torch.testing.assert_close(actual.variance, actual.log_variance.exp())


def test_eps_belongs_to_the_clipped_xstart(model, x, y):
    clipped = DDIM20.p_mean_variance(model, x, T, y=y)
    assert clipped.pred_xstart.abs().max() == 1
    torch.testing.assert_close(clipped.eps, DDIM20.predict_eps_from_xstart(x, T, clipped.pred_xstart))
    free = DDIM20.p_mean_variance(model, x, T, y=y, clip_denoised=False)
    assert free.pred_xstart.abs().max() > 1
    torch.testing.assert_close(free.eps, model(x, DDIM20.original_timesteps(T), y)[:, :3])


def test_v_chooses_between_the_variances_of_posterior_and_forward_process(x):
    def log_variance(v: float) -> torch.Tensor:
        return DDIM20.mean_variance(torch.cat([x, torch.full_like(x, v)], dim=1), x, T).log_variance[:, 0, 0, 0]

    log_betas = torch.from_numpy(np.log(DDIM20.betas))[T].float()
    clipped = torch.from_numpy(DDIM20.posterior_log_variance_clipped)[T].float()
    torch.testing.assert_close(log_variance(1.0), log_betas)
    torch.testing.assert_close(log_variance(-1.0), clipped)
    torch.testing.assert_close(DDIM20.mean_variance(x, x, T).log_variance[:, 0, 0, 0], clipped)


def test_refuses_another_number_of_channels(x):
    with pytest.raises(ValueError, match="4 channels for images of 3"):
        DDIM20.mean_variance(torch.zeros(2, 4, 4, 4), x, T)


def test_training_losses_figures(model, x, noise, y):
    losses = DDIM20.training_losses(model, x, T, noise, y=y)
    assert losses.mse.tolist() == pytest.approx([0.4524018, 0.3099501], abs=1e-5)
    assert losses.vb.tolist() == pytest.approx([2.0231395, 0.1678008], abs=1e-4)
    torch.testing.assert_close(losses.loss, losses.mse + losses.vb)


def test_only_the_variance_learns_from_the_bound(x, noise):
    eps, v = (torch.zeros_like(x, requires_grad=True) for _ in range(2))
    losses = DDIM20.training_losses(lambda *_: torch.cat([eps, v], dim=1), x, T, noise)
    assert torch.autograd.grad(losses.vb.sum(), eps, retain_graph=True)[0].abs().max() == 0
    assert torch.autograd.grad(losses.vb.sum(), v, retain_graph=True)[0].abs().max() > 0
    assert torch.autograd.grad(losses.mse.sum(), eps)[0].abs().max() > 0


def test_a_perfect_network_has_no_loss_after_the_first_step(x, noise):
    output = torch.cat([noise, -torch.ones_like(noise)], dim=1)  # v = -1: the posterior's own variance
    losses = DDIM20.training_losses(lambda *_: output, x, torch.tensor([3, 19]), noise)
    torch.testing.assert_close(losses.loss, torch.zeros(2), rtol=0, atol=1e-5)


def test_a_network_without_variance_has_no_bound(x, noise):
    losses = DDIM20.training_losses(lambda x, t, y: torch.zeros_like(x), x, T, noise)
    assert losses.vb.tolist() == [0, 0]
    torch.testing.assert_close(losses.loss, noise.square().mean(dim=(1, 2, 3)))


def test_losses_stay_float32_under_autocast(x, noise):
    conv = torch.nn.Conv2d(3, 6, 1)
    with torch.autocast("cpu", torch.bfloat16):
        losses = DDIM20.training_losses(lambda x, t, y: conv(x), x, T, noise)
    assert losses.loss.dtype == torch.float32
    losses.loss.mean().backward()
    assert conv.weight.grad is not None


def test_coefficients_gathered_under_inference_mode_serve_training_and_copies(model, x, noise):
    diffusion = GaussianDiffusion.create(respacing="ddim20")
    with torch.inference_mode():
        diffusion.p_mean_variance(model, x, T)
    weight = torch.ones((), requires_grad=True)
    for process in (diffusion, copy.deepcopy(diffusion)):
        process.training_losses(lambda *given: weight * model(*given), x, T, noise).loss.sum().backward()
    assert weight.grad is not None
