"""What surrounds a training loop: progress, log, metrics, and an orderly end."""

import json
import logging
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import numpy as np
import torch
from tqdm import tqdm

from realnet import distributed
from realnet.config import Section, dump
from realnet.distributed import Process

logger = logging.getLogger("realnet")


class _BarHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


def bar(iterable: Any = None, *, total: int, description: str, initial: int = 0, is_main: bool = True) -> tqdm:
    """Return a progress bar with rate and remaining time; silent but on the main process."""
    interval = 0.2 if sys.stderr.isatty() else 10.0
    return tqdm(
        iterable,
        total=total,
        desc=description,
        initial=initial,
        disable=not is_main,
        mininterval=interval,
        smoothing=0.05,
    )


class Run:
    """A context for a training loop: logs to the console, a file, ``metrics.jsonl`` and TensorBoard, on rank 0.

    SIGTERM and Ctrl-C end :meth:`steps` after the step at hand (a second Ctrl-C ends at once).

    Args:
        folder: where the logs go.
        process: this process.
        config: saved as ``config.yaml``.
        start_step: what the logs hold beyond it, from a run that was cut off, is dropped.
    """

    def __init__(self, folder: Path, process: Process, config: Section, start_step: int = 0) -> None:
        self.folder, self.process, self.config, self.start_step = folder, process, config, start_step
        self.stopped = False
        self._handlers: list[logging.Handler] = []
        self._signals: dict[int, Any] = {}
        self._writer: Any = None

    def __enter__(self) -> Self:
        logger.setLevel(logging.INFO if self.process.is_main else logging.ERROR)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._signals[number] = signal.signal(number, self._stop)
        if self.process.is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "config.yaml").write_text(dump(self.config), encoding="utf-8")
            self._open_logs()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._signals.items():
            signal.signal(number, handler)
        for handler in self._handlers:
            logger.removeHandler(handler)
            handler.close()
        if self._writer is not None:
            self._writer.close()

    def steps(self, num_steps: int, description: str) -> Iterator[int]:
        """Yield the steps that are left, with a progress bar, until the end or a signal."""
        progress = bar(total=num_steps, description=description, initial=self.start_step, is_main=self.process.is_main)
        with progress:
            for step in range(self.start_step, num_steps):
                yield step
                progress.update()
                if distributed.any_process(self.stopped):
                    self.stopped = True
                    return

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers to ``metrics.jsonl`` and TensorBoard."""
        if not self.process.is_main:
            return
        line = {"step": step, "time": round(time.time(), 3), **{k: float(v) for k, v in values.items()}}
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)

    def image(self, step: int, tag: str, image: np.ndarray) -> None:
        """Write a picture (H, W, 3) uint8 to TensorBoard."""
        if self.process.is_main:
            self._writer.add_image(tag, image, step, dataformats="HWC")

    @property
    def _metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    def _open_logs(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        console, file = _BarHandler(), logging.FileHandler(self.folder / "log.txt", encoding="utf-8")
        console.setFormatter(logging.Formatter("%(message)s"))
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._handlers = [console, file]
        for handler in self._handlers:
            logger.addHandler(handler)
        if self._metrics.exists():
            kept = [line for line in self._metrics.read_text().splitlines() if _step_of(line) <= self.start_step]
            self._metrics.write_text("".join(f"{line}\n" for line in kept if self.start_step))
        self._writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.start_step)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        if self.stopped and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.stopped = True


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # a line that a kill cut off
        return float("inf")


def seed_step(seed: int, rank: int, step: int) -> None:
    """Seed the networks' random numbers (dropout) of a step, so that a run that goes on needs no stored state."""
    torch.manual_seed(int(np.random.SeedSequence((seed, rank, step)).generate_state(1, np.uint64)[0]))


def throughput(process: Process, start: float, num_images: int) -> dict[str, float]:
    """Return images per second since ``start`` (time.perf_counter) and the peak memory of the GPU, in GB."""
    values = {"images_per_second": num_images / max(time.perf_counter() - start, 1e-9)}
    if process.device.type == "cuda":
        values["memory_gb"] = torch.cuda.max_memory_allocated(process.device) / 1e9
    return values
