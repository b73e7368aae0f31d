"""Watch a folder: judge each new photograph once it is complete, and each only once."""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import takewhile
from pathlib import Path

from realnet.data.folders import natural_key
from realnet.data.formats import is_image
from realnet.errors import printable
from realnet.prediction.inputs import LeftOut, walk
from realnet.prediction.outputs import FileVerdict
from realnet.runtime.signals import StopSignals

logger = logging.getLogger("realnet")

SECONDS = 1.0
"""Between two looks at the folder; a file that has changed between them is not complete."""

Predict = Callable[[Iterable[str]], Iterator[FileVerdict | LeftOut]]
State = tuple[int, int]
"""Size (bytes) and time of modification (ns) of a file."""


def watch(
    folder: Path, output: Path, judged: Collection[str], predict: Predict, stop: StopSignals
) -> Iterator[FileVerdict | LeftOut]:
    """Yield verdicts on the photographs in and below a folder, old and new ones, until a signal comes.

    Those that are begun when it comes are finished. A photograph that cannot be read is tried again when it changes.

    Args:
        folder: the folder.
        output: what lies here is no photograph.
        judged: printable names of photographs that have a verdict already, relative to the folder.
        predict: predicts the photographs of such names.
        stop: the signals.
    """
    known = set(judged)
    with stop:
        for files in _complete_files(folder, output, known, stop):
            for one in predict(takewhile(lambda _: not stop.asked, files)):
                if isinstance(one, FileVerdict):
                    known.add(printable(one.file))
                else:
                    logger.warning(one.reason)
                yield one


def _complete_files(folder: Path, output: Path, known: Collection[str], stop: StopSignals) -> Iterator[list[str]]:
    """Yield the names of unknown files that are complete, in natural order; again only if they have changed since."""
    seen: dict[str, State] = {}
    yielded: dict[str, State] = {}
    while not stop.asked:
        found = dict(_states(folder, output, known))
        ready = [name for name, state in found.items() if seen.get(name) == state != yielded.get(name)]
        yielded = {name: state for name, state in yielded.items() if name in found} | {n: found[n] for n in ready}
        seen = found
        if ready:
            yield sorted(ready, key=natural_key)
        if not stop.asked:
            time.sleep(SECONDS)


def _states(folder: Path, output: Path, known: Collection[str]) -> Iterator[tuple[str, State]]:
    for path in walk(folder, output, []):
        name = path.relative_to(folder).as_posix()
        if printable(name) in known or not is_image(path):
            continue
        try:
            state = path.stat()
        except OSError:  # it has gone meanwhile
            continue
        yield name, (state.st_size, state.st_mtime_ns)
