"""Convolutions for use on a CPU: oneDNN lays their weights out once, not at every call (benchmarks/README.md)."""

import platform
import threading

import torch
from torch import Tensor, nn

_one_at_a_time = threading.Lock()


class PackedConvolution(nn.Module):
    """A convolution, or a transposed one, of (B, C, H, W), without gradients.

    The weights are laid out for the size of the first input; others give the same numbers, perhaps more slowly. The
    output is laid out channels last.
    """

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__()
        self._weight = conv.weight.detach()
        self._bias = None if conv.bias is None else conv.bias.detach()
        self._geometry: tuple[object, ...] = (conv.padding, conv.stride, conv.dilation, conv.groups)
        if isinstance(conv, nn.ConvTranspose2d):
            self._geometry = (conv.padding, conv.output_padding, *self._geometry[1:])
            self._pack = torch.ops.mkldnn._reorder_convolution_transpose_weight
            self._convolve = torch.ops.mkldnn._convolution_transpose_pointwise
        else:
            self._pack = torch.ops.mkldnn._reorder_convolution_weight
            self._convolve = torch.ops.mkldnn._convolution_pointwise

    def forward(self, x: Tensor) -> Tensor:
        with _one_at_a_time:
            if not self._weight.is_mkldnn:
                self._weight = self._pack(self._weight, *self._geometry, x.shape)
        return self._convolve(x.to(self._weight.dtype), self._weight, self._bias, *self._geometry, "none", [], "")


def pack_convolutions(network: nn.Module) -> None:
    """Replace a network's convolutions by packed ones, where this processor has them.

    The network takes no gradients any more, has no weights in its state dict, and cannot be moved.
    """
    for parent in network.modules():
        for name, child in parent.named_children():
            if isinstance(child, (nn.Conv2d, nn.ConvTranspose2d)) and _is_packable(child):
                setattr(parent, name, PackedConvolution(child))


def can_pack(dtype: torch.dtype) -> bool:
    """Tell whether oneDNN is here, and this processor has a number format."""
    if platform.machine() not in {"x86_64", "AMD64"} or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _is_packable(conv: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    is_plain = type(conv) in {nn.Conv2d, nn.ConvTranspose2d}  # what derives from them may compute with its weights
    return (
        is_plain and can_pack(conv.weight.dtype) and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    )
