"""Put networks on their device: memory layout, number format, compilation or packing."""

import os
import shutil
import sys
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import torch
from torch import nn

from realnet.config import RuntimeConfig
from realnet.errors import UserError
from realnet.runtime.packing import pack_convolutions
from realnet.runtime.precision import Precision

NetworkT = TypeVar("NetworkT", bound=nn.Module)


@runtime_checkable
class Parted(Protocol):
    """A network whose parts are called one by one, such as a detector in training."""

    def called_parts(self) -> list[nn.Module]:
        """Return the parts that both training and use call."""
        ...

    def exact_parts(self) -> list[nn.Module]:
        """Return the parts that compute in float32, whatever the number format."""
        ...


def move_to_device(network: NetworkT, device: torch.device, runtime: RuntimeConfig) -> NetworkT:
    """Move a network to its device, in the memory layout that the config asks for there."""
    network.to(device)
    if device.type == "cuda" and runtime.channels_last:
        cast(Any, network).to(memory_format=torch.channels_last)  # a keyword that torch 2.11's types do not know
    return network


def make_ready(
    network: NetworkT, number_format: Precision, runtime: RuntimeConfig, *, differentiable: bool = False
) -> NetworkT:
    """Make a trained network as fast as possible: on its device, in its number format, compiled or packed.

    For the whole process, float32 on a GPU is what the number format says (:meth:`Precision.apply`).

    Args:
        network: the network; its weights must not change afterwards.
        number_format: the number format and the device.
        runtime: the config's ``runtime`` section.
        differentiable: keep gradients with respect to the input (never the weights), as guidance needs them.

    Raises:
        UserError: as for :func:`compile_networks`.
    """
    number_format.apply()
    move_to_device(network, number_format.device, runtime).eval()
    number_format.cast(network, exact=network.exact_parts() if isinstance(network, Parted) else ())
    compile_networks(runtime, network)
    if differentiable:
        network.requires_grad_(False)
    elif number_format.device.type == "cpu" and not runtime.compile:
        pack_convolutions(network)
    return network


def compile_networks(runtime: RuntimeConfig, *networks: nn.Module) -> None:
    """Compile networks at their first call, if the config asks for it; their state dicts keep their keys.

    Raises:
        UserError: if there is no C++ compiler.
    """
    if not runtime.compile:
        return
    compiler = os.environ.get("CXX") or _DEFAULT_COMPILER.get(sys.platform, "g++")
    if shutil.which(compiler) is None:
        raise UserError(
            f"runtime.compile needs a C++ compiler, but {compiler} was not found; install it, name another one in the "
            "environment variable CXX, or set runtime.compile to false"
        )
    for network in networks:
        for part in network.called_parts() if isinstance(network, Parted) else [network]:
            part.compile()


_DEFAULT_COMPILER = {"darwin": "clang++", "win32": "cl"}
