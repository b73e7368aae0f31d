"""SIGTERM and Ctrl-C: a run that is asked to stop finishes what it is at, saves, and ends well."""

import signal
from types import FrameType, TracebackType
from typing import Any, Self


class StopSignals:
    """A context in which SIGTERM and Ctrl-C are only noted; a second Ctrl-C ends at once.

    Attributes:
        asked: whether one has come.
    """

    def __init__(self) -> None:
        self.asked = False
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

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
