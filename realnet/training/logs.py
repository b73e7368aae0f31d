"""The logs of a training run: progress, log file, metrics and pictures."""

import errno
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from logging.handlers import MemoryHandler
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from realnet.config import Section, dump
from realnet.data.images import Image, write_whole_image
from realnet.errors import Stopped, UserError
from realnet.runtime.distributed import World
from realnet.runtime.files import refusing, remove_parts, whole
from realnet.runtime.progress import bar, console

logger = logging.getLogger("realnet")


class Run:
    """A context manager that logs a training run on rank 0: console, ``log.txt``, ``metrics.jsonl``, TensorBoard.

    TensorBoard may be absent; the log says so.

    Nothing is written before :meth:`open`, which writes earlier messages to the file first. If an error ends the run,
    the file ends with it. If the logs cannot be written later, for example on a full disk, a warning is shown once, and
    the run continues without these lines.

    Args:
        folder: the folder of the logs.
        world: this process.
    """

    def __init__(self, folder: Path, world: World) -> None:
        self.folder, self.world = folder, world
        self._handlers = ExitStack()
        self._log = MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1)
        self._writer: Any = None
        self._has_gaps = False

    def __enter__(self) -> Self:
        self._handlers.enter_context(_quiet_threads())
        self._handlers.enter_context(console(self.world.is_main, self._log))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Stopped):
            logger.info("%s", error)
        elif kind and error:  # the script prints it on the console
            reason = None if isinstance(error, UserError) else (kind, error, trace)
            self._log.handle(logger.makeRecord(logger.name, logging.ERROR, __file__, 0, "%s", (error,), reason))
        if self._writer is not None:
            with self._sparing():
                self._writer.close()
        self._handlers.close()

    def open(self, config: Section, start_step: int, *, validated: bool = True) -> None:
        """Start to write the logs.

        Args:
            config: saved as ``config.yaml``.
            start_step: entries after this step, left by an interrupted run, are removed.
            validated: whether the validation after ``start_step``, if there is one, is done; if not, its entries are
                removed too.

        Raises:
            UserError: if the folder cannot be written.
        """
        if self.world.is_main:
            with refusing(self.folder):
                self._open(config, start_step, validated)

    def _open(self, config: Section, start_step: int, validated: bool) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_parts(self.folder)
        (self.folder / "config.yaml").write_text(dump(config), encoding="utf-8")
        file = _LogFile(self.folder / "log.txt", self._lose)
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._handlers.callback(file.close)
        self._log.setTarget(file)
        self._log.flush()
        self._log.flushLevel = logging.NOTSET
        self._drop_lines_beyond(start_step, validated)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError:
            logger.info("no TensorBoard logs, because it is not installed (pip install tensorboard)")
        else:
            self._writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=start_step + 1)

    def steps(self, start_step: int, num_steps: int, description: str) -> Iterator[int]:
        """Yield the remaining steps, with a progress bar."""
        progress = bar(total=num_steps, description=description, initial=start_step, is_main=self.world.is_main)
        with progress:
            for step in range(start_step, num_steps):
                yield step
                progress.update()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers to ``metrics.jsonl`` and TensorBoard."""
        if not self.world.is_main:
            return
        line = {"step": step, "time": round(time.time(), 3), **{k: float(v) for k, v in values.items()}}
        with self._sparing():
            _append(self._metrics, f"{json.dumps(line)}\n")
        with self._sparing():
            for key, value in values.items() if self._writer else ():
                self._writer.add_scalar(key, value, step)

    def image(self, step: int, tag: str, image: Image, path: Path) -> None:
        """Write a picture (H, W, 3) uint8 to a file and to TensorBoard."""
        if not self.world.is_main:
            return
        with self._sparing():
            remove_parts(path.parent)
            write_whole_image(path, image)
        with self._sparing():
            if self._writer:
                self._writer.add_image(tag, image, step, dataformats="HWC")

    @contextmanager
    def _sparing(self) -> Iterator[None]:
        """Let the training continue if a log cannot be written."""
        try:
            yield
        except (OSError, UserError) as error:
            self._lose(error)

    def _lose(self, error: BaseException | None) -> None:
        if not self._has_gaps:
            self._has_gaps = True
            logger.warning("WARNING: the logs in %s have gaps from here on (%s); free disk space", self.folder, error)

    @property
    def _metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    def _drop_lines_beyond(self, step: int, validated: bool) -> None:
        if not self._metrics.exists():
            return
        last = step if validated else step - 0.5
        lines = self._metrics.read_text(encoding="utf-8", errors="replace").splitlines() if step else []
        kept = [line for line in lines if _place_of(line) <= last]
        with whole(self._metrics) as part:  # so that a kill leaves either the old file or the new one
            part.write_text("".join(f"{line}\n" for line in kept))


class _LogFile(logging.FileHandler):
    """A log file that drops lines that cannot be written."""

    def __init__(self, path: Path, lose: Callable[[BaseException | None], None]) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self._lose = lose

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002 - logging's signature
        self._lose(sys.exception())

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def _quiet_threads() -> Iterator[None]:
    """Hide tracebacks of OSErrors in TensorBoard's thread; the next call to TensorBoard raises them anyway."""

    def report(lost: threading.ExceptHookArgs) -> None:
        if not isinstance(lost.exc_value, OSError):
            whole_report(lost)

    whole_report, threading.excepthook = threading.excepthook, report
    try:
        yield
    finally:
        threading.excepthook = whole_report


def _append(path: Path, line: str) -> None:
    """Append a line to a file completely or not at all."""
    data = line.encode()
    with path.open("ab", buffering=0) as file:
        end = file.tell()
        if file.write(data) < len(data):
            file.truncate(end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _place_of(line: str) -> float:
    """Return the step of a line of metrics, less half a step for training losses, which come before a validation."""
    try:
        values = json.loads(line)
        return float(values["step"] - 0.5 * ("loss" in values))
    except (ValueError, KeyError, TypeError):  # an incomplete line, left by a kill, or one of another maker
        return float("inf")


def seed_step(seed: int, rank: int, step: int) -> None:
    """Seed the networks' random numbers (dropout) for a step, so that a continued run needs no stored random state."""
    torch.manual_seed(int(np.random.SeedSequence((seed, rank, step)).generate_state(1, np.uint64)[0]))


def throughput(world: World, start: float, num_images: int) -> dict[str, float]:
    """Return images per second since ``start`` (time.perf_counter) and the peak memory of the GPU, in GB."""
    values = {"images_per_second": num_images / max(time.perf_counter() - start, 1e-9)}
    if world.device.type == "cuda":
        values["memory_gb"] = torch.cuda.max_memory_allocated(world.device) / 1e9
    return values
