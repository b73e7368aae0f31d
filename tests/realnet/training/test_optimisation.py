import math

import pytest
import torch
from torch import nn

from realnet.config import DiffusionConfig, OptimiserConfig
from realnet.runtime.precision import resolve
from realnet.training.optimisation import EMA, Optimisation, learning_rate
from tests.closed_form import fill, wave

FP32 = resolve("fp32", torch.device("cpu"))


def optimisation(model: nn.Module, **settings) -> Optimisation:
    return Optimisation(model.parameters(), OptimiserConfig(**settings), num_steps=100, precision=FP32)


def test_the_rate_is_constant_as_published():
    assert {learning_rate(DiffusionConfig().optimiser, step, 100) for step in range(100)} == {1e-4}


def test_the_rate_warms_up_and_falls_to_a_hundredth():
    config = OptimiserConfig(learning_rate=2.0, schedule="cosine", warmup_steps=4)
    rates = [learning_rate(config, step, 1000) for step in range(1000)]
    assert rates[:5] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0], rel=1e-3)
    assert rates[500] == pytest.approx(1.01, rel=1e-2) and rates[-1] == pytest.approx(0.02, rel=1e-3)
    assert learning_rate(config, 2000, 1000) == pytest.approx(0.02)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_micro_batches_make_the_step_of_the_whole_batch():
    x = wave("x", 12, 5)
    whole, parts = fill(nn.Linear(5, 3)), fill(nn.Linear(5, 3))
    for model, pieces in ((whole, 1), (parts, 4)):
        steps = optimisation(model, learning_rate=0.1, max_grad_norm=0.2)
        for step in range(3):
            for piece in x.chunk(pieces):
                steps.backward(model(piece).square().mean() / pieces)
            steps.step(step)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("limit", "norm"), [(None, 30.0), (1.0, 1.0), (100.0, 30.0)])
def test_the_norm_over_all_gradients_is_clipped_once_per_step(monkeypatch, limit, norm):
    model, seen = nn.ParameterList([torch.zeros(4), torch.zeros(5)]), []
    steps = optimisation(model, max_grad_norm=limit)
    monkeypatch.setattr(steps.scaler, "step", lambda adam: seen.append([value.grad.clone() for value in model]))
    steps.backward(10 * sum(value.sum() for value in model))
    steps.step(0)
    assert torch.cat(seen[0]).norm().item() == pytest.approx(norm, rel=1e-5)


def test_the_first_step_of_adam_is_the_rate_against_the_gradients_sign():
    model = nn.ParameterList([torch.zeros(3)])
    steps = optimisation(model, learning_rate=0.25)
    steps.backward((model[0] * torch.tensor([2.0, -7.0, 0.01])).sum())
    steps.step(0)
    assert model[0].tolist() == pytest.approx([-0.25, 0.25, -0.25], rel=1e-5)
    assert model[0].grad is None


def test_frozen_parameters_are_left_out():
    model = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2))
    assert optimisation(model).parameters == list(model[1].parameters())


def test_going_on_from_a_stored_state_changes_nothing():
    def train(model: nn.Module, steps: Optimisation, numbers: range) -> None:
        for step in numbers:
            steps.backward(model(wave(f"x{step}", 4, 5)).square().mean())
            steps.step(step)

    through, resumed = fill(nn.Linear(5, 3)), fill(nn.Linear(5, 3))
    train(through, optimisation(through, learning_rate=0.1), range(6))
    first = optimisation(resumed, learning_rate=0.1)
    train(resumed, first, range(3))
    second = optimisation(resumed, learning_rate=0.1)
    second.load_state_dict(first.state_dict())
    train(resumed, second, range(3, 6))
    assert torch.equal(through.weight, resumed.weight)


def test_the_average_is_of_all_state_and_of_its_own():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ema = EMA(model, decay=0.75)
    with torch.no_grad():
        for value in model.state_dict().values():
            value.add_(4)
    ema.update(model)
    averaged = ema.model.state_dict()
    for key in ("0.weight", "0.bias", "1.running_mean", "1.running_var"):
        torch.testing.assert_close(averaged[key], before[key] + 1)
    assert averaged["1.num_batches_tracked"] == 4
    assert not ema.model.training and not any(value.requires_grad for value in ema.model.parameters())


def test_the_average_forgets_by_its_decay():
    model = nn.ParameterList([torch.zeros(1)])
    ema = EMA(model, DiffusionConfig().train.ema_decay)
    with torch.no_grad():
        model[0].fill_(1)
    for _ in range(50):
        ema.update(model)
    assert ema.model[0].item() == pytest.approx(1 - math.pow(0.9999, 50), rel=1e-3)


@pytest.mark.parametrize("saved", [torch.channels_last, torch.contiguous_format])
def test_moments_go_on_in_the_memory_layout_that_the_weights_have_now(saved):
    now = torch.contiguous_format if saved == torch.channels_last else torch.channels_last

    def run(first, then):
        model = fill(nn.Conv2d(3, 4, 3))
        before = optimisation(model.to(memory_format=first), learning_rate=0.1)
        model(wave("x", 2, 3, 5, 5)).square().mean().backward()
        before.step(0)
        stored = before.state_dict()
        after = optimisation(model.to(memory_format=then), learning_rate=0.1)
        after.load_state_dict(stored)
        model(wave("x", 2, 3, 5, 5)).square().mean().backward()
        after.step(1)
        moments = {id(value) for values in after.adam.state.values() for value in values.values()}
        assert not moments & {id(value) for values in stored["adam"]["state"].values() for value in values.values()}
        return model.weight.detach().contiguous()

    torch.testing.assert_close(run(saved, now), run(now, now))
