"""What a prediction writes: pictures of each image, ``predictions.csv``, ``predictions.jsonl``, and the page."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
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
from realnet.prediction.videos import frame_name, is_video
from realnet.runtime.distributed import World
from realnet.runtime.files import refusing

Kind = Literal["page", "heatmaps", "masks", "maps", "overlays"]
"""What can be written beside the verdicts: the page of all images; and of each image the photograph beside its heatmap,
the defects' pixels as PNG (0 and 255), the anomaly map as NPY (float32), and the heatmap over the photograph as PNG.
Heatmaps lie in the output folder, the other pictures in a folder of their name."""
DEFAULT: tuple[Kind, ...] = ("page", "heatmaps")
PREDICTIONS, REGIONS, PAGE = "predictions.csv", "predictions.jsonl", "predictions.html"
RESULTS = (PREDICTIONS, REGIONS, PAGE)
COLUMNS = ("file", "image_score", "threshold", "verdict", "seconds")
HEADER = f"{','.join(COLUMNS)}\n".encode()
DETECTOR = ".detector"
"""Name of the file that says whose verdicts an output folder holds: the checksum of the detector and, in a line of its
own, the folder of the photographs, which version 1.0 did not keep."""
LARGEST_SIDE = 1024
"""Longer side (px) that larger heatmaps are shrunk to."""


@dataclass(frozen=True)
class FileVerdict:
    """The result of an image: a row of ``predictions.csv`` and a line of ``predictions.jsonl``.

    Attributes:
        file: path relative to the folder of the images.
        values: as :meth:`Prediction.as_dict`.
        seconds: the time to read, score and draw this image.
        entry: its element of the page; "" without a page.
    """

    file: str
    values: Mapping[str, Any]
    seconds: float
    entry: str

    @property
    def verdict(self) -> str | None:
        """Return the verdict; None without a threshold."""
        return self.values["verdict"]


@dataclass(frozen=True)
class Summary:
    """The number of images per verdict (None: there is no threshold), and the files that could not be judged."""

    verdicts: Mapping[str | None, int]
    left_out: Sequence[LeftOut]


def targets(file: str, kinds: Collection[Kind]) -> dict[Kind, Path]:
    """Return where the pictures of an image go, relative to the output folder."""
    name = Path(heatmap_name(file))
    return {
        kind: name if kind == "heatmaps" else Path(kind) / (name.with_suffix(".npy") if kind == "maps" else name)
        for kind in kinds
        if kind != "page"
    }


def among_others(file: str, kinds: Collection[Kind]) -> str | None:
    """Return the kind of picture among which an image's heatmap would lie, and replace it; None if there is none."""
    first, *others = Path(file).parts
    is_one = "heatmaps" in kinds and others and first in {*kinds} - {"page", "heatmaps"}
    return first if is_one else None


def protect_files(root: Path, files: Sequence[str], output: Path, kinds: Collection[Kind] = DEFAULT) -> None:
    """Check that pictures replace nothing but the pictures of an earlier prediction, nor each other.

    Args:
        root: folder of the images.
        files: paths of the images relative to ``root``.
        output: folder of the pictures; if it is one of predictions, an earlier one wrote its pictures.
        kinds: what is written of each image.

    Raises:
        UserError: if ``output`` is the images' own folder, or verdicts or a picture would replace another file.
    """
    if output.resolve() == root.resolve():
        raise UserError(f"--output {output} is the folder of the images; give heatmaps a folder of their own")
    inputs = {_identity(root / file) for file in files}
    is_own = holds_predictions(output)
    paths = [output / target for file in files for target in _all_targets(file, output, kinds)]
    foreign = [] if is_own else [str(output / name) for name in RESULTS if (output / name).is_file()]
    if foreign:
        raise UserError(f"verdicts would replace {foreign[0]}, which no prediction wrote; give another --output")
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


def holds_predictions(output: Path) -> bool:
    """Tell whether a folder holds the verdicts of a prediction, perhaps none yet if it says whose they will be."""
    try:
        with (output / PREDICTIONS).open("rb") as file:
            begun = file.read(len(HEADER))
    except OSError:
        return False
    return begun == HEADER or (HEADER.startswith(begun) and (output / DETECTOR).is_file())


def _all_targets(file: str, output: Path, kinds: Collection[Kind]) -> list[Path]:
    """Return the pictures of a photograph; of a video, those in the output folder that its frames may replace."""
    if not is_video(file):
        return list(targets(file, kinds).values())
    firsts = targets(frame_name(file, 0), kinds).values()
    places = [(first.parent, first.name.replace("#000000", "#*").replace("[", "[[]")) for first in firsts]
    return [place / path.name for place, pattern in places for path in (output / place).glob(pattern)]


def _identity(path: Path) -> tuple[int, int] | None:
    """Return the device and inode of a file, which are the same under all its names; None if it does not exist."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def write_pictures(prediction: Prediction, image: Image, file: str, output: Path, kinds: Collection[Kind]) -> None:
    """Write pictures of an image under ``output``.

    Raises:
        UserError: if one cannot be written.
    """
    for kind, target in targets(file, kinds).items():
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


def write_predictions(
    found: Iterable[FileVerdict | LeftOut],
    output: Path,
    world: World,
    *,
    page: str | None = None,
    resume: bool = False,
) -> Summary:
    """Write the files line by line as the verdicts come, on the main process, and count them.

    Args:
        found: the verdicts.
        output: folder of the files.
        world: this process.
        page: start of the page; None writes none.
        resume: adds to the files that are there.

    Raises:
        UserError: if they cannot be written.
    """
    verdicts: Counter[str | None] = Counter()
    left_out: dict[str, LeftOut] = {}
    with _writer(output, page, resume) if world.is_main else nullcontext(_discard) as write:
        for one in found:
            if isinstance(one, LeftOut):
                left_out[one.file] = one
            else:
                left_out.pop(one.file, None)  # it could not be read at first
                verdicts[one.verdict] += 1
                write(one)
    return Summary(verdicts, list(left_out.values()))


@contextmanager
def _writer(folder: Path, page: str | None, resume: bool) -> Iterator[Callable[[FileVerdict], None]]:
    """Open the files of a prediction, and yield what adds a verdict to each."""
    with ExitStack() as opened:
        lines, table = (opened.enter_context(_opened(folder / name, resume)) for name in (REGIONS, PREDICTIONS))
        rows = csv.DictWriter(table, COLUMNS, lineterminator="\n")
        if table.tell() == 0:
            rows.writeheader()
        entries = None
        if page is not None:
            entries = opened.enter_context(_opened(folder / PAGE, resume))
            if entries.tell() == 0:
                entries.write(page)

        def write(one: FileVerdict) -> None:
            values = {"file": one.file, **one.values, "seconds": one.seconds}
            if entries is not None:
                entries.write(one.entry)
            lines.write(f"{json.dumps({**values, 'file': printable(one.file)})}\n")
            rows.writerow({name: values[name] for name in COLUMNS})

        yield write


def _discard(_: FileVerdict) -> None:
    """Write nothing: the main process writes."""


@contextmanager
def _opened(path: Path, resume: bool) -> Iterator[TextIO]:
    with refusing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open(
            "a" if resume else "w", encoding="utf-8", errors="backslashreplace", newline="", buffering=1
        ) as file:
            yield file
