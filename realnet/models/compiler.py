"""Import timm and torchvision without torch's compiler, which takes longer than both."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any


@contextmanager
def without_compiler() -> Iterator[None]:
    """Defer the import of torch's compiler, of which timm and torchvision name one function each but rarely call it.

    The function imports the compiler once it is called; if anything else of the compiler is asked for, it is imported
    at once.
    """
    for module in () if DEFERRED.keys() & sys.modules.keys() else DEFERRED:
        sys.modules[module] = _Deferred(module)
    try:
        yield
    finally:
        _withdraw()


def _withdraw() -> None:
    for module in DEFERRED:
        if isinstance(sys.modules.get(module), _Deferred):
            del sys.modules[module]


def _disable(function: Callable[..., Any], *given: Any, **named: Any) -> Callable[..., Any]:
    """Return a function that runs without being compiled, as ``torch.compiler.disable`` does."""
    from torch._compile import _disable_dynamo

    del named["reason"]  # which the compiler would log
    return _disable_dynamo(function, *given, **named)


def _is_compile_supported(device_type: str) -> bool:
    return bool(import_module("torch._dynamo.utils").is_compile_supported(device_type))


DEFERRED: dict[str, dict[str, Callable[..., Any]]] = {
    "torch._dynamo": {"disable": _disable},
    "torch._dynamo.utils": {"is_compile_supported": _is_compile_supported},
}
"""The compiler's functions by module that are called without it until they need it."""


class _Deferred(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name in DEFERRED[self.__name__]:
            return DEFERRED[self.__name__][name]
        if name.startswith("__"):
            raise AttributeError(name)
        _withdraw()
        return getattr(import_module(self.__name__), name)
