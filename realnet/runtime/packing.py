"""Convolutions for use on a CPU: oneDNN lays their weights out once, not at every call (benchmarks/README.md)."""

import math
import platform
import threading
from collections.abc import Callable

import torch
from torch import Tensor, nn

from guided_diffusion.blocks import Pointwise

onednn = torch.ops.mkldnn
PLAIN: tuple[str, list[float], str] = ("none", [], "")  # nothing is computed along with the layer

_one_at_a_time = threading.Lock()


class PackedConvolution(nn.Module):
    """A convolution of (B, C, H, W), a transposed one, or a pointwise one of (B, T, C), without gradients.

    The weights are laid out for the size of the first input; others give the same numbers, perhaps more slowly. The
    output is laid out channels last.
    """

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d | Pointwise) -> None:
        super().__init__()
        self._weight = conv.weight.detach()
        self._bias = None if conv.bias is None else conv.bias.detach()
        self._pack, self._compute = _operations(conv)

    def forward(self, x: Tensor) -> Tensor:
        with _one_at_a_time:
            if not self._weight.is_mkldnn:
                self._weight = self._pack(self._weight, x.shape)
        return self._compute(x.to(self._weight.dtype), self._weight, self._bias)


Pack = Callable[[Tensor, torch.Size], Tensor]
Compute = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def _operations(conv: nn.Conv2d | nn.ConvTranspose2d | Pointwise) -> tuple[Pack, Compute]:
    """Return what lays a weight out for inputs of a size, and what computes with it, its input and its bias."""
    if isinstance(conv, Pointwise):
        return (
            lambda weight, shape: onednn._reorder_linear_weight(weight.squeeze(2), math.prod(shape[:2])),
            lambda x, weight, bias: onednn._linear_pointwise(x, weight, bias, *PLAIN),
        )
    if isinstance(conv, nn.ConvTranspose2d):
        sizes = (conv.padding, conv.output_padding, conv.stride, conv.dilation, conv.groups)
        return (
            lambda weight, shape: onednn._reorder_convolution_transpose_weight(weight, *sizes, shape),
            lambda x, weight, bias: onednn._convolution_transpose_pointwise(x, weight, bias, *sizes, *PLAIN),
        )
    geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
    return (
        lambda weight, shape: onednn._reorder_convolution_weight(weight, *geometry, shape),
        lambda x, weight, bias: onednn._convolution_pointwise(x, weight, bias, *geometry, *PLAIN),
    )


def pack_convolutions(network: nn.Module) -> None:
    """Replace a network's convolutions by packed ones, where this processor has them.

    The network takes no gradients any more, has no weights in its state dict, and cannot be moved.
    """
    for parent in network.modules():
        for name, child in parent.named_children():
            if isinstance(child, (nn.Conv2d, nn.ConvTranspose2d, Pointwise)) and _is_packable(child):
                setattr(parent, name, PackedConvolution(child))


def can_pack(dtype: torch.dtype) -> bool:
    """Tell whether oneDNN is here, and this processor has a number format."""
    if platform.machine() not in {"x86_64", "AMD64"} or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and onednn._is_mkldnn_bf16_supported())


def _is_packable(conv: nn.Conv2d | nn.ConvTranspose2d | Pointwise) -> bool:
    is_plain = type(conv) in {nn.Conv2d, nn.ConvTranspose2d, Pointwise}  # what derives from them may compute otherwise
    return (
        is_plain and can_pack(conv.weight.dtype) and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    )
