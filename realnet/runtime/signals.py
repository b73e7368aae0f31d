"""SIGTERM and Ctrl-C: a run that is asked to stop finishes what it is at, saves, and ends well."""

import atexit
import multiprocessing
import multiprocessing.util
import signal
import time
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

import torch

from realnet.errors import Stopped

ItemT = TypeVar("ItemT")
REPEAT_SECONDS = 1.0
"""Within these the same Ctrl-C may come again: a terminal sends it to all, and torchrun hands it on to its workers."""


class StopSignals:
    """A context in which SIGTERM and Ctrl-C are only noted; a second Ctrl-C ends at once.

    Attributes:
        asked: whether one has come.
    """

    def __init__(self) -> None:
        self.asked = False
        self._when = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def heeding(self, items: Iterable[ItemT]) -> Iterator[ItemT]:
        """Yield items until a signal.

        Raises:
            Stopped: after a signal, before the next item.
        """
        for item in items:
            if self.asked:
                raise Stopped
            yield item

    def _note(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.asked:
            self.asked, self._when = True, now
        elif number == signal.SIGINT and now - self._when > REPEAT_SECONDS:
            raise KeyboardInterrupt


def leave_signals_to_main(_worker: int) -> None:
    """Begin a worker of a DataLoader: a terminal's Ctrl-C reaches it too, and is not for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)


@atexit.register  # later than multiprocessing's own, hence called before it, which would wait for them for ever
def _end_workers() -> None:
    if hasattr(signal, "SIGCHLD"):  # Windows has none
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # DataLoader's handler takes their end for a failure
    for worker in multiprocessing.active_children():
        if worker.daemon:
            worker.kill()
