"""The only module that knows of several processes; without a launcher each function is the identity."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from realnet.errors import UserError

BUCKET_ELEMENTS = 64 * 2**20  # gradients are averaged in pieces of this size, to bound the copy


@dataclass(frozen=True)
class Process:
    """This process among those of the run."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Tell whether this process writes and prints."""
        return self.rank == 0


@contextmanager
def process(device: str | None = None) -> Iterator[Process]:
    """Join the run that torchrun (or torch.distributed.launch) started, or stand alone.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:1`` or ``mps``; None takes the best that is there.

    Raises:
        UserError: where the device is not to be had.
    """
    rank, world_size, local_rank = (int(os.environ.get(key, default)) for key, default in _LAUNCHER)
    chosen = _device(device, local_rank)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if world_size > 1:
        # gloo carries the small control messages of every device, so that they cost no synchronisation with the GPU
        backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(minutes=30))
    try:
        yield Process(rank, world_size, chosen)
    finally:
        if world_size > 1:
            dist.destroy_process_group()


_LAUNCHER = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))


def _device(name: str | None, local_rank: int) -> torch.device:
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda", local_rank % torch.cuda.device_count())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name} is not to be had here ({reason}); leave it out, or give cpu") from error
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", local_rank % torch.cuda.device_count())
    return device


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each gradient by its mean over the processes, in a few large messages."""
    if not dist.is_initialized():
        return
    bucket: list[Tensor] = []
    for gradient in (p.grad for p in parameters if p.grad is not None):
        bucket.append(gradient)
        if sum(g.numel() for g in bucket) >= BUCKET_ELEMENTS:
            _average_bucket(bucket)
            bucket = []
    _average_bucket(bucket)


def _average_bucket(bucket: list[Tensor]) -> None:
    if not bucket:
        return
    flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, piece in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
        gradient.copy_(piece.view_as(gradient))


def mean(value: Tensor) -> Tensor:
    """Return the mean of a tensor over the processes."""
    if not dist.is_initialized():
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def any_process(flag: bool) -> bool:
    """Tell whether the flag is set in any process (a control message on the CPU)."""
    if not dist.is_initialized():
        return flag
    votes = torch.tensor(int(flag))
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return bool(votes)


def gather(value: Any) -> list[Any]:
    """Return every process's value, in the order of ranks, to all of them (plain picklable values)."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait until every process has come here."""
    any_process(False)
