"""What an evaluation found out, as files: ``metrics.json`` of each class, and of the dataset with ``metrics.csv``."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from realnet.config import paths
from realnet.detection.calibration import Calibration
from realnet.detection.checkpoints import REFERENCES, Protocol
from realnet.drawing.heatmaps import Display
from realnet.errors import printable
from realnet.evaluation.scores import METRICS, Metric
from realnet.runtime.files import whole_file

Source = Literal["calibrated", "test labels"]
"""Where a threshold comes from."""
METRICS_JSON, METRICS_CSV, REPORT = "metrics.json", "metrics.csv", "report.html"

Drawn = tuple[tuple[float, ...], tuple[float, ...]]
"""x and y of a curve that is thinned for drawing."""
Name = Annotated[str, AfterValidator(printable)]
"""Of a file, as JSON can hold it."""


class JsonPart(BaseModel):
    """A part of ``metrics.json``; the scores of a network that diverged are written as "NaN"."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class ImageResult(JsonPart):
    """A test image: its file (relative to the image root), its kind, the truth, and its score."""

    filename: Name
    kind: Name
    is_defect: bool
    score: float


class Verdicts(JsonPart):
    """What an image threshold makes of the test split, beside the best that any threshold could.

    Attributes:
        threshold: a score at or above it is a defect.
        source: of the threshold; the best F1 on the test split where it is the test labels.
        missed: defect images below it.
        false_alarms: normal images at or above it.
        f1: at the threshold; None where only one of normal and defect is there.
        best_f1: at ``best_threshold``, which the test labels give; None likewise.
        best_threshold: None likewise.
    """

    threshold: float
    source: Source
    missed: int
    false_alarms: int
    f1: float | None
    best_f1: float | None
    best_threshold: float | None


class CheckpointResult(JsonPart):
    """One checkpoint's results on a class's test split.

    Attributes:
        protocol: how the checkpoint was chosen.
        checkpoint: its path.
        modified_ns: when the file was written, which tells whether these results are still its own.
        step: of training; None where the file does not say.
        metrics: by name.
        calibration: as stored in the file; None where it holds none.
        display: the thresholds and the scale of the pictures.
        threshold_note: where those come from.
        verdicts: None where there is no threshold.
        images: in the order of the test split.
        curves: ``image_roc``, ``pixel_roc`` and ``pro``, those that there are.
        fpr_limit: where ``pro`` ends.
    """

    protocol: Protocol
    checkpoint: str
    modified_ns: int
    step: int | None
    metrics: dict[str, Metric]
    calibration: Calibration | None
    display: Display
    threshold_note: str
    verdicts: Verdicts | None
    images: tuple[ImageResult, ...]
    curves: dict[Literal["image_roc", "pixel_roc", "pro"], Drawn]
    fpr_limit: float


class ClassResult(JsonPart):
    """A class's results; the first checkpoint's are pictured in the report.

    Attributes:
        dataset: its name.
        class_name: likewise.
        made: date and time.
        notes: what a reader must know to judge the numbers.
        checkpoints: one of each protocol at most.
        settings: of scores and metrics; classes of others are not compared.
        inputs: digest of the files and settings that the results come from; empty where it was not taken.
    """

    dataset: str
    class_name: str
    made: str
    notes: tuple[str, ...]
    checkpoints: tuple[CheckpointResult, ...]
    settings: dict[str, float | str | None]
    inputs: str = ""

    def pictured(self) -> list[Protocol]:
        """Return what has heatmaps: the checkpoints, or where there are none the references."""
        found = [one.protocol for one in self.checkpoints]
        return [protocol for protocol in found if protocol not in REFERENCES] or found

    def of(self, protocol: Protocol) -> CheckpointResult | None:
        """Return the results by a protocol, if there are any."""
        return next((one for one in self.checkpoints if one.protocol == protocol), None)


class DatasetResult(JsonPart):
    """``metrics.json`` of a dataset: the means, and every class's results without its images and curves."""

    dataset: str
    mean: dict[Protocol, dict[str, Metric]]
    classes: dict[str, dict[Protocol, dict[str, Metric]]]


def write_class(folder: Path, result: ClassResult) -> None:
    """Write a class's ``metrics.json``.

    Raises:
        UserError: where it cannot be written.
    """
    with whole_file(folder / METRICS_JSON) as file:
        file.write(result.model_dump_json(indent=1))


def read_class(folder: Path) -> ClassResult | None:
    """Read a class's ``metrics.json``; None where there is none, or one of another version or other weights.

    Results whose checkpoint was written anew since are not what that checkpoint would give.
    """
    result = read_earlier(folder)
    return result if result and all(map(_is_current, result.checkpoints)) else None


def read_earlier(folder: Path) -> ClassResult | None:
    """Read a class's ``metrics.json``, by whatever weights; None where there is none, or one of another version."""
    try:
        return ClassResult.model_validate_json((folder / METRICS_JSON).read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None


def collect(dataset: str, classes: Sequence[str], made: Sequence[ClassResult]) -> list[ClassResult]:
    """Return the results just made and, of the other classes, those of earlier commands that are still current.

    Only those by the same settings count.
    """
    known = {result.class_name: result for result in made}
    found = [known.get(name) or read_class(paths.output(dataset, "realnet", "vis", name)) for name in classes]
    return [result for result in found if result is not None and result.settings == made[0].settings]


def write_dataset(folder: Path, results: Sequence[ClassResult], means: Mapping[Protocol, dict[str, Metric]]) -> None:
    """Write a dataset's ``metrics.json`` and ``metrics.csv``, a line for each class and protocol, then the means.

    Raises:
        UserError: where they cannot be written.
    """
    classes = {one.class_name: {c.protocol: c.metrics for c in one.checkpoints} for one in results}
    summary = DatasetResult(dataset=results[0].dataset, mean=dict(means), classes=classes)
    with whole_file(folder / METRICS_JSON) as file:
        file.write(summary.model_dump_json(indent=1))
    with whole_file(folder / METRICS_CSV) as file:
        table = csv.writer(file, lineterminator="\n")
        judged = ["threshold", "threshold_source", "missed", "false_alarms"]
        table.writerow(["class", "protocol", "checkpoint", "step", *METRICS, *judged])
        table.writerows(_line(one.class_name, checkpoint) for one in results for checkpoint in one.checkpoints)
        table.writerows(["mean", protocol, "", "", *_numbers(mean)] for protocol, mean in means.items())


def _line(class_name: str, result: CheckpointResult) -> list[object]:
    verdicts = result.verdicts
    judged: list[object] = []
    if verdicts is not None:
        judged = [f"{verdicts.threshold:.6g}", verdicts.source, verdicts.missed, verdicts.false_alarms]
    return [class_name, result.protocol, result.checkpoint, result.step, *_numbers(result.metrics), *judged]


def _numbers(metrics: Mapping[str, Metric]) -> list[str]:
    values = [metrics[name].value for name in METRICS]
    return ["" if value is None else f"{value:.6f}" for value in values]


def _is_current(result: CheckpointResult) -> bool:
    if result.protocol in REFERENCES:
        return True
    path = Path(result.checkpoint)
    return path.is_file() and path.stat().st_mtime_ns == result.modified_ns
