"""Which number format the networks compute in."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from realnet.errors import UserError


@dataclass(frozen=True)
class Precision:
    """A resolved number format on a device; weights and losses stay in float32."""

    dtype: torch.dtype
    device: torch.device

    def autocast(self) -> AbstractContextManager:
        """Return the context under which a network's forward pass runs."""
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, dtype=self.dtype)

    @property
    def needs_scaler(self) -> bool:
        """Tell whether gradients underflow without a scaler."""
        return self.dtype == torch.float16


def resolve(name: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device) -> Precision:
    """Return the number format to use on a device.

    Raises:
        UserError: where the device has no such format.
    """
    if name == "auto":
        name = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if name == "fp16" and device.type == "cpu":
        raise UserError("runtime.precision fp16 needs a GPU; set it to auto, fp32 or bf16 for the CPU")
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
    return Precision(dtype, device)
