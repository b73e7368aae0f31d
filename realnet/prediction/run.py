"""Predict a folder of images: write a heatmap for each, and ``predictions.csv``."""

import csv
import errno
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from realnet import config
from realnet.config import paths
from realnet.data.folders import natural_key
from realnet.data.images import Image, read_image, write_image
from realnet.detection.checkpoints import find_checkpoints, missing_checkpoint
from realnet.detection.detector import Detector, Prediction
from realnet.drawing.heatmaps import Display
from realnet.drawing.panels import SMALLEST_SIDE, display_size, heatmap_name, heatmap_panel, verdict_title
from realnet.errors import UserError
from realnet.prediction.inputs import LeftOut
from realnet.runtime import distributed
from realnet.runtime.distributed import World
from realnet.runtime.files import refusing

PREDICTIONS = "predictions.csv"
UNFIT_NAME = {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}
"""Write errors that are due to the name of one heatmap, and do not affect the others."""
LARGEST_SIDE = 1024
"""Longer side (px) that larger heatmaps are shrunk to."""


@dataclass(frozen=True)
class FileVerdict:
    """A row of ``predictions.csv``; ``seconds`` is the time to read, score and draw this image."""

    file: str
    image_score: float
    threshold: float | None
    verdict: str | None
    seconds: float


@dataclass(frozen=True)
class Summary:
    """The number of images per verdict (None: there is no threshold), and the files that could not be judged."""

    verdicts: Mapping[str | None, int]
    left_out: Sequence[LeftOut]


@dataclass(frozen=True)
class _Read:
    file: str
    image: Image
    seconds: float


def protect_files(root: Path, files: Sequence[str], output: Path) -> None:
    """Check that heatmaps replace nothing but the heatmaps of an earlier prediction.

    Args:
        root: folder of the images.
        files: paths of the images relative to ``root``.
        output: folder of the heatmaps; if it holds ``predictions.csv``, an earlier prediction wrote its files.

    Raises:
        UserError: if ``output`` is the images' own folder, or a heatmap would replace an image or any other file.
    """
    if output.resolve() == root.resolve():
        raise UserError(f"--output {output} is the folder of the images; give heatmaps a folder of their own")
    inputs = {_identity(root / file) for file in files}
    is_own = (output / PREDICTIONS).is_file()
    targets = ((output / heatmap_name(file), _identity(output / heatmap_name(file))) for file in files)
    lost = [str(path) for path, found in targets if found is not None and (found in inputs or not is_own)]
    if lost:
        raise UserError(
            f"heatmaps would replace {len(lost)} files that no earlier prediction wrote, such as {lost[0]}; give "
            "another --output"
        )


def _identity(path: Path) -> tuple[int, int] | None:
    """Return the device and inode of a file, which are the same under all its names; None if it does not exist."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def choose_detector(dataset: str, wanted: Sequence[str], given: Path | None = None) -> tuple[str, Path]:
    """Return the class and its checkpoint: the given one, else the last, else the best on the test split.

    Args:
        dataset: name of the dataset.
        wanted: one class, or ``all`` if only one is trained.
        given: path of a checkpoint; None looks for one.

    Raises:
        UserError: if the flags do not name a single class, or if it has no checkpoint.
    """
    classes = config.load_dataset(dataset).classes
    folders = paths.output(dataset, "realnet", "checkpoints").glob("*")
    trained = sorted((folder.name for folder in folders if find_checkpoints(dataset, folder.name)), key=natural_key)
    names = trained if list(wanted) == ["all"] else list(wanted)
    if len(names) != 1:
        known = ", ".join(trained) or "none yet"
        raise UserError(f"a prediction takes the detector of one class; name it with --class_name (trained: {known})")
    if classes and names[0] not in classes:
        raise UserError(f"{dataset} has no class {names[0]!r}; its classes: {', '.join(classes)}")
    found = find_checkpoints(dataset, names[0], given)
    if not found:
        raise UserError(missing_checkpoint(dataset, names[0]))
    return names[0], next(iter(found.values()))


def predict_files(
    detector: Detector,
    files: Sequence[str],
    root: Path,
    output: Path,
    *,
    threshold: float | None = None,
    batch_size: int = 8,
    world: World,
) -> Iterator[FileVerdict | LeftOut]:
    """Predict the files, write a heatmap for each, and yield the verdicts in the order of the files.

    ``batch_size`` threads read and draw as many images at a time, which are in memory together. Each image runs
    through the network alone, so neither other images nor ``batch_size`` change a bit of its result. Several processes
    share the files, and each process yields all verdicts.

    Args:
        detector: detector of one class.
        files: paths of the images relative to ``root``.
        root: folder of the images.
        output: gets a heatmap for each file, at the file's own path.
        threshold: image threshold; None takes the calibrated one.
        batch_size: affects only speed and memory.
        world: this process.

    Raises:
        UserError: if a heatmap cannot be written, or the network gives NaN.
    """
    step = batch_size * world.size
    with ThreadPoolExecutor(batch_size) as pool:
        for start in range(0, len(files), step):
            part = files[start : start + step]
            mine = part[world.rank :: world.size]
            found = list(_predict_batch(detector, mine, root, output, threshold=threshold, pool=pool))
            shares = distributed.gather(found)
            yield from (shares[i % len(shares)][i // len(shares)] for i in range(len(part)))


def write_predictions(found: Iterable[FileVerdict | LeftOut], output: Path, world: World) -> Summary:
    """Write ``predictions.csv`` row by row as the verdicts come, on the main process, and count them.

    Raises:
        UserError: if it cannot be written.
    """
    verdicts: Counter[str | None] = Counter()
    left_out: list[LeftOut] = []
    with _table(output) if world.is_main else nullcontext() as table:
        for one in found:
            if isinstance(one, LeftOut):
                left_out.append(one)
                continue
            verdicts[one.verdict] += 1
            if table is not None:
                table.writerow(asdict(one))
    return Summary(verdicts, left_out)


@contextmanager
def _table(folder: Path) -> Iterator["csv.DictWriter[str]"]:
    path = folder / PREDICTIONS
    with refusing(path):
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="", buffering=1) as file:
            table = csv.DictWriter(file, [field.name for field in fields(FileVerdict)], lineterminator="\n")
            table.writeheader()
            yield table


def _predict_batch(
    detector: Detector,
    files: Sequence[str],
    root: Path,
    output: Path,
    *,
    threshold: float | None,
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
            write_image(output / heatmap_name(image.file), _picture(detector, image.image, prediction))
        except UserError as error:
            if getattr(error.__cause__, "errno", None) not in UNFIT_NAME:
                raise
            return LeftOut(image.file, str(error))
        seconds += time.perf_counter() - start
        return FileVerdict(image.file, prediction.image_score, prediction.threshold, prediction.verdict, seconds)

    scored = [score(found) for found in pool.map(read, files)]
    yield from pool.map(draw, scored)


def _picture(detector: Detector, image: Image, prediction: Prediction) -> Image:
    calibration = detector.calibration
    pixel_threshold, scale = (calibration.pixel_threshold, calibration.display_scale) if calibration else (None, 1.0)
    return heatmap_panel(
        image,
        prediction.anomaly_map,
        display=Display(prediction.threshold, pixel_threshold, scale),
        size=display_size(image.shape[:2], smallest=SMALLEST_SIDE, largest=LARGEST_SIDE),
        title=verdict_title(prediction.image_score, prediction.threshold),
    )
