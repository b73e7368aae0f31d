"""Exchange gradients between processes while the backward pass still computes others."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from realnet.runtime import distributed

BUCKET_ELEMENTS = 8 * 2**20  # gradients travel in pieces of at least this size
TRAVELLING_BUCKETS = 4  # at once, to limit the memory of their copies


class GradientExchange:
    """Replaces each gradient by its mean over the processes.

    Gradients travel in buckets, from the last parameter's to the first's, about as a backward pass makes them. Every
    process sends the buckets in this order, each as soon as it is complete.

    Args:
        parameters: the tensors with gradients, about in the order in which the forward pass uses them.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._buckets = _in_buckets(parameters[::-1]) if distributed.world_size() > 1 else []
        self._lacking: list[int] = []  # how many gradients each bucket still waits for; empty before ``begin``
        self._num_sent = 0
        self._travelling: deque[tuple[list[Tensor], Tensor, Callable[[], None]]] = deque()
        for number, bucket in enumerate(self._buckets):
            for parameter in bucket:
                parameter.register_post_accumulate_grad_hook(partial(self._arrived, number))

    def begin(self) -> None:
        """Send, from now on, each bucket that the backward pass completes; the last pass before ``finish``."""
        self._lacking = [len(bucket) for bucket in self._buckets]

    def finish(self) -> None:
        """Send the buckets that are left, and wait for all; a parameter without gradient must have none anywhere."""
        while self._num_sent < len(self._buckets):
            self._send()
        while self._travelling:
            self._receive()
        self._lacking, self._num_sent = [], 0

    def _arrived(self, number: int, _parameter: Tensor) -> None:
        if self._lacking:
            self._lacking[number] -= 1
            while self._num_sent < len(self._buckets) and not self._lacking[self._num_sent]:
                self._send()

    def _send(self) -> None:
        gradients = [p.grad for p in self._buckets[self._num_sent] if p.grad is not None]
        self._num_sent += 1
        if not gradients:
            return
        if len(self._travelling) == TRAVELLING_BUCKETS:
            self._receive()
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        self._travelling.append((gradients, flat, distributed.begin_mean(flat)))

    def _receive(self) -> None:
        gradients, flat, finish = self._travelling.popleft()
        finish()
        for gradient, piece in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(piece.view_as(gradient))


def _in_buckets(parameters: Iterable[Tensor]) -> list[list[Tensor]]:
    buckets: list[list[Tensor]] = []
    room = 0
    for parameter in parameters:
        if room <= 0:
            buckets.append([])
            room = BUCKET_ELEMENTS
        buckets[-1].append(parameter)
        room -= parameter.numel()
    return buckets
