"""Devices: find the one to compute on, and send tensors to it."""

import os

import torch
from torch import Tensor

from realnet.errors import UserError


def best_device() -> torch.device:
    """Return the default device: a GPU, Apple's GPU (mps), or else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def find_device(name: str | None = None) -> torch.device:
    """Return a device by its name; of several GPUs, each process that a launcher started gets its own.

    Raises:
        UserError: if the device is unavailable.
    """
    wanted = name or best_device()
    try:
        device = torch.device(wanted)
        if device.type == "cuda" and device.index is None and torch.cuda.is_available():
            local_rank = int(os.environ.get("LOCAL_RANK", "0"))
            device = torch.device("cuda", local_rank % torch.cuda.device_count())  # and touch no other GPU
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {wanted} is unavailable here ({reason}); leave it out, or give cpu") from error
    return device


def send(value: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device, without waiting for the copy where that is safe: from pinned memory to CUDA.

    From any other memory, or to Apple's GPU, the copy could begin after the memory has been used again.
    """
    if device.type != "cuda" or value.is_cuda:
        return value.to(device)
    return (value if value.is_pinned() else value.pin_memory()).to(device, non_blocking=True)


def send_images(images: Tensor, device: torch.device) -> Tensor:
    """Return images (B, C, H, W) on a device; on CUDA in the channels-last layout."""
    sent = send(images, device)
    return sent.contiguous(memory_format=torch.channels_last) if device.type == "cuda" else sent
