"""Watch a folder: judge each new photograph once it is complete, and each only once."""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path

from realnet.data.folders import natural_key
from realnet.data.formats import is_image
from realnet.errors import printable
from realnet.prediction.inputs import LeftOut, walk
from realnet.prediction.outputs import DEFAULT, FileVerdict, Kind, among_others
from realnet.runtime.signals import StopSignals

logger = logging.getLogger("realnet")

SECONDS = 1.0
"""Between two looks at the folder; a file that has changed between them is not complete."""

Predict = Callable[[Iterable[str]], Iterator[FileVerdict | LeftOut]]
State = tuple[int, int]
"""Size (bytes) and time of modification (ns) of a file."""


def watch(
    folder: Path,
    output: Path,
    judged: Collection[str],
    predict: Predict,
    stop: StopSignals,
    *,
    kinds: Collection[Kind] = DEFAULT,
) -> Iterator[FileVerdict | LeftOut]:
    """Yield verdicts on the photographs in and below a folder, old and new ones, until a signal comes.

    Those that are begun when it comes are finished. A photograph that cannot be read is tried again when it changes. At
    last come the folders that cannot be read, and photographs whose heatmaps would lie among other pictures.

    Args:
        folder: the folder.
        output: what lies here is no photograph.
        judged: printable names of photographs that have a verdict already, relative to the folder.
        predict: predicts the photographs of such names.
        stop: the signals.
        kinds: what is written of each photograph.
    """
    known, watched = set(judged), _Watched(folder, output, kinds)
    with stop:
        for files in _complete_files(watched, known, stop):
            for one in predict(takewhile(lambda _: not stop.asked, files)):
                if isinstance(one, FileVerdict):
                    known.add(printable(one.file))
                else:
                    logger.warning(one.reason)
                yield one
    yield from watched.left_out.values()


def _complete_files(watched: "_Watched", known: Collection[str], stop: StopSignals) -> Iterator[list[str]]:
    """Yield the names of unknown files that are complete, in natural order; again only if they have changed since."""
    seen: dict[str, State] = {}
    yielded: dict[str, State] = {}
    while not stop.asked:
        found = watched.look(known)
        ready = [name for name, state in found.items() if seen.get(name) == state != yielded.get(name)]
        yielded = {name: state for name, state in yielded.items() if name in found} | {n: found[n] for n in ready}
        seen = found
        if ready:
            yield sorted(ready, key=natural_key)
        if not stop.asked:
            time.sleep(SECONDS)


class _Watched:
    """A folder that is looked at again and again.

    Attributes:
        left_out: what the last look could not take, by path.
    """

    def __init__(self, folder: Path, output: Path, kinds: Collection[Kind]) -> None:
        self.folder, self.output, self.kinds = folder, output, kinds
        self.left_out: Mapping[str, LeftOut] = {}

    def look(self, known: Collection[str]) -> dict[str, State]:
        """Return the state of each photograph that is not known; say once what cannot be taken."""
        left_out: list[LeftOut] = []
        found = dict(self._states(known, left_out))
        for one in left_out:
            if one.file not in self.left_out:
                logger.warning(one.reason)
        self.left_out = {one.file: one for one in left_out}
        return found

    def _states(self, known: Collection[str], left_out: list[LeftOut]) -> Iterator[tuple[str, State]]:
        for path in walk(self.folder, self.output, left_out):
            name = path.relative_to(self.folder).as_posix()
            if printable(name) in known or not is_image(path):
                continue
            if others := among_others(name, self.kinds):
                reason = f"the heatmap of {name} would lie among the {others}; rename its folder, or --save fewer kinds"
                left_out.append(LeftOut(name, reason))
                continue
            try:
                state = path.stat()
            except OSError:  # it has gone meanwhile
                continue
            yield name, (state.st_size, state.st_mtime_ns)
