"""Networks without contents, which are built and called for their shapes alone."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

META = torch.device("meta")
FILLING = frozenset({"uniform_", "normal_", "kaiming_uniform_", "constant_", "fill_", "zero_"})


@contextmanager
def hollow() -> Iterator[None]:
    """Build networks on the meta device, and leave out the work of filling them."""
    with META, _Unfilled():
        yield


class _Unfilled(TorchFunctionMode):
    """Skips what fills a tensor without contents: for a normal distribution torch would import its compiler."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if getattr(func, "__name__", "") in FILLING and (tensor := args[0] if args else named["tensor"]).is_meta:
            return tensor
        return func(*args, **named)


def call(network: nn.Module, image_size: tuple[int, int]) -> Any:
    """Return what a network gives for images (B, 3, H, W), of which only the shapes matter.

    A network on the meta device gets an empty batch on the CPU if it takes one: torch's kernels return at once, whereas
    its rules for the meta device run in Python and import its compiler. Whatever the network raises is passed on.
    """
    device = next(network.parameters()).device
    if device == META:
        _put(network, torch.device("cpu"))
        try:
            return network(torch.zeros(0, 3, *image_size, device="cpu"))
        except Exception:  # networks refuse an empty batch in many ways
            pass
        finally:
            _put(network, META)
    return network(torch.zeros(1, 3, *image_size, device=device))


def _put(network: nn.Module, device: torch.device) -> None:
    """Do what ``to_empty`` does, without parts of the compiler; buffers, which may be indexes, are 0."""

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        make = torch.empty if isinstance(tensor, nn.Parameter) else torch.zeros
        return make(tensor.shape, dtype=tensor.dtype, device=device)

    network._apply(moved)
