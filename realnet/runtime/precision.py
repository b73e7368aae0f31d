"""The number formats that networks compute in."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from guided_diffusion.blocks import Pointwise
from realnet.errors import UserError

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FormatName = Literal["auto", "fp32", "tf32", "bf16", "fp16"]
CAST_LAYERS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear, Pointwise)
NetworkT = TypeVar("NetworkT", bound=nn.Module)
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Precision:
    """A resolved number format on a device; losses, and weights in training, stay in float32.

    Attributes:
        dtype: the format of the networks' numbers.
        device: the device.
        tf32: whether NVIDIA's GPUs may multiply float32 with 10 bits after the point (TF32).
    """

    dtype: torch.dtype
    device: torch.device
    tf32: bool = False

    def apply(self) -> None:
        """Set, for this process, whether float32 on a GPU is TF32: torch's own default for convolutions."""
        torch.backends.cudnn.allow_tf32 = self.tf32
        torch.backends.cuda.matmul.allow_tf32 = self.tf32

    def autocast(self) -> AbstractContextManager:
        """Return the context under which a network's forward pass runs."""
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, dtype=self.dtype)

    def running(self, network: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Return a function that calls the network in this number format."""

        def run(*inputs: Tensor | None) -> Tensor:
            with self.autocast():
                return network(*inputs)

        return run

    def cast(self, network: NetworkT, *, exact: Iterable[nn.Module] = ()) -> NetworkT:
        """Store a trained network's weights in this format, where autocast would round them at each call.

        The results stay the same; in 16 bits the weights take half the memory.

        Args:
            network: the network, changed in place.
            exact: its parts that still compute in float32 (:func:`in_float32`).
        """
        kept = {layer for part in exact for layer in part.modules()}
        if self.dtype != torch.float32:
            for layer in network.modules():
                if type(layer) in CAST_LAYERS and layer not in kept:  # a subclass may compute something else
                    layer.to(self.dtype)
        return network

    def on(self, device: torch.device | str) -> "Precision":
        """Return the same number format on another device."""
        return replace(self, device=torch.device(device))

    def in_float32(self) -> "Precision":
        """Return float32 on the same device."""
        return Precision(torch.float32, self.device)

    @property
    def name(self) -> str:
        """Return the name that configs use for the number format."""
        return "tf32" if self.tf32 else next(name for name, dtype in DTYPES.items() if dtype == self.dtype)

    @property
    def needs_scaler(self) -> bool:
        """Tell whether gradients underflow without a loss scaler."""
        return self.dtype == torch.float16


def in_float32(part: Callable[[Tensor], ResultT], x: Tensor) -> ResultT:
    """Call a part of a network in float32, even under autocast."""
    with torch.autocast(x.device.type, enabled=False):
        return part(x.float())


def resolve(name: FormatName, device: torch.device, *, half_on_cpu: bool = False) -> Precision:
    """Return the number format to use on a device.

    Args:
        name: of the config.
        device: the device.
        half_on_cpu: on a CPU, ``auto`` is bf16, as this was measured to be right and fast.

    Raises:
        UserError: if the device lacks the format.
    """
    if name == "auto":
        on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        name = "bf16" if on_gpu or (device.type == "cpu" and half_on_cpu) else "fp32"
    if name == "fp16" and device.type == "cpu":
        raise UserError("runtime.precision fp16 needs a GPU; set it to auto, fp32 or bf16 for the CPU")
    if name == "tf32" and device.type != "cuda":
        raise UserError(f"runtime.precision tf32 needs a GPU by NVIDIA; set it to auto or fp32 for {device.type}")
    return Precision(DTYPES[name], device, tf32=name == "tf32")


def planned(name: FormatName, device: torch.device, *, half_on_cpu: bool = False) -> Precision:
    """Return the number format of a future run, as :func:`resolve`; a GPU that this machine lacks has bf16.

    Raises:
        UserError: as for :func:`resolve`.
    """
    is_elsewhere = device.type == "cuda" and not torch.cuda.is_available()
    return resolve("bf16" if name == "auto" and is_elsewhere else name, device, half_on_cpu=half_on_cpu)
