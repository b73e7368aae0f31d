"""Several processes of one run, as a launcher starts them, in a tenth of its time."""

import os
import socket
from collections.abc import Callable
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_together(target: Callable[..., int | None], *arguments: Any, world_size: int = 2) -> list[Ended]:
    """Call a function of a module in several processes that end as a script does; by rank."""
    port, logs = free_port(), [Path(f"process_{rank}").resolve() for rank in range(world_size)]
    children = [forks.start(_run, rank, world_size, port, log, target, arguments) for rank, log in enumerate(logs)]
    for child in children:
        child.join(timeout=120)
        if child.is_alive():
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


def _run(
    rank: int, world_size: int, port: int, log: Path, target: Callable[..., int | None], arguments: tuple[Any, ...]
) -> None:
    for descriptor, suffix in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(log.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{world_size}"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    os.chdir(log.parent)
    torch.set_num_threads(1)
    cli.run(lambda _: target(*arguments))
