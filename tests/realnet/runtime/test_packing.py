import copy
import pickle
import threading

import pytest
import torch
from torch import nn

from guided_diffusion.blocks import Pointwise
from realnet.runtime.packing import PackedConvolution, can_pack, pack_convolutions

pytestmark = pytest.mark.skipif(not can_pack(torch.float32), reason="no oneDNN")


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2d(32, 48, 3, padding=1),
        lambda: nn.Conv2d(32, 48, (3, 5), stride=(2, 1), padding=(0, 2), dilation=(1, 2), bias=False),
        lambda: nn.Conv2d(32, 64, 1, groups=4),
        lambda: nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1),
        lambda: nn.ConvTranspose2d(32, 16, 3, stride=2, output_padding=1, groups=2, bias=False),
    ],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_packed_convolutions_give_the_same_numbers_for_inputs_of_any_size(make, dtype, tolerance):
    if not can_pack(dtype):
        pytest.skip("this processor has no bf16")
    torch.manual_seed(0)
    conv = make().to(dtype)
    packed = PackedConvolution(conv)
    with torch.inference_mode():
        for size in ((2, 32, 9, 8), (1, 32, 16, 16), (3, 32, 7, 12)):
            x = torch.randn(size)
            for given in (x, x.to(memory_format=torch.channels_last)):
                torch.testing.assert_close(packed(given), conv(x.to(dtype)), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_packed_pointwise_convolutions_give_the_same_numbers_for_any_number_of_tokens(dtype, tolerance):
    if not can_pack(dtype):
        pytest.skip("this processor has no bf16")
    torch.manual_seed(0)
    conv = Pointwise(32, 96).to(dtype)
    packed = PackedConvolution(conv)
    with torch.inference_mode():
        for size in ((2, 9, 32), (1, 64, 32), (3, 1, 32)):
            tokens = torch.randn(size)
            torch.testing.assert_close(packed(tokens), conv(tokens.to(dtype)), rtol=tolerance, atol=tolerance)
            across = torch.randn(size[0], 32, size[1]).transpose(1, 2)
            torch.testing.assert_close(packed(across), conv(across.to(dtype)), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda: nn.Conv2d(30, 45, 3, padding=1, bias=False), (1, 30, 9, 8)),
        (lambda: nn.Conv2d(32, 64, 1, groups=4), (1, 32, 9, 8)),
        (lambda: nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1), (1, 32, 9, 8)),
        (lambda: nn.ConvTranspose2d(32, 16, 3, stride=2, output_padding=1, groups=2), (1, 32, 9, 8)),
        (lambda: Pointwise(32, 96), (1, 9, 32)),
    ],
)
def test_copies_compute_the_same_before_and_after_the_first_call(make, size, dtype):
    if not can_pack(dtype):
        pytest.skip("this processor has no bf16")
    torch.manual_seed(0)
    conv, x = make().to(dtype), torch.randn(size)
    packed = PackedConvolution(conv)
    copies = [copy.deepcopy(packed)]
    with torch.inference_mode():
        expected = packed(x)
    copies += [copy.deepcopy(packed), pickle.loads(pickle.dumps(packed)), copy.deepcopy(copies[0])]
    assert all(torch.equal(one.weight, conv.weight) for one in copies)
    with torch.inference_mode():
        assert all(torch.equal(one(x), expected) for one in copies)


def test_only_plain_convolutions_are_packed():
    class Own(nn.Conv2d):
        pass

    kept = [nn.Conv2d(4, 4, 3, padding="same"), nn.Conv2d(4, 4, 3, padding_mode="reflect"), Own(4, 4, 1)]
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ModuleDict({"inner": nn.ConvTranspose2d(4, 4, 2)}), *kept)
    pack_convolutions(network)
    assert type(network[0]) is type(network[1]["inner"]) is PackedConvolution
    assert list(network[2:]) == kept


def test_threads_may_share_a_network_from_its_first_call_on():
    torch.manual_seed(0)
    network = nn.Sequential(*(nn.Conv2d(64, 64, 3, padding=1) for _ in range(8)))
    x = torch.randn(1, 64, 16, 16)
    expected = network(x).detach()
    pack_convolutions(network)
    answers = []

    def call() -> None:
        with torch.inference_mode():
            answers.append(network(x))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    for answer in answers:
        torch.testing.assert_close(answer, expected, rtol=1e-5, atol=1e-5)
