from dataclasses import replace

import pytest
import torch

from realnet.config import RuntimeConfig
from realnet.errors import UserError
from realnet.runtime.distributed import join_world
from realnet.runtime.placement import make_ready
from realnet.runtime.precision import Precision, in_float32, resolve

CPU = torch.device("cpu")


def test_auto_is_full_precision_without_a_gpu():
    assert resolve("auto", CPU) == Precision(torch.float32, CPU)


@pytest.mark.parametrize(("supported", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_takes_bf16_where_the_gpu_has_it(monkeypatch, supported, dtype):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: supported)
    assert resolve("auto", torch.device("cuda")).dtype == dtype


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_format_is_the_one_the_network_computes_in(name, dtype):
    layer = torch.nn.Linear(4, 4)
    with resolve(name, CPU).autocast():
        assert layer(torch.ones(1, 4)).dtype == dtype
    assert layer.weight.dtype == torch.float32


class Scaled(torch.nn.Linear):
    """Computes with its weights before it uses them, as weight standardisation does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.weight / self.weight.std())


@torch.no_grad()
def test_a_part_in_float32_is_so_under_autocast_and_for_16_bits():
    part, x = torch.nn.Linear(8, 8), torch.randn(2, 8).bfloat16()
    expected = part(x.float())
    with resolve("bf16", CPU).autocast():
        assert torch.equal(in_float32(part, x), expected)
    assert torch.equal(in_float32(part, x), expected)


@torch.no_grad()
def test_weights_that_are_cast_once_give_the_numbers_of_autocast():
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(4, 64, 3), torch.nn.GroupNorm(8, 64), torch.nn.SiLU(), torch.nn.ConvTranspose2d(64, 8, 2)]
    network = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(8 * 49, 16), Scaled(16, 16)).eval()
    bf16, image = resolve("bf16", CPU), torch.randn(2, 4, 8, 8)
    with bf16.autocast():
        expected = network(image)
        assert torch.equal(bf16.cast(network)(image), expected)
    formats = {type(part).__name__: part.weight.dtype for part in network if hasattr(part, "weight")}
    assert {name for name, dtype in formats.items() if dtype == torch.float32} == {"GroupNorm", "Scaled"}
    assert resolve("fp32", CPU).cast(torch.nn.Linear(2, 2)).weight.dtype == torch.float32


@torch.no_grad()
def test_exact_parts_keep_their_weights_and_compute_in_float32():
    inner = torch.nn.Sequential(torch.nn.Linear(4, 4))
    network, x, bf16 = torch.nn.Sequential(torch.nn.Linear(4, 4), inner), torch.randn(3, 4), resolve("bf16", CPU)
    expected = inner(x)
    bf16.cast(network, exact=[inner])
    assert [network[0].weight.dtype, inner[0].weight.dtype] == [torch.bfloat16, torch.float32]
    with bf16.autocast():
        assert torch.equal(in_float32(inner, x), expected)
        assert inner(x).dtype == torch.bfloat16


@pytest.fixture
def as_torch_begins():
    torch.backends.cudnn.allow_tf32 = True  # torch's own default
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = True, False


@pytest.mark.parametrize("name", ["fp32", "tf32", "bf16"])
def test_float32_is_ieee_unless_tf32_is_asked_for_by_name(as_torch_begins, monkeypatch, name):
    device = torch.device("cuda" if name == "tf32" else "cpu")
    make_ready(torch.nn.Linear(2, 2), replace(resolve(name, device), device=CPU), RuntimeConfig())
    found = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    assert found == (name == "tf32", name == "tf32") and resolve(name, device).name == name


def test_every_command_sets_what_float32_is(as_torch_begins):
    with join_world("cpu", "fp32"):
        assert not torch.backends.cudnn.allow_tf32


def test_tf32_elsewhere_is_refused():
    with pytest.raises(UserError, match=r"runtime\.precision tf32 needs a GPU by NVIDIA; .* for cpu"):
        resolve("tf32", CPU)


def test_only_fp16_needs_a_scaler():
    cuda = torch.device("cuda")
    assert {name: resolve(name, cuda).needs_scaler for name in ("fp32", "bf16", "fp16")} == {
        "fp32": False,
        "bf16": False,
        "fp16": True,
    }


def test_fp16_on_the_cpu_is_refused():
    with pytest.raises(UserError, match=r"runtime\.precision fp16 needs a GPU; set it to auto"):
        resolve("fp16", CPU)
