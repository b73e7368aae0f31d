"""The memory that a computation needs, found without doing it: on tensors that have sizes but no contents."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

aten = torch.ops.aten
META = torch.device("meta")


def peak_bytes(work: Callable[[], object], *networks: nn.Module) -> int:
    """Return the largest sum of bytes of tensors that are alive at once: the networks' and those that ``work`` makes.

    What a kernel takes for itself while it runs is not seen.

    Args:
        work: makes its tensors on the CPU, where they are hollow.
        networks: that it uses; their tensors become hollow too, so that they are of no use afterwards.
    """
    meter = Meter()
    for network in networks:
        _hollow_out(network.to(META), meter)
    with meter:
        work()
    return meter.peak


def _hollow_out(network: nn.Module, meter: "Meter") -> None:
    for part in network.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            hollow = meter.hollow(parameter.data).requires_grad_(parameter.requires_grad)
            part._parameters[name] = cast(nn.Parameter, hollow)  # to make it one takes longer
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, meter.hollow(buffer))


def _refuse(_tensor_class: type, operation: Any, *_: Any) -> None:
    raise RuntimeError(f"{operation} of a tensor without contents, outside of its meter")


class _Hollow(Tensor):
    """A tensor without contents that says it is on the CPU: autograd, autocast and attention take it for a real one.

    Torch's own ``FakeTensor`` finds the same and takes three times as long (benchmarks/README.md, Starting).
    """

    sizes: Tensor  # the same on the meta device

    @staticmethod
    def __new__(cls, sizes: Tensor) -> "_Hollow":
        with torch.inference_mode(False):  # a view of a tensor from before that mode is none of its tensors
            hollow = Tensor._make_wrapper_subclass(
                cls,
                sizes.shape,
                strides=sizes.stride(),
                storage_offset=sizes.storage_offset(),
                dtype=sizes.dtype,
                device=torch.device("cpu"),
            )
        hollow.sizes = sizes
        return hollow

    __torch_function__ = cast(Any, torch._C._disabled_torch_function_impl)
    __torch_dispatch__ = cast(Any, classmethod(_refuse))  # the meter is asked before


def _empty(tensor: Tensor) -> Tensor:
    """Return a tensor like another on the meta device, channels first; ``empty_like`` takes longer."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=META)


def _group_norm(x: Tensor, *sizes: Any) -> tuple[Tensor, ...]:
    _weight, _bias, batch, _channels, _area, groups, _epsilon = sizes
    return _empty(x), *(torch.empty(batch, groups, device=META) for _ in ("mean", "deviation"))


def _group_norm_gradients(
    gradient: Tensor, _input: Tensor, _mean: Tensor, _deviation: Tensor, weight: Tensor | None, *sizes_and_mask: Any
) -> tuple[Tensor | None, ...]:
    made = (_empty(gradient), *(None if weight is None else _empty(weight) for _ in range(2)))
    return tuple(tensor if wanted else None for tensor, wanted in zip(made, sizes_and_mask[-1], strict=True))


KNOWN: dict[Any, Callable[..., Any]] = {
    aten.batch_norm.default: lambda x, *_: _empty(x),  # whole, as inference mode leaves it
    aten.native_group_norm.default: _group_norm,
    aten.native_group_norm_backward.default: _group_norm_gradients,
}
"""Results of operations on the meta device, told at once, where torch has none or finds them step by step."""


class Meter(TorchDispatchMode):
    """Has operations find the sizes of their results; keeps account of the storages, and of their largest sum."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def hollow(self, sizes: Tensor) -> _Hollow:
        """Return the tensor that stands for one on the meta device."""
        self.count(sizes.untyped_storage())
        return _Hollow(sizes)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        inputs: dict[int, Tensor] = {}

        def sizes(tensor: Tensor) -> Tensor:
            bare = tensor.sizes if isinstance(tensor, _Hollow) else tensor.to(META)
            inputs[id(bare)] = tensor
            return bare

        def hollow(bare: Tensor) -> Tensor:  # what is changed in place stays the tensor that it is
            return inputs[id(bare)] if id(bare) in inputs else self.hollow(bare)

        positional, named = tree_map_only(Tensor, sizes, (list(args), dict(kwargs or {})))
        place = _place_of_device(func)
        if place is not None and place < len(positional):
            positional[place] = META
        elif place is not None:
            named["device"] = META
        return tree_map_only(Tensor, hollow, KNOWN.get(func, func)(*positional, **named))

    def count(self, storage: torch.UntypedStorage) -> None:
        """Take a storage into account until it is freed; one that is known counts once."""
        key, number = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.live += number
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._forget, key, number)

    def _forget(self, key: int, number: int) -> None:
        self._known.discard(key)
        self.live -= number


@cache
def _place_of_device(func: Any) -> int | None:
    names = [argument.name for argument in func._schema.arguments]
    return names.index("device") if "device" in names else None
