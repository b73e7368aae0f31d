"""Predict photographs and videos: read, score and draw them, several at a time."""

import errno
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice, zip_longest
from pathlib import Path
from typing import NoReturn, TypeVar

from realnet.data.images import Image, read_image
from realnet.detection.detector import Detector, Prediction
from realnet.errors import UserError
from realnet.prediction.inputs import LeftOut
from realnet.prediction.outputs import DEFAULT, FileVerdict, Kind, targets, write_pictures
from realnet.prediction.videos import frame_name, is_video, read_frames
from realnet.reporting.predictions import entry_of_page
from realnet.runtime import distributed
from realnet.runtime.distributed import World

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

UNFIT_NAME = {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}
"""Write errors that are due to the name of one picture, and do not affect the others."""


_Source = tuple[str, Callable[[], Image]]


@dataclass(frozen=True)
class _Read:
    file: str
    image: Image
    seconds: float


def predict_files(
    detector: Detector,
    files: Iterable[str],
    root: Path,
    output: Path,
    *,
    threshold: float | None = None,
    kinds: Collection[Kind] = DEFAULT,
    batch_size: int = 8,
    every: int = 1,
    world: World,
) -> Iterator[FileVerdict | LeftOut]:
    """Predict the files, write pictures of each, and yield the verdicts in the order of the files.

    While the network scores an image, threads read up to ``batch_size`` images ahead and draw as many before it. Each
    image runs through the network alone, so neither other images nor ``batch_size`` change a bit of its result. Several
    processes share the files, and each process yields all verdicts.

    Args:
        detector: detector of one class.
        files: paths of the images and videos relative to ``root``; they may come one by one.
        root: folder of the images.
        output: gets the pictures of each file, at the file's own path.
        threshold: image threshold; None takes the calibrated one.
        kinds: what is written of each image.
        batch_size: affects only speed and memory.
        every: of a video, every how many-th frame is predicted.
        world: this process.

    Raises:
        UserError: if a picture cannot be written, or the network gives NaN.
    """
    with ThreadPoolExecutor(batch_size) as readers, ThreadPoolExecutor(batch_size) as writers:
        sources = _sources(files, root, every, detector.image_bits)
        found = _predict(
            detector,
            islice(sources, world.rank, None, world.size),
            output,
            threshold=threshold,
            kinds=kinds,
            readers=readers,
            writers=writers,
            number=batch_size,
        )
        while any(shares := distributed.gather(list(islice(found, batch_size)))):
            yield from (one for row in zip_longest(*shares) for one in row if one is not None)


def _sources(files: Iterable[str], root: Path, every: int, bits: int) -> Iterator[_Source]:
    """Yield the name of each photograph and of each frame, and what reads it."""
    for file in files:
        if not is_video(file):
            yield file, partial(read_image, root / file, bits)
            continue
        try:
            for number, frame in read_frames(root / file, every=every):
                yield frame_name(file, number), partial(_same, frame)
        except UserError as error:
            yield file, partial(_refuse, error)


def _same(image: Image) -> Image:
    return image


def _refuse(error: UserError) -> NoReturn:
    raise error


def _ahead(
    pool: ThreadPoolExecutor, function: Callable[[ItemT], ResultT], items: Iterable[ItemT], number: int
) -> Iterator[ResultT]:
    """Yield the function's result for each item, in order, while the pool computes the next ones."""
    begun: deque[Future[ResultT]] = deque()
    for item in items:
        begun.append(pool.submit(function, item))
        if len(begun) > number:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()


def _predict(
    detector: Detector,
    sources: Iterable[_Source],
    output: Path,
    *,
    threshold: float | None,
    kinds: Collection[Kind],
    readers: ThreadPoolExecutor,
    writers: ThreadPoolExecutor,
    number: int,
) -> Iterator[FileVerdict | LeftOut]:
    """Read, score and draw the images: while one is scored, the next are read and the last ones drawn."""

    def read(source: _Source) -> _Read | LeftOut:
        start = time.perf_counter()
        file, load = source
        try:
            return _Read(file, load(), time.perf_counter() - start)
        except UserError as error:
            return LeftOut(file, str(error))

    def score(found: _Read | LeftOut) -> tuple[_Read, Prediction, float] | LeftOut:
        if isinstance(found, LeftOut):
            return found
        start = time.perf_counter()
        try:
            prediction = detector.predict(found.image, threshold=threshold)
        except UserError as error:
            raise UserError(f"{found.file}: {error}") from error
        return found, prediction, found.seconds + time.perf_counter() - start

    def draw(found: tuple[_Read, Prediction, float] | LeftOut) -> FileVerdict | LeftOut:
        if isinstance(found, LeftOut):
            return found
        start = time.perf_counter()
        image, prediction, seconds = found
        try:
            write_pictures(prediction, image.image, image.file, output, kinds)
            values = prediction.as_dict()
            heatmap = targets(image.file, kinds).get("heatmaps")
            entry = entry_of_page(image.file, image.image, prediction, heatmap) if "page" in kinds else ""
        except UserError as error:
            if getattr(error.__cause__, "errno", None) not in UNFIT_NAME:
                raise
            return LeftOut(image.file, str(error))
        return FileVerdict(image.file, values, seconds + time.perf_counter() - start, entry)

    return _ahead(writers, draw, map(score, _ahead(readers, read, sources, number)), number)
