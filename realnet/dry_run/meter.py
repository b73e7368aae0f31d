"""Find the memory that a computation needs without computing, on tensors that have a size but no contents."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
META = torch.device("meta")


def peak_bytes(work: Callable[[], object], *networks: nn.Module) -> int:
    """Return the largest number of bytes alive at once, in the networks' tensors and in those that ``work`` creates.

    Workspaces that a kernel allocates while it runs are not counted.

    Args:
        work: the computation; it creates its tensors on the CPU, where they become hollow.
        networks: the networks that it uses; their tensors become hollow too, so they cannot be used afterwards.
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
            part._parameters[name] = cast(nn.Parameter, hollow)  # a real nn.Parameter takes longer to make
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, meter.hollow(buffer))


def _refuse(_tensor_class: type, operation: Any, *_: Any) -> None:
    raise RuntimeError(f"{operation} of a tensor without contents, outside its meter")


class _Hollow(Tensor):
    """A tensor without contents that reports the CPU as its device; autograd, autocast and attention accept it.

    Torch's own ``FakeTensor`` gives the same result but takes three times as long (benchmarks/README.md, Starting).
    """

    sizes: Tensor  # its counterpart on the meta device

    @staticmethod
    def __new__(cls, sizes: Tensor) -> "_Hollow":
        with torch.inference_mode(False):  # views of earlier tensors must not become inference tensors
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
    __torch_dispatch__ = cast(Any, classmethod(_refuse))  # with a meter, its dispatch comes first


def _empty(tensor: Tensor) -> Tensor:
    """Return a tensor of the same shape and type on the meta device, channels first; ``empty_like`` takes longer."""
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
    aten.batch_norm.default: lambda x, *_: _empty(x),  # not decomposed in inference mode
    aten.native_group_norm.default: _group_norm,
    aten.native_group_norm_backward.default: _group_norm_gradients,
}
"""Results on the meta device of operations for which torch has no direct rule."""


class Meter(TorchDispatchMode):
    """Run operations on sizes only, and track the bytes of all storages alive and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def hollow(self, sizes: Tensor) -> _Hollow:
        """Return the hollow tensor that stands for a tensor on the meta device."""
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

        def hollow(bare: Tensor) -> Tensor:  # in-place operations return their own input
            return inputs[id(bare)] if id(bare) in inputs else self.hollow(bare)

        positional, named = (
            list(_with(args, sizes)),
            {name: _with(value, sizes) for name, value in (kwargs or {}).items()},
        )
        place = _place_of_device(func)
        if place is not None and place < len(positional):
            positional[place] = META
        elif place is not None:
            named["device"] = META
        return _with(KNOWN.get(func, func)(*positional, **named), hollow)

    def count(self, storage: torch.UntypedStorage) -> None:
        """Count a storage until it is freed; a storage that is already counted does not count again."""
        key, number = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.live += number
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._forget, key, number)

    def _forget(self, key: int, number: int) -> None:
        self._known.discard(key)
        self.live -= number


def _with(values: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return an operation's values with each tensor changed; torch's own ``tree_map_only`` takes ten times as long."""
    if isinstance(values, Tensor):
        return change(values)
    return type(values)([_with(value, change) for value in values]) if isinstance(values, (list, tuple)) else values


@cache
def _place_of_device(func: Any) -> int | None:
    names = [argument.name for argument in func._schema.arguments]
    return names.index("device") if "device" in names else None


def gigabytes(number: float) -> str:
    """Return a number of bytes for people."""
    return f"{number / 1e9:.2f} GB"
