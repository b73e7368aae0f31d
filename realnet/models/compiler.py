"""Do without torch's compiler, whose import takes longer than that of timm and torchvision."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

Functions = dict[str, Callable[..., Any]]
COMPILER, ITS_UTILS = "torch._dynamo", "torch._dynamo.utils"


@contextmanager
def importing_later() -> Iterator[None]:
    """Defer the compiler's import, for timm and torchvision, each of which names one of its functions.

    The function imports the compiler once it is called. If anything else of the compiler is asked for, it is imported
    at once.
    """
    with _deferred(_disable_later):
        yield


@contextmanager
def compiling_nothing() -> Iterator[None]:
    """Spare the compiler's import in a process that only finds sizes, and ends with them.

    Operations on the meta device tell the compiler to leave them alone, which needs no telling where it never runs.
    """
    with _deferred(lambda function, *_, **__: function):
        yield


@contextmanager
def _deferred(disable: Callable[..., Any]) -> Iterator[None]:
    if COMPILER not in sys.modules:
        sys.modules[COMPILER] = _Deferred(COMPILER, {"disable": disable})
        sys.modules[ITS_UTILS] = _Deferred(ITS_UTILS, {"is_compile_supported": _is_compile_supported})
    try:
        yield
    finally:
        _withdraw()


def _withdraw() -> None:
    for name in (COMPILER, ITS_UTILS):
        if isinstance(sys.modules.get(name), _Deferred):
            del sys.modules[name]


class _Deferred(ModuleType):
    """A module of the compiler that is imported where it is asked for more than it knows."""

    def __init__(self, name: str, known: Functions) -> None:
        super().__init__(name)
        self._known = known

    def __getattr__(self, name: str) -> Any:
        if name in self._known:
            return self._known[name]
        if name.startswith("__"):
            raise AttributeError(name)
        _withdraw()
        return getattr(import_module(self.__name__), name)


def _disable_later(function: Callable[..., Any], *given: Any, **named: Any) -> Callable[..., Any]:
    """Return a function that runs without being compiled, as ``torch.compiler.disable`` does."""
    from torch._compile import _disable_dynamo

    del named["reason"]  # which the compiler would log
    return _disable_dynamo(function, *given, **named)


def _is_compile_supported(device_type: str) -> bool:
    return bool(import_module(ITS_UTILS).is_compile_supported(device_type))
