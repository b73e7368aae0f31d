"""SIGTERM and Ctrl-C: a run finishes its current step, saves, and exits normally."""

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
"""One Ctrl-C may arrive twice within this time: from the terminal, and from torchrun, which passes it on."""


class StopSignals:
    """A context that only notes SIGTERM and Ctrl-C; a second Ctrl-C ends the run at once.

    Attributes:
        asked: whether a signal has come.
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
        """Yield items until a signal comes.

        Raises:
            Stopped: after a signal, before the next item.
        """
        for item in items:
            if self.asked:
                raise Stopped
            yield item

    def _note(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        outer = getattr(self._before.get(number), "__self__", None)
        if isinstance(outer, StopSignals):
            outer._note(number, _frame)
        if not self.asked:
            self.asked, self._when = True, now
        elif number == signal.SIGINT and now - self._when > REPEAT_SECONDS:
            raise KeyboardInterrupt


def leave_signals_to_main(_worker: int) -> None:
    """Set up a DataLoader's worker: it ignores Ctrl-C and SIGTERM, which the main process handles."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)


@atexit.register  # registered after multiprocessing's handler, so called before it; that one would wait forever
def _end_workers() -> None:
    if hasattr(signal, "SIGCHLD"):  # Windows has none
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # DataLoader's handler would report their end as a failure
    for worker in multiprocessing.active_children():
        if worker.daemon:
            worker.kill()
