import torch
from torch import Tensor, nn

from realnet.memory import peak_bytes

FLOAT = 4


def test_the_peak_is_the_most_that_is_alive_at_once():
    def work() -> Tensor:
        a = torch.empty(1000)
        b = a + 1
        del a
        c = torch.cat([b, b])  # the peak: b and c
        del b
        return c[:500] + 1

    assert peak_bytes(work) == 3000 * FLOAT


def test_views_and_changes_in_place_cost_nothing():
    def work() -> Tensor:
        a = torch.empty(100, 10)
        return a.view(10, 100).t().mul_(2)[3:]

    assert peak_bytes(work) == 1000 * FLOAT


def test_weights_activations_and_gradients_count():
    def network() -> nn.Sequential:
        return nn.Sequential(*(nn.Linear(32, 32, bias=False) for _ in range(4)))

    weights, activation = 4 * 32 * 32 * FLOAT, 64 * 32 * FLOAT

    used, trained = network(), network()

    def forward() -> Tensor:
        with torch.no_grad():
            return used(torch.empty(64, 32))

    def train() -> None:
        trained(torch.empty(64, 32)).sum().backward()

    assert peak_bytes(forward, used) == weights + 3 * activation  # the caller's, and a layer's input and output
    needed = peak_bytes(train, trained)
    # backward: all but the last input of a layer are kept, a gradient passes, and weights' gradients grow
    assert weights + 4 * activation < needed < 2 * weights + 7 * activation


def test_nothing_is_computed_or_allocated():
    assert peak_bytes(lambda: torch.empty(2**20, 2**20) @ torch.empty(2**20, 2**10)) > 2**42
