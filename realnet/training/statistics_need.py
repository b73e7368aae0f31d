"""What the statistics of normal features need: images and memory."""

import os

import torch

from realnet.errors import UserError
from realnet.models.realnet import RealNet


def require_folds(num_images: int, num_folds: int, num_processes: int = 1) -> None:
    """Raise UserError for fewer training images than folds or than processes, each of which needs one."""
    if num_images < num_folds:
        raise UserError(
            f"features.normalise needs at least as many training images as features.folds, {num_folds}, and there are "
            f"{num_images}; add images, or set features.normalise to none"
        )
    if num_images < num_processes:
        raise UserError(
            f"{num_processes} processes share the {num_images} training images, and each needs one for the statistics "
            "of normal features; add images, or start fewer processes"
        )


def matrix_bytes(model: RealNet, image_size: tuple[int, int]) -> int:
    """Return the bytes of a matrix at each position, which statistics by ``position`` are made of."""
    numbers = 0
    for block in model.afs.blocks + model.deep.blocks:
        height, width = block.size(image_size)
        numbers += height * width * block.num_channels**2
    return numbers * torch.float32.itemsize


def require_memory(
    model: RealNet, image_size: tuple[int, int], num_folds: int, device: torch.device, num_classes: int = 1
) -> int:
    """Check that ``position`` fits into half of the device's memory in training, and return the bytes that it needs.

    The held-out images are one more fold. Of each class there are the statistics of each fold and of all images, of the
    class that is just fitted the moments too, and the covariance that is just being inverted is one more.

    Raises:
        UserError: if they do not fit.
    """
    need = ((num_classes + 1) * (num_folds + 2) + 1) * matrix_bytes(model, image_size)
    there = _memory_of(device)
    if need > there / 2:
        sizes = ", ".join(f"{b.name}: {b.num_channels} channels at stride {b.stride}" for b in model.afs.blocks)
        raise UserError(
            f"features.normalise position needs {need / 1e9:.1f} GB for a covariance at each position ({sizes})"
            f"{f' and of each of {num_classes} classes' if num_classes > 1 else ''}, but "
            f"{device.type} has {there / 1e9:.1f} GB, of which half may be used; keep fewer channels in blocks, give "
            "them a larger stride, or set features.normalise to pooled"
        )
    return need


def _memory_of(device: torch.device) -> float:
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_properties(device).total_memory
    if device.type == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return float("inf")
