"""Lives of a script: each is a process that may kill itself at a moment of its own choice, or be killed."""

import io
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import forks
from conftest import load_script


@dataclass(frozen=True)
class End:
    """How a life ended.

    Attributes:
        code: the exit code; minus the signal's number where one killed it.
        moments: all that it went through, in order.
        output: what it printed.
    """

    code: int
    moments: list[str]
    output: str


@dataclass(frozen=True)
class Fate:
    """The signal that a life sends itself at the ``count``-th time that a moment comes."""

    moment: str
    count: int = 1
    sent: signal.Signals = signal.SIGKILL


def start(script: str, *arguments: str, fate: Fate | None = None, max_bytes: int | None = None) -> BaseProcess:
    """Begin a life in the current folder; ``max_bytes`` is how large its files may become: a disk that is full."""
    for name in ("moments", "output"):  # of a life that is killed before it has begun
        Path(name).write_text("")
    return forks.start(_live, Path.cwd(), script, arguments, fate, max_bytes)


def end(life: BaseProcess) -> End:
    life.join(120)
    assert life.exitcode is not None, "it hangs"
    return End(life.exitcode, Path("moments").read_text().splitlines(), Path("output").read_text())


def live(script: str, *arguments: str, fate: Fate | None = None, max_bytes: int | None = None) -> End:
    return end(start(script, *arguments, fate=fate, max_bytes=max_bytes))


def _live(folder: Path, script: str, arguments: Sequence[str], fate: Fate | None, max_bytes: int | None) -> None:
    os.chdir(folder)
    output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for standard in (1, 2):
        os.dup2(output, standard)
    _mark_moments(Path("moments"), fate)
    if max_bytes:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))
    import torch

    from realnet.commands import cli

    torch.set_num_threads(1)
    sys.argv = [script, *arguments]
    cli.run(load_script(script).main)


def _mark_moments(diary: Path, fate: Fate | None) -> None:
    """Make writes, renames and steps moments, a write also when half of it is done."""
    import torch

    from realnet.training.logs import Run
    from realnet.training.optimisation import Optimisation

    notes = os.open(diary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    left = fate.count if fate else 0

    def moment(name: str, last_words: Callable[[], Any] = lambda: None) -> None:
        nonlocal left
        os.write(notes, f"{name}\n".encode())
        if fate and name == fate.moment:
            left -= 1
            if left == 0:
                last_words()
                os.kill(os.getpid(), fate.sent)

    def save(values: Any, file: Any) -> None:
        buffer = io.BytesIO()
        whole_save(values, buffer)
        write_halves(file, buffer.getvalue(), Path(file.name).name)

    def write_halves(file: Any, data: bytes, name: str) -> None:
        file.write(data[: len(data) // 2])
        file.flush()
        moment(f"half of {_kind(name)}")
        file.write(data[len(data) // 2 :])

    def write_bytes(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            write_halves(file, data, path.name)
        return len(data)

    def write_text(path: Path, text: str, encoding: str | None = None) -> int:
        return write_bytes(path, text.encode(encoding or "utf-8"))

    def replace(path: Path, target: Path) -> Path:
        moment(f"before {_kind(target.name)}")
        whole_replace(path, target)
        moment(f"after {_kind(target.name)}")
        return target

    def step(optimisation: Optimisation, number: int) -> None:
        moment("step")
        whole_step(optimisation, number)

    def scalars(run: Run, number: int, values: Any) -> None:
        moment("half a line of metrics", lambda: run._metrics.open("a").write(f'{{"step": {number}, "lo'))
        whole_scalars(run, number, values)

    whole_save, whole_replace, whole_step, whole_scalars = torch.save, Path.replace, Optimisation.step, Run.scalars
    torch.save, Path.write_bytes, Path.write_text, Path.replace = save, write_bytes, write_text, replace
    Optimisation.step, Run.scalars = step, scalars


def _kind(name: str) -> str:
    """Return a file's name without the number of a picture and of a process."""
    return re.sub(r"_?\d{5,}", "#", name.replace(f".{socket.gethostname()}-{os.getpid()}.part", ".part"))
