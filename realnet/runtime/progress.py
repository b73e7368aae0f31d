"""Progress bars with rate and remaining time, and log lines that do not break them."""

import io
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm import tqdm

from realnet.runtime.distributed import World

ItemT = TypeVar("ItemT")


class BarHandler(logging.Handler):
    """Print log lines above the progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


def bar(iterable: Any = None, *, total: int | None, description: str, initial: int = 0, is_main: bool = True) -> tqdm:
    """Return a progress bar with rate and, where the total is known, remaining time; only the main process shows it."""
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


def stoppable_bar(items: Sequence[ItemT], description: str, world: World) -> Iterator[ItemT]:
    """Yield items with a progress bar on the main process; raise ``Stopped`` after a signal."""
    return world.stop.heeding(bar(items, total=len(items), description=description, is_main=world.is_main))


@contextmanager
def console(is_main: bool = True, *extra: logging.Handler) -> Iterator[None]:
    """Show the project's log lines on the console (and on ``extra`` handlers) of the main process.

    From then on, what UTF-8 cannot encode, such as parts of some file names, is printed with backslashes.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    logger = logging.getLogger("realnet")
    handler = BarHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    handlers = [handler, *extra] if is_main else [logging.NullHandler()]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for each in handlers:
        logger.addHandler(each)
    try:
        yield
    finally:
        logger.propagate = True
        for each in handlers:
            logger.removeHandler(each)
            each.close()
