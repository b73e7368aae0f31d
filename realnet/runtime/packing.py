"""Convolutions for inference on a CPU: oneDNN lays out their weights once, not at every call (benchmarks/README.md)."""

import math
import platform
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from guided_diffusion.blocks import Pointwise

onednn = torch.ops.mkldnn
PLAIN: tuple[str, list[float], str] = ("none", [], "")  # no operation is fused with the layer

_one_at_a_time = threading.Lock()


class PackedConvolution(nn.Module):
    """A convolution of (B, C, H, W), a transposed one, or a pointwise one of (B, T, C), without gradients.

    The weights are laid out for the size of the first input; inputs of other sizes give the same numbers, perhaps more
    slowly. The output is in the channels-last layout. A copy, and what ``pickle`` makes, lays them out anew.
    """

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d | Pointwise) -> None:
        super().__init__()
        self._weight = conv.weight.detach()
        self._bias = None if conv.bias is None else conv.bias.detach()
        self._kind = type(conv)
        for name in GEOMETRY:
            if hasattr(conv, name):  # some of timm's models read them
                setattr(self, name, getattr(conv, name))
        self._pack, self._unpack, self._compute = _operations(self._kind, self)

    @property
    def weight(self) -> Tensor:
        """Return the weight as it lies now: timm's models ask it for its device and number format."""
        return self._weight

    def forward(self, x: Tensor) -> Tensor:
        with _one_at_a_time:
            if not self._weight.is_mkldnn:
                self._weight = self._pack(self._weight, x.shape)
        return self._compute(x.to(self._weight.dtype), self._weight, self._bias)

    def unpacked(self) -> nn.Conv2d | nn.ConvTranspose2d | Pointwise:
        """Return the convolution that was packed, with the same weights."""
        names = {Pointwise: GEOMETRY[:2], nn.Conv2d: [name for name in GEOMETRY if name != "output_padding"]}
        make: Callable[..., Any] = self._kind
        with torch.device("meta"):
            conv = make(
                *(getattr(self, name) for name in GEOMETRY[:2]),
                **{name: getattr(self, name) for name in names.get(self._kind, GEOMETRY)[2:]},
            )
        conv.weight = nn.Parameter(self.__getstate__()["_weight"], requires_grad=False)
        conv.bias = None if self._bias is None else nn.Parameter(self._bias, requires_grad=False)
        return conv

    def __getstate__(self) -> dict[str, Any]:
        with _one_at_a_time:
            weight = self._unpack(self._weight.to_dense()) if self._weight.is_mkldnn else self._weight
        state = {**self.__dict__, "_weight": weight}
        return {name: value for name, value in state.items() if name not in {"_pack", "_unpack", "_compute"}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._pack, self._unpack, self._compute = _operations(self._kind, self)


GEOMETRY = ["in_channels", "out_channels", "kernel_size", "stride", "padding", "output_padding", "dilation", "groups"]
Pack = Callable[[Tensor, torch.Size], Tensor]
Unpack = Callable[[Tensor], Tensor]
Compute = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def _operations(kind: type[nn.Module], conv: Any) -> tuple[Pack, Unpack, Compute]:
    """Return three functions: one lays out a weight for inputs of a size, one undoes it, one applies the layer."""
    if kind is Pointwise:
        return (
            lambda weight, shape: onednn._reorder_linear_weight(weight.squeeze(2), math.prod(shape[:2])),
            lambda dense: dense.unsqueeze(2),
            lambda x, weight, bias: onednn._linear_pointwise(x, weight, bias, *PLAIN),
        )
    if kind is nn.ConvTranspose2d:
        sizes = (conv.padding, conv.output_padding, conv.stride, conv.dilation, conv.groups)
        return (
            lambda weight, shape: onednn._reorder_convolution_transpose_weight(weight, *sizes, shape),
            lambda dense: dense.unflatten(0, (conv.groups, -1)).transpose(1, 2).flatten(0, 1),
            lambda x, weight, bias: onednn._convolution_transpose_pointwise(x, weight, bias, *sizes, *PLAIN),
        )
    geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
    return (
        lambda weight, shape: onednn._reorder_convolution_weight(weight, *geometry, shape),
        lambda dense: dense,
        lambda x, weight, bias: onednn._convolution_pointwise(x, weight, bias, *geometry, *PLAIN),
    )


def pack_convolutions(network: nn.Module) -> None:
    """Replace a network's convolutions with packed ones, if this processor supports them.

    Afterwards the network computes no gradients, has no weights in its state dict, and cannot move to another device.
    """
    for parent in network.modules():
        for name, child in parent.named_children():
            if isinstance(child, (nn.Conv2d, nn.ConvTranspose2d, Pointwise)) and _is_packable(child):
                setattr(parent, name, PackedConvolution(child))


def unpack_convolutions(network: nn.Module) -> None:
    """Replace a network's packed convolutions with plain ones of the same weights, which have a state dict again."""
    for parent in network.modules():
        for name, child in parent.named_children():
            if isinstance(child, PackedConvolution):
                setattr(parent, name, child.unpacked())


def can_pack(dtype: torch.dtype) -> bool:
    """Tell whether oneDNN is available and this processor supports the number format."""
    if platform.machine() not in {"x86_64", "AMD64"} or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and onednn._is_mkldnn_bf16_supported())


def _is_packable(conv: nn.Conv2d | nn.ConvTranspose2d | Pointwise) -> bool:
    is_plain = type(conv) in {nn.Conv2d, nn.ConvTranspose2d, Pointwise}  # a subclass may compute something else
    return (
        is_plain and can_pack(conv.weight.dtype) and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    )
