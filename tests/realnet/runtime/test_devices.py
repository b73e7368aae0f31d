from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT

from realnet.runtime import devices
from realnet.runtime.devices import find_device, send


@pytest.mark.parametrize(
    ("device", "pinned", "calls"),
    [
        ("cuda", True, [("to", {"non_blocking": True})]),
        ("cuda", False, [("pin", {}), ("to", {"non_blocking": True})]),
        ("mps", False, [("to", {})]),
        ("cpu", False, [("to", {})]),
    ],
)
def test_only_what_is_pinned_is_sent_without_waiting_and_only_to_cuda(device, pinned, calls):
    told = []
    tensor = SimpleNamespace(is_cuda=False, is_pinned=lambda: pinned)
    tensor.pin_memory = lambda: told.append(("pin", {})) or tensor
    tensor.to = lambda where, **how: told.append(("to", how))
    send(tensor, torch.device(device))
    assert told == calls


def test_images_on_cuda_are_channels_last(monkeypatch):
    monkeypatch.setattr(devices, "send", lambda value, device: value)
    for device, is_last in (("cuda", True), ("cpu", False)):
        sent = devices.send_images(torch.zeros(2, 3, 4, 5), torch.device(device))
        assert sent.is_contiguous(memory_format=torch.channels_last) == is_last


def test_one_function_alone_sends_without_waiting():
    sources = [
        path for folder in ("realnet", "guided_diffusion", "benchmarks") for path in (ROOT / folder).rglob("*.py")
    ]
    assert [path.stem for path in sources if "non_blocking" in path.read_text()] == ["devices"]


def test_each_process_touches_its_own_gpu_alone(monkeypatch):
    touched = []
    monkeypatch.setenv("LOCAL_RANK", "6")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(devices.torch, "empty", lambda _size, device: touched.append(device))
    assert find_device() == find_device("cuda") == torch.device("cuda:2")
    assert find_device("cuda:1") == torch.device("cuda:1")
    assert touched == [torch.device("cuda:2")] * 2 + [torch.device("cuda:1")]
