import pytest
import torch

from realnet.errors import UserError
from realnet.precision import Precision, resolve

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
