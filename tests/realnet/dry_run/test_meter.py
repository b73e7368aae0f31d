from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from guided_diffusion.blocks import AttentionBlock
from realnet.dry_run.meter import Meter, peak_bytes

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


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_a_device_may_be_named_in_any_way(mode):
    def work() -> list[Tensor]:
        with mode():
            a = torch.empty(1000, device="cpu")
            cpu = torch.device("cpu")
            return [a, a.to(cpu, torch.float64), torch.zeros_like(a, device=cpu), torch.arange(1000).to("cpu"), a.cpu()]

    assert peak_bytes(work) == 1000 * (4 + 8 + 4 + 8)


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


class RealMeter(Meter):
    """Counts what a computation allocates while it is done, on top of a network's weights."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        for parameter in network.parameters():
            self.count(parameter.untyped_storage())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.count(tensor.untyped_storage())
        return result


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_it_is_what_is_allocated_when_it_is_done(autocast, mode):
    network = nn.Sequential(nn.Conv2d(3, 32, 3), nn.GroupNorm(32, 32), nn.SiLU(), AttentionBlock(32, 16))

    def work() -> None:
        with mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = F.interpolate(network(torch.empty(2, 3, 16, 16)).relu_(), 20).square().mean()
        if loss.requires_grad:
            loss.backward()

    with RealMeter(network) as meter:
        work()
    network.zero_grad()
    assert peak_bytes(work, network) == pytest.approx(meter.peak, rel=0.01)
