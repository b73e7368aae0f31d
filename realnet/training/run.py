"""What surrounds a training loop: progress, log, metrics, and an orderly end."""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from realnet import distributed
from realnet.config import Section, dump
from realnet.distributed import Process
from realnet.progress import bar, console
from realnet.stopping import StopSignals


class Run:
    """A context for a training loop: logs to the console, a file, ``metrics.jsonl`` and TensorBoard, on rank 0.

    Args:
        folder: where the logs go.
        process: this process.
        config: saved as ``config.yaml``.
        start_step: what the logs hold beyond it, from a run that was cut off, is dropped.
        stop: the signals that end :meth:`steps` after the step at hand.
    """

    def __init__(self, folder: Path, process: Process, *, config: Section, start_step: int, stop: StopSignals) -> None:
        self.folder, self.process, self.config, self.start_step = folder, process, config, start_step
        self.stopping, self._stop = False, stop
        self._console = ExitStack()
        self._writer: Any = None

    def __enter__(self) -> Self:
        if self.process.is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "config.yaml").write_text(dump(self.config), encoding="utf-8")
            self._open_logs()
        else:
            self._console.enter_context(console(False))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._console.close()
        if self._writer is not None:
            self._writer.close()

    def steps(self, num_steps: int, description: str) -> Iterator[int]:
        """Yield the steps that are left, with a progress bar, until the end or a signal.

        All processes agree on the last step before it starts: ``stopping`` is then True.
        """
        progress = bar(total=num_steps, description=description, initial=self.start_step, is_main=self.process.is_main)
        with progress:
            for step in range(self.start_step, num_steps):
                self.stopping = distributed.any_process(self._stop.asked)
                yield step
                progress.update()
                if self.stopping:
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

        file = logging.FileHandler(self.folder / "log.txt", encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._console.enter_context(console(True, file))
        if self._metrics.exists():
            kept = [line for line in self._metrics.read_text().splitlines() if _step_of(line) <= self.start_step]
            partial = self._metrics.with_suffix(".partial")  # a kill leaves the old lines or the kept ones
            partial.write_text("".join(f"{line}\n" for line in kept if self.start_step))
            partial.replace(self._metrics)
        self._writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.start_step + 1)


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
