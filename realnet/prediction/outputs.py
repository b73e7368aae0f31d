"""What a prediction writes: pictures of each image, ``predictions.csv`` and ``predictions.jsonl``."""

import csv
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np

from realnet.data.images import Image, write_image
from realnet.detection.detector import Prediction
from realnet.drawing.heatmaps import Display
from realnet.drawing.panels import SMALLEST_SIDE, display_size, heatmap_name, heatmap_panel, verdict_title
from realnet.errors import UserError, printable
from realnet.prediction.inputs import LeftOut
from realnet.runtime.distributed import World
from realnet.runtime.files import refusing

Picture = Literal["heatmaps", "masks", "maps", "overlays"]
PICTURES: Mapping[Picture, str] = {
    "heatmaps": "the photograph beside its heatmap",
    "masks": "the defects' pixels as PNG, 0 and 255",
    "maps": "the anomaly map as NPY, float32",
    "overlays": "the heatmap over the photograph, at its size, as PNG",
}
"""What can be written of each image; heatmaps lie in the output folder, the others in a folder of their name."""
DEFAULT: tuple[Picture, ...] = ("heatmaps",)
PREDICTIONS, REGIONS = "predictions.csv", "predictions.jsonl"
COLUMNS = ("file", "image_score", "threshold", "verdict", "seconds")
LARGEST_SIDE = 1024
"""Longer side (px) that larger heatmaps are shrunk to."""


@dataclass(frozen=True)
class FileVerdict:
    """The result of an image: a row of ``predictions.csv`` and a line of ``predictions.jsonl``.

    Attributes:
        file: path relative to the folder of the images.
        values: as :meth:`Prediction.as_dict`.
        seconds: the time to read, score and draw this image.
    """

    file: str
    values: Mapping[str, Any]
    seconds: float

    @property
    def verdict(self) -> str | None:
        """Return the verdict; None without a threshold."""
        return self.values["verdict"]


@dataclass(frozen=True)
class Summary:
    """The number of images per verdict (None: there is no threshold), and the files that could not be judged."""

    verdicts: Mapping[str | None, int]
    left_out: Sequence[LeftOut]


def targets(file: str, pictures: Collection[Picture]) -> dict[Picture, Path]:
    """Return where the pictures of an image go, relative to the output folder."""
    name = Path(heatmap_name(file))
    return {
        kind: name if kind == "heatmaps" else Path(kind) / (name.with_suffix(".npy") if kind == "maps" else name)
        for kind in pictures
    }


def protect_files(root: Path, files: Sequence[str], output: Path, pictures: Collection[Picture] = DEFAULT) -> None:
    """Check that pictures replace nothing but the pictures of an earlier prediction, nor each other.

    Args:
        root: folder of the images.
        files: paths of the images relative to ``root``.
        output: folder of the pictures; if it holds ``predictions.csv``, an earlier prediction wrote its files.
        pictures: what is written of each image.

    Raises:
        UserError: if ``output`` is the images' own folder, or a picture would replace another file.
    """
    if output.resolve() == root.resolve():
        raise UserError(f"--output {output} is the folder of the images; give heatmaps a folder of their own")
    inputs = {_identity(root / file) for file in files}
    is_own = (output / PREDICTIONS).is_file()
    paths = [output / target for file in files for target in targets(file, pictures).values()]
    found = ((path, _identity(path)) for path in paths)
    lost = [str(path) for path, identity in found if identity is not None and (identity in inputs or not is_own)]
    if lost:
        raise UserError(
            f"heatmaps would replace {len(lost)} files that no earlier prediction wrote, such as {lost[0]}; give "
            "another --output"
        )
    twice = [str(path) for path, number in Counter(paths).items() if number > 1]
    if twice:
        raise UserError(f"two pictures would be {twice[0]}: rename the folder of photographs, or --save fewer kinds")


def _identity(path: Path) -> tuple[int, int] | None:
    """Return the device and inode of a file, which are the same under all its names; None if it does not exist."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def write_pictures(
    prediction: Prediction, image: Image, file: str, output: Path, pictures: Collection[Picture]
) -> None:
    """Write pictures of an image under ``output``.

    Raises:
        UserError: if one cannot be written.
    """
    for kind, target in targets(file, pictures).items():
        path = output / target
        match kind:
            case "heatmaps":
                write_image(path, _panel(image, prediction))
            case "masks":
                write_image(path, prediction.mask)
            case "overlays":
                write_image(path, prediction.overlay())
            case "maps":
                with refusing(path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with path.open("wb") as opened:
                        np.save(opened, prediction.anomaly_map)


def _panel(image: Image, prediction: Prediction) -> Image:
    return heatmap_panel(
        image,
        prediction.anomaly_map,
        display=Display(prediction.threshold, prediction.pixel_threshold, prediction.display_scale),
        size=display_size(image.shape[:2], smallest=SMALLEST_SIDE, largest=LARGEST_SIDE),
        title=verdict_title(prediction.image_score, prediction.threshold),
    )


def write_predictions(found: Iterable[FileVerdict | LeftOut], output: Path, world: World) -> Summary:
    """Write both files line by line as the verdicts come, on the main process, and count them.

    Raises:
        UserError: if they cannot be written.
    """
    verdicts: Counter[str | None] = Counter()
    left_out: list[LeftOut] = []
    with _tables(output) if world.is_main else nullcontext() as tables:
        for one in found:
            if isinstance(one, LeftOut):
                left_out.append(one)
                continue
            verdicts[one.verdict] += 1
            if tables is not None:
                rows, lines = tables
                values = {"file": one.file, **one.values, "seconds": one.seconds}
                rows.writerow({name: values[name] for name in COLUMNS})
                lines.write(f"{json.dumps({**values, 'file': printable(one.file)})}\n")
    return Summary(verdicts, left_out)


@contextmanager
def _tables(folder: Path) -> Iterator[tuple["csv.DictWriter[str]", TextIO]]:
    with _opened(folder / REGIONS) as lines, _opened(folder / PREDICTIONS) as table:
        rows = csv.DictWriter(table, COLUMNS, lineterminator="\n")
        rows.writeheader()
        yield rows, lines


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    with refusing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="", buffering=1) as file:
            yield file
