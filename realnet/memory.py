"""The memory that a computation needs, found without doing it: on fake tensors, which have sizes but no contents."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

aten = torch.ops.aten


def peak_bytes(work: Callable[[], object], *networks: nn.Module) -> int:
    """Return the largest sum of bytes of tensors that are alive at once: the networks' and those that ``work`` makes.

    What a kernel takes for itself while it runs is not seen.

    Args:
        work: makes its tensors on the CPU, where they are fake ones.
        networks: that it uses; their tensors become fake ones too, so that they are of no use afterwards.
    """
    for network in networks:
        network.to("meta")
    with FakeTensorMode(allow_non_fake_inputs=True), _Meter() as meter:
        for network in networks:
            _fill(network)
        work()
    return meter.peak


def _fill(network: nn.Module) -> None:
    """Give a network on the meta device fake tensors on the CPU."""
    for part in network.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            fake = _empty(parameter).requires_grad_(parameter.requires_grad)
            part._parameters[name] = cast(nn.Parameter, fake)  # to make it one takes as long again
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, _empty(buffer))


def _empty(tensor: Tensor) -> Tensor:
    """Return a fake tensor like another; ``empty_like`` would make a fake one of that too, which takes longer."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")


def _group_norm(x: Tensor, *sizes: Any) -> tuple[Tensor, ...]:
    _weight, _bias, batch, _channels, _area, groups, _epsilon = sizes
    return _empty(x), *(torch.empty(batch, groups, device="cpu") for _ in ("mean", "deviation"))


def _group_norm_gradients(
    gradient: Tensor, _input: Tensor, _mean: Tensor, _deviation: Tensor, weight: Tensor | None, *sizes_and_mask: Any
) -> tuple[Tensor | None, ...]:
    made = (_empty(gradient), *(None if weight is None else _empty(weight) for _ in range(2)))
    return tuple(tensor if wanted else None for tensor, wanted in zip(made, sizes_and_mask[-1], strict=True))


KNOWN: dict[Any, Callable[..., Any]] = {
    torch.ops.prim.device.default: lambda tensor: tensor.fake_device,
    aten.batch_norm.default: lambda x, *_: _empty(x),  # whole, as inference mode leaves it
    aten.native_group_norm.default: _group_norm,
    aten.native_group_norm_backward.default: _group_norm_gradients,
    aten.silu_backward.default: lambda gradient, _x: _empty(gradient),
}
"""Results of operations, told at once; fake tensors take a quarter of a rehearsal to find them."""


class _Meter(TorchDispatchMode):
    """Keeps account of the storages that are alive, and of their largest sum."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here: this spares the import of the compiler, which takes seconds

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        known = KNOWN.get(func)
        result = known(*args) if known else func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor) and not tensor.is_meta:
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, number = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.live += number
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._forget, key, number)

    def _forget(self, key: int, number: int) -> None:
        self._known.discard(key)
        self.live -= number
