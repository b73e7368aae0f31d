"""Measure the share of the pure network's rate that ``predict`` reaches, and whether its memory grows.

Usage: python -m benchmarks.predict [--config experiments/MTD/realnet.yaml] [--set KEY=VALUE ...] [--images 1000]
       [--size 600 800] [--rows verdicts page heatmaps] [--parts]

The pure network judges one image again and again, already read and resized. It is timed before and after each row, as
a machine's speed varies; on a CPU it has all cores, which ``predict`` shares with reading and drawing. "Busy" is the
share of its time in which ``predict`` runs the network; other programs change it less than the share of the pure rate.
"Memory" is that of the process after a tenth of the images and after all of them. Weights are random, the photographs
are drawn JPEGs. The last lines say what a photograph costs the processor, each part by itself and all of ``predict``,
which on an idle computer of one core is the time that passes, and how many photographs an hour that makes. With
``--parts`` there are the parts alone; of tiles, the network's time is that of one for each, and blending is the rest.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import drawn, measure
from realnet.data.images import Image, read_image, resize_image
from realnet.detection.detector import Detector
from realnet.detection.runtimes import Judged, Runtime
from realnet.prediction.outputs import DEFAULT, FileVerdict, Kind, LeftOut, write_predictions
from realnet.prediction.run import predict_files
from realnet.reporting.predictions import start_of_page
from realnet.runtime.distributed import join_world

ROWS: dict[str, tuple[str, tuple[Kind, ...]]] = {
    "verdicts": ("verdicts only", ()),
    "page": ("page", ("page",)),
    "heatmaps": ("page and heatmaps", DEFAULT),
}
"""By the name that ``--rows`` gives: the row's title, and what is written."""
NUM_PURE, MOST_SECONDS = 20, 2.0


@dataclass(frozen=True)
class Blank:
    """A runtime that finds nothing, in no time, on tiles of (height, width)."""

    size: tuple[int, int]
    name: str = "blank"

    def judge(self, images: Sequence[Image], pool: int) -> Judged:  # noqa: ARG002 - the interface of runtimes
        """Return maps and scores of zeros."""
        return np.zeros((len(images), *self.size), np.float32), np.zeros(len(images))

    def maps(self, tiles: Sequence[Image]) -> tuple[NDArray[np.float32], ...]:
        """Return an anomaly map and a scored one, of zeros, for each tile."""
        return np.zeros((len(tiles), *self.size), np.float32), np.zeros((len(tiles), *self.size), np.float32)

    def context(self, photograph: Image) -> NDArray[np.float32]:
        """Return two maps of zeros."""
        return np.zeros((2, *photograph.shape[:2]), np.float32)


@dataclass
class Timed:
    """A runtime that adds up its seconds."""

    runtime: Runtime
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """Return the runtime's name."""
        return self.runtime.name

    def judge(self, images: Sequence[Image], pool: int) -> Judged:
        """Judge images, and note the time."""
        start = time.perf_counter()
        found = self.runtime.judge(images, pool)
        self.seconds += time.perf_counter() - start
        return found

    def maps(self, tiles: Sequence[Image]) -> tuple[NDArray[np.float32], ...]:
        """Judge tiles, and note the time."""
        start = time.perf_counter()
        found = self.runtime.maps(tiles)
        self.seconds += time.perf_counter() - start
        return found

    def context(self, photograph: Image) -> NDArray[np.float32]:
        """Judge a whole photograph, and note the time."""
        start = time.perf_counter()
        found = self.runtime.context(photograph)
        self.seconds += time.perf_counter() - start
        return found


def resident(process: int) -> float:
    """Return the memory of a process, in MB."""
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def pure_seconds(detector: Detector, photograph: Path) -> float:
    """Return the mean time of the network for an image that is ready; in tiles, the time of one for each."""
    work, number = network(detector, resize_image(read_image(photograph), detector.config.image_size))
    for _ in range(3):
        work()
    start = time.perf_counter()
    for _ in range(NUM_PURE):
        work()
    return (time.perf_counter() - start) / NUM_PURE * number


def network(detector: Detector, image: Image) -> tuple[Callable[[], object], int]:
    """Return what judges an image that is ready, or a tile of it, and how often an image needs that."""
    if detector.by_tiles is None:
        return lambda: detector.runtime.judge([image], detector.config.evaluation.pool), 1
    tiling = detector.by_tiles.tiling
    tile = tiling.cut(image, tiling.corners[0])
    return lambda: detector.runtime.maps([tile]), len(tiling) + detector.by_tiles.has_context


