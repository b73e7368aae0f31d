"""The only module that deals with several processes; without a launcher, each function is the identity."""

import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from realnet.errors import Stopped, UserError, message_of
from realnet.runtime import threads
from realnet.runtime.devices import best_device, find_device
from realnet.runtime.precision import FormatName, Precision, planned, resolve
from realnet.runtime.signals import StopSignals

TIMEOUT = timedelta(minutes=30)
WATCH_SECONDS = 0.5  # how often a process checks whether another has failed


@dataclass(frozen=True)
class World:
    """The processes of a run, seen from one of them.

    Attributes:
        rank: this process's number.
        size: how many processes there are.
        precision: the number format that this process computes in, and its device.
        stop: a context that notes the signals that end the run.
    """

    rank: int
    size: int
    precision: Precision
    stop: StopSignals = field(default_factory=StopSignals)

    @property
    def device(self) -> torch.device:
        """Return the device that this process computes on."""
        return self.precision.device

    @property
    def is_main(self) -> bool:
        """Tell whether this process writes and prints."""
        return self.rank == 0


@contextmanager
def join_world(device: str | None = None, number_format: FormatName = "auto") -> Iterator[World]:
    """Join the run that torchrun (or torch.distributed.launch) started, or run as a single process.

    Device and number format are resolved here, once for the whole command. The context swallows ``Stopped``.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:1`` or ``mps``; None takes the best one available.
        number_format: ``runtime.precision`` of the config.

    Raises:
        UserError: if the device is unavailable, belongs to another process, or lacks the number format.
    """
    rank, world_size = _launched()
    chosen = find_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    else:
        threads.keep_freed_memory()
    precision = resolve(number_format, chosen)
    precision.apply()
    if world_size == 1:
        with suppress(Stopped):
            yield World(rank, world_size, precision)
        return
    store, left = _store(), threading.Event()
    watch = threading.Thread(target=_watch, args=(left,), daemon=True)
    watch.start()
    # gloo carries the small control messages of every device, so that they cost no synchronisation with the GPU
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=TIMEOUT)
    if chosen.type == "cuda":
        require_own_gpus(chosen)
    with suppress(Stopped):  # all processes stop together
        yield World(rank, world_size, precision)
    left.set()  # a process that fails does not get here: ``fail`` ends it
    watch.join()  # a thread that comes back from torch's code while Python ends can abort the process
    dist.destroy_process_group()


def plan_world(device: str | None = None, number_format: FormatName = "auto", *, half_on_cpu: bool = False) -> World:
    """Return the world of a future run without joining it; this machine need not have the device.

    Args:
        device: as for :func:`join_world`.
        number_format: as for :func:`join_world`.
        half_on_cpu: on a CPU, ``auto`` is bf16.

    Raises:
        UserError: if there is no such kind of device, or it lacks the number format.
    """
    try:
        chosen = torch.device(device) if device else best_device()
    except RuntimeError as error:
        raise UserError(f"--device {device} is not a device; give cpu, cuda or mps") from error
    return World(*_launched(), planned(number_format, chosen, half_on_cpu=half_on_cpu))


def _launched() -> tuple[int, int]:
    """Return the rank and the number of processes that the launcher has set."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def require_own_gpus(device: torch.device) -> None:
    """Check that no two processes share a GPU.

    Raises:
        UserError: on every process, if two share one.
    """
    gpus = gather(str(torch.cuda.get_device_properties(device).uuid))
    if len(set(gpus)) < len(gpus):
        raise UserError(
            f"{len(gpus)} processes were started on {len(set(gpus))} GPUs, but each needs its own; start one per GPU "
            "(--nproc_per_node) and leave --device out; CUDA_VISIBLE_DEVICES chooses the GPUs"
        )


def fail(text: str, code: int) -> NoReturn:
    """End the run of several processes: each exits with ``code``, even one that waits for another or for a GPU.

    The first process that fails prints the text, and so does the first process of every other machine. Processes that
    fail later, because of it, print nothing.
    """
    first = mine = json.dumps([os.environ["RANK"], _node(), code, text])
    with suppress(RuntimeError):  # the process that held the store is gone
        first = _store().compare_set(_failure_key(), "", mine).decode()
    _end(first, is_mine=first == mine)


@cache
def _store() -> dist.Store:
    """Connect to the run's key-value store, which torchrun (or else rank 0) holds."""
    return next(dist.rendezvous("env://", timeout=TIMEOUT))[0]


