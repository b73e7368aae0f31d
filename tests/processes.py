"""Several processes of one run, as a launcher starts them, in a tenth of its time."""

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forks
import torch
from conftest import load_script

from realnet.commands import cli


@dataclass(frozen=True)
class Ended:
    code: int | None
    out: str
    err: str


@contextmanager
def held_port() -> Iterator[int]:
    """A port for the store of a run: no other program can take it, since a socket that never listens has it.

    Where another one had it, torchrun's first node would fail, and the second wait for it at the other one's store.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the store does, so both may have the port
        holder.bind(("", 0))
        yield holder.getsockname()[1]


def run_together(target: Callable[..., int | None], *arguments: Any, world_size: int = 2) -> list[Ended]:
    """Call a function of a module in several processes that end as a script does; by rank."""
    with held_port() as port:
        return start_together(_run, [(rank, world_size, port, target, arguments) for rank in range(world_size)])


def start_together(
    function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], *, timeout: float = 300
) -> list[Ended]:
    """Call a function in a process for each tuple of arguments, in the current folder; one that hangs is ended."""
    logs = [Path(f"process_{number}").resolve() for number in range(len(calls))]
    children = [forks.start(_enter, log, function, call) for log, call in zip(logs, calls, strict=True)]
    for child in children:
        child.join(timeout)
        if child.is_alive():
            child.terminate()  # a launcher then ends what it has started
            child.join(60)
            child.kill()
            child.join()
    return [
        Ended(child.exitcode, log.with_suffix(".out").read_text(), log.with_suffix(".err").read_text())
        for child, log in zip(children, logs, strict=True)
    ]


def run_script_together(name: str, *arguments: str) -> list[Ended]:
    return run_together(script, name, *arguments)


def script(name: str, *arguments: str) -> int | None:
    return load_script(name).main(arguments)


def _enter(log: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    for descriptor, suffix in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(log.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.chdir(log.parent)
    function(*arguments)


def _run(rank: int, world_size: int, port: int, target: Callable[..., int | None], arguments: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{world_size}"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    torch.set_num_threads(1)
    cli.run(lambda _: target(*arguments))
