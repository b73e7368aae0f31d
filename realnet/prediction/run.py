"""Predict files: read, score and draw them, several at a time."""

import errno
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from realnet.data.images import Image, read_image
from realnet.detection.detector import Detector, Prediction
from realnet.errors import UserError
from realnet.prediction.inputs import LeftOut
from realnet.prediction.outputs import DEFAULT, FileVerdict, Kind, targets, write_pictures
from realnet.reporting.predictions import entry_of_page
from realnet.runtime import distributed
from realnet.runtime.distributed import World

UNFIT_NAME = {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}
"""Write errors that are due to the name of one picture, and do not affect the others."""


@dataclass(frozen=True)
class _Read:
    file: str
    image: Image
    seconds: float


def predict_files(
    detector: Detector,
    files: Sequence[str],
    root: Path,
    output: Path,
    *,
    threshold: float | None = None,
    kinds: Collection[Kind] = DEFAULT,
    batch_size: int = 8,
    world: World,
) -> Iterator[FileVerdict | LeftOut]:
    """Predict the files, write pictures of each, and yield the verdicts in the order of the files.

    ``batch_size`` threads read and draw as many images at a time, which are in memory together. Each image runs
    through the network alone, so neither other images nor ``batch_size`` change a bit of its result. Several processes
    share the files, and each process yields all verdicts.

    Args:
        detector: detector of one class.
        files: paths of the images relative to ``root``.
        root: folder of the images.
        output: gets the pictures of each file, at the file's own path.
        threshold: image threshold; None takes the calibrated one.
        kinds: what is written of each image.
        batch_size: affects only speed and memory.
        world: this process.

    Raises:
        UserError: if a picture cannot be written, or the network gives NaN.
    """
    step = batch_size * world.size
    with ThreadPoolExecutor(batch_size) as pool:
        for start in range(0, len(files), step):
            part = files[start : start + step]
            mine = part[world.rank :: world.size]
            found = list(_predict_batch(detector, mine, root, output, threshold=threshold, kinds=kinds, pool=pool))
            shares = distributed.gather(found)
            yield from (shares[i % len(shares)][i // len(shares)] for i in range(len(part)))


def _predict_batch(
    detector: Detector,
    files: Sequence[str],
    root: Path,
    output: Path,
    *,
    threshold: float | None,
    kinds: Collection[Kind],
    pool: ThreadPoolExecutor,
) -> Iterator[FileVerdict | LeftOut]:
    def read(file: str) -> _Read | LeftOut:
        start = time.perf_counter()
        try:
            return _Read(file, read_image(root / file, detector.image_bits), time.perf_counter() - start)
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

    scored = [score(found) for found in pool.map(read, files)]
    yield from pool.map(draw, scored)
