import pytest
import torch
from torch import Tensor

from realnet.metrics import two_samples
from realnet.metrics.two_samples import energy_distance


def draw(number: int, seed: int, *, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(number, 4, generator=generator, dtype=torch.float64) + shift


def naive(x: Tensor, y: Tensor) -> float:
    """The definition, pair by pair."""
    across = torch.stack([(a - b).norm() for a in x for b in y]).mean()
    within = [torch.stack([(a - b).norm() for a in z for b in z if a is not b]).sum() for z in (x, y)]
    inner, outer = (total / (len(z) * (len(z) - 1)) for total, z in zip(within, (x, y), strict=True))
    return float((2 * across - inner - outer) / outer)


def variance_without_each(x: Tensor, y: Tensor, leave_out) -> float:
    values = torch.tensor([leave_out(number) for number in range(len(x))], dtype=torch.float64)
    return float((len(x) - 1) / len(x) * (values - values.mean()).square().sum())


def test_value_and_interval_are_those_of_the_definition(monkeypatch):
    monkeypatch.setattr(two_samples, "ROWS_AT_ONCE", 3)  # the parts do not show
    x, y = draw(7, 0, shift=0.5), draw(5, 1)

    def without(z: Tensor, number: int) -> Tensor:
        return torch.cat([z[:number], z[number + 1 :]])

    found = energy_distance(x, y)
    of_x = variance_without_each(x, y, lambda number: naive(without(x, number), y))
    of_y = variance_without_each(y, x, lambda number: naive(x, without(y, number)))
    assert found.value == pytest.approx(naive(x, y), abs=1e-6)
    assert found.high - found.value == pytest.approx(1.96 * (of_x + of_y) ** 0.5, abs=1e-6)
    assert found.value - found.low == pytest.approx(found.high - found.value)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_it_is_without_bias_and_its_interval_holds_the_truth(shift):
    truth = energy_distance(draw(2000, 0, shift=shift), draw(2000, 1)).value
    every = [energy_distance(draw(20, 2 * seed, shift=shift), draw(30, 2 * seed + 1)) for seed in range(1, 121)]
    values = torch.tensor([found.value for found in every])
    assert abs(values.mean() - truth) < 3 * values.std() / len(every) ** 0.5 + 0.005
    assert sum(found.low <= truth <= found.high for found in every) / len(every) > 0.9