def _watch(left: threading.Event) -> None:
    """End this process once another has failed; run in a thread, on a connection that no other call can block."""
    with suppress(RuntimeError):  # the store may end before this process
        store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
        while not left.wait(WATCH_SECONDS):
            if store.check([_failure_key()]):
                _end(store.get(_failure_key()).decode(), is_mine=False)


_ending = threading.Lock()


def _end(failure: str, *, is_mine: bool) -> NoReturn:
    _ending.acquire()  # never released: only the main thread or the watch ends the process
    _, node, code, text = json.loads(failure)
    if is_mine or (node != _node() and os.environ.get("LOCAL_RANK") == "0"):
        print(text, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(2 * WATCH_SECONDS)  # lets every process read the failure before the store ends
    os._exit(code)  # a normal exit would wait for messages that never come


def _node() -> str:
    return os.environ.get("GROUP_RANK", "0")


def _failure_key() -> str:
    """Return a failure's key, with the number of restarts: torchrun --max-restarts keeps the store."""
    return f"failure of {_start()}"


def _start() -> str:
    return f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"


def world_size() -> int:
    """Return how many processes have joined the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def mean(value: Tensor) -> Tensor:
    """Return the mean of a tensor over the processes; the gradient of their mean loss flows back through it."""
    return _Mean.apply(value) if dist.is_initialized() else value


def begin_mean(value: Tensor) -> Callable[[], None]:
    """Begin to replace a tensor by its mean over the processes; the function that is returned waits until it is."""
    work = dist.all_reduce(value, async_op=True)

    def finish() -> None:
        work.wait()
        value.div_(dist.get_world_size())

    return finish


class _Mean(torch.autograd.Function):
    """m = Σ_r v_r / N, so ∂(Σ_r L_r)/∂v = Σ_r (∂L_r/∂m) / N: a mean both ways."""

    @staticmethod
    def forward(_context: Any, value: Tensor) -> Tensor:
        return _reduce(value, dist.ReduceOp.SUM) / dist.get_world_size()

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        return _reduce(gradient, dist.ReduceOp.SUM) / dist.get_world_size()


def maximum(value: Tensor) -> Tensor:
    """Return the elementwise maximum of a tensor over the processes."""
    return _reduce(value, dist.ReduceOp.MAX) if dist.is_initialized() else value


def _reduce(value: Tensor, operation: Any) -> Tensor:
    reduced = value.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(reduced, op=operation)
    return reduced


def any_process(flag: bool) -> bool:
    """Tell whether the flag is set in any process; the message is sent on the CPU."""
    return bool(maximum(torch.tensor(int(flag))))


def gather(value: Any) -> list[Any]:
    """Return the values of all processes, in the order of ranks, on every process; values must be picklable."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait until every process has called this function."""
    any_process(False)


def meet() -> None:
    """Wait until every process has called this function, however long one of them works alone.

    Any message between processes would time out (``TIMEOUT``); here a process that waits asks the store.
    """
    if not dist.is_initialized():
        return
    store, key, pause = _store(), f"meeting {next(_meetings)} of {_start()}", 0.005
    store.add(key, 1)
    while store.add(key, 0) < dist.get_world_size():
        time.sleep(pause)
        pause = min(2 * pause, WATCH_SECONDS)


_meetings = itertools.count()


@contextmanager
def refusing_together() -> Iterator[None]:
    """Make all processes refuse if the block refuses something on one of them.

    Nothing in the block may wait for another process; one process may take as long as it needs.

    Raises:
        UserError: on every process; the message holds every refusal once.
    """
    refusal = ""
    try:
        yield
    except UserError as error:
        refusal = message_of(error)
    meet()
    if refusals := dict.fromkeys(filter(None, gather(refusal))):
        raise UserError("\n".join(refusals))
