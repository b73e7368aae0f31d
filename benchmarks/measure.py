"""Shared by the benchmarks of networks: ways to run, timing, operation counts, the machine's peak rates, the table."""

import argparse
import copy
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from realnet.config import RuntimeConfig
from realnet.runtime import precision, threads
from realnet.runtime.placement import make_ready
from realnet.runtime.precision import Precision

Work = Callable[[], object]
NetworkT = TypeVar("NetworkT", bound=nn.Module)
Compilation = Literal["", "compiled", "CUDA graphs"]

WARM_UP_SECONDS = 1.0
MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
COPY_BYTES = {"cpu": 2**28, "cuda": 2**32}


@dataclass(frozen=True)
class Row:
    """A measurement of one call.

    Attributes:
        name: first column of the table.
        seconds: wall time.
        flops: number of floating-point operations; 0 if they are not counted.
        ceiling: floating-point operations per second of a large matrix product.
        baseline: wall time of the baseline in seconds; None if this row is the baseline.
    """

    name: str
    seconds: float
    flops: float
    ceiling: float
    baseline: float | None = None

    def __str__(self) -> str:
        work, share = f"{'-':>18}", f"{'-':>7}"
        if self.flops:
            work, share = f"{self.flops / 1e9:12.1f} GFLOP", f"{self.flops / self.seconds / self.ceiling:7.2f}"
        ratio = f"{self.baseline / self.seconds:7.2f} ×" if self.baseline else "baseline"
        return f"{self.name:<46}{self.seconds * 1e3:12.1f} ms{work}{share}  {ratio:>9}"


@dataclass(frozen=True)
class Way:
    """A way to run a network.

    Attributes:
        number_format: what it computes in.
        compilation: ``compiled`` by torch.compile, or compiled with its kernels recorded as ``CUDA graphs``.
    """

    number_format: Precision
    compilation: Compilation = ""

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.number_format.name, self.compilation)))

    def runtime(self, runtime: RuntimeConfig) -> RuntimeConfig:
        """Return the settings of the scripts for this way; they have none for CUDA graphs."""
        torch.compiler.reset()  # each copy of a network counts towards torch's limit of compilations
        return runtime.model_copy(update={"compile": self.compilation == "compiled"})

    def ready(self, network: NetworkT, runtime: RuntimeConfig, *, differentiable: bool = False) -> NetworkT:
        """Return a copy of a trained network that runs in this way."""
        used = copy.deepcopy(network)
        make_ready(used, self.number_format, self.runtime(runtime), differentiable=differentiable)
        if self.compilation == "CUDA graphs":
            used.compile(mode="reduce-overhead")
        return used


def ways(device: torch.device, *compilations: Compilation) -> list[Way]:
    """Return the device's number formats, and then bf16 with each kind of compilation."""
    names: tuple[precision.FormatName, ...] = ("fp32", "tf32", "bf16") if device.type == "cuda" else ("fp32", "bf16")
    formats = [precision.resolve(name, device) for name in names]
    return [*map(Way, formats), *(Way(formats[-1], compilation) for compilation in compilations)]


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the flags that the benchmarks of networks share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def prepare(flags: argparse.Namespace) -> torch.device:
    """Set up this process like the scripts and return the device."""
    device = torch.device(flags.device)
    if device.type == "cpu":
        threads.keep_freed_memory()
    return device


def header(device: torch.device) -> str:
    """Return the table's header, with the name of the machine."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"{name}, torch {torch.__version__}\n{'':<46}{'time':>15}{'work':>18}{'ceiling':>8}  {'baseline':>9}"


def seconds(work: Work, device: torch.device, *, repeats: int = 3) -> float:
    """Return the wall time of the fastest call after a warm-up, synchronising the device before and after each call."""
    start = time.perf_counter()
    while time.perf_counter() - start < WARM_UP_SECONDS:
        work()
        _synchronise(device)
    return min(_once(work, device) for _ in range(repeats))


def flop_count(work: Work) -> int:
    """Count the floating-point operations of matrix products and convolutions in a call, backward pass included."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def plain_float32(device: torch.device) -> Precision:
    """Return float32, which from now on has all its digits on a GPU, too."""
    single = precision.resolve("fp32", device)
    single.apply()
    return single


def matrix_rate(number_format: Precision) -> float:
    """Measure the operations per second of a large matrix product, an upper limit for the networks."""
    number_format.apply()
    device = number_format.device
    side = MATRIX_SIDE[device.type]
    a, b = (torch.randn(side, side, device=device, dtype=number_format.dtype) for _ in range(2))
    return 2 * side**3 / seconds(lambda: a @ b, device, repeats=10)


def copy_rate(device: torch.device) -> float:
    """Measure the bytes per second, read and written, of a large copy."""
    source = torch.empty(COPY_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds(lambda: target.copy_(source), device)


def show(title: str, rows: Iterable[Row]) -> list[Row]:
    """Print a part of the table, each row as soon as it is measured, and return its rows."""
    print(title, flush=True)
    shown = []
    for row in rows:
        print(row, flush=True)
        shown.append(row)
    return shown


def _once(work: Work, device: torch.device) -> float:
    _synchronise(device)
    start = time.perf_counter()
    work()
    _synchronise(device)
    return time.perf_counter() - start


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
