import torch
from torch import Tensor, nn

from realnet.models.hollow import META, call, hollow


class Picky(nn.Conv2d):
    """Takes no empty batch, as some transformers do not."""

    def forward(self, image: Tensor) -> Tensor:
        if not len(image):
            raise RuntimeError("cannot reshape")
        return super().forward(image)


class Indexed(nn.Conv2d):
    """Has a buffer that it reads."""

    def __init__(self, *sizes: int, **options: int) -> None:
        super().__init__(*sizes, **options)
        self.register_buffer("first", torch.tensor(5))

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image)[..., self.first.item() :]


def test_a_network_without_contents_gives_its_shapes_and_stays_empty():
    for kind in (nn.Conv2d, Picky, Indexed):
        with hollow():
            network = kind(3, 7, 3, stride=2)
        assert call(network, (9, 33)).shape[1:] == (7, 4, 16)
        assert network.weight.device == META and network.weight.requires_grad


def test_a_network_with_contents_computes():
    network = nn.Conv2d(3, 1, 1, bias=False)
    assert call(network, (2, 2)).shape == (1, 1, 2, 2) and network.weight.device.type == "cpu"


def test_what_has_contents_is_filled_beside_a_hollow_network():
    with hollow():
        real = torch.zeros(2, device="cpu").fill_(3)
        assert nn.init.constant_(torch.empty(1, device="cpu"), 2) == 2
        nn.init.normal_(torch.empty(1))
    assert real.tolist() == [3, 3]