def processor_ms(work: Callable[[], object]) -> float:
    """Return the least of the processor's milliseconds for a call, of ``NUM_PURE`` or those of some seconds."""
    times = list[float]()
    while len(times) < NUM_PURE and sum(times) < MOST_SECONDS:
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return 1e3 * min(times)


def costs(detector: Detector, photograph: Path) -> str:
    """Return what the parts of a prediction cost the processor, in words."""
    image, size = read_image(photograph), detector.config.image_size
    judge, number = network(detector, resize_image(image, size))
    parts: dict[str, Callable[[], object]] = {
        "decoding": lambda: read_image(photograph),
        "resizing": lambda: resize_image(image, size),
    }
    if by_tiles := detector.by_tiles:
        parts["blending"] = lambda: by_tiles.judge(resize_image(image, size), Blank(by_tiles.tiling.size))
    times = {name: processor_ms(work) for name, work in parts.items()}
    times["network"] = processor_ms(judge) * number
    an_hour = 3.6e6 / sum(times.values())
    return ", ".join(f"{name} {time:.1f} ms" for name, time in times.items()) + f": {an_hour:.0f} photographs an hour"


def measured(
    found: Iterator[FileVerdict | LeftOut], number: int, memory: list[float]
) -> Iterator[FileVerdict | LeftOut]:
    """Pass the verdicts on, and note the memory after a tenth of them and after all."""
    for place, one in enumerate(found, 1):
        yield one
        if place in {max(1, number // 10), number}:
            memory.append(resident(os.getpid()))


def main() -> None:
    """Print the table."""
    parser = measure.arguments(__doc__)
    parser.add_argument("--config", type=Path, default=Path("experiments/MTD/realnet.yaml"))
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--size", type=int, nargs=2, default=drawn.SIZE, metavar=("H", "W"), help="pixels")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=[*ROWS])
    parser.add_argument("--parts", action="store_true", help="only what a photograph's parts cost")
    flags = parser.parse_args()
    print(measure.header(torch.device(flags.device)).splitlines()[0])
    columns = (
        f"{'pure network':>16}{'predict':>14}{'share':>8}{'busy':>8}{'memory, a tenth':>18}{'all':>14}{'page':>16}"
    )
    if not flags.parts:
        print(f"{'':<20}{columns}")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        drawn.write_detector(folder / "drawn.realnet", flags.config, flags.overrides)
        files = drawn.write_photographs(folder / "photographs", flags.images, (flags.size[0], flags.size[1]))
        world = stack.enter_context(join_world(flags.device))  # from now on freed memory is kept
        detector = Detector.load(folder / "drawn.realnet", device=world.device)
        names = [file.name for file in files]
        spent: dict[str, float] = {}
        for row, kinds in () if flags.parts else (ROWS[name] for name in flags.rows):
            output, memory = folder / row, list[float]()
            page = start_of_page(row, [], detector.display()) if "page" in kinds else None
            before = pure_seconds(detector, files[0])
            timed = Timed(detector.runtime)
            start, began = time.perf_counter(), time.process_time()
            found = predict_files(
                replace(detector, runtime=timed), names, files[0].parent, output, kinds=kinds, world=world
            )
            write_predictions(measured(found, len(names), memory), output, world, page=page)
            wall = (time.perf_counter() - start) / len(names)
            spent[row] = 1e3 * (time.process_time() - began) / len(names)
            pure = (before + pure_seconds(detector, files[0])) / 2
            busy = timed.seconds / wall / len(names)
            size = (output / "predictions.html").stat().st_size / len(names) / 1e3 if page else None
            print(
                f"{row:<20}{pure * 1e3:>13.1f} ms{wall * 1e3:>11.1f} ms{pure / wall:>8.2f}{busy:>8.2f}"
                f"{memory[0]:>15.0f} MB{memory[-1]:>11.0f} MB{f'{size:.1f} kB/image' if size else '-':>16}",
                flush=True,
            )
        print(f"processor, by itself: {costs(detector, files[0])}")
        if flags.parts:
            return
        print(f"processor, in all: {', '.join(f'{row} {ms:.1f} ms' for row, ms in spent.items())}")
        print(f"photographs an hour and core: {', '.join(f'{row} {3.6e6 / ms:.0f}' for row, ms in spent.items())}")


if __name__ == "__main__":
    main()
