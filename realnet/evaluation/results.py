"""The results of an evaluation as files: ``metrics.json`` of each class; the dataset's, with ``metrics.csv``."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict

from realnet.config import paths
from realnet.data.registry import UNIFIED
from realnet.detection.calibration import Calibration
from realnet.detection.checkpoints import PROTOCOLS, REFERENCES, Protocol, Subject
from realnet.drawing.heatmaps import Display
from realnet.errors import printable
from realnet.evaluation.scores import METRICS, Metric, mean_over_classes
from realnet.runtime.contents import checksums
from realnet.runtime.files import whole_file

Source = Literal["calibrated", "test labels"]
"""Where a threshold comes from."""
GIVEN_POOL = "given score_pool"
"""Name of the setting that is there where the evaluation, not the detector, says the score pool."""
METRICS_JSON, METRICS_CSV, REPORT = "metrics.json", "metrics.csv", "report.html"

Drawn = tuple[tuple[float, ...], tuple[float, ...]]
"""x and y of a curve, thinned for drawing."""
Name = Annotated[str, AfterValidator(printable)]
"""A name that JSON can hold."""


def _inside(name: str) -> str:
    if not paths.is_inside(name):
        raise ValueError("must be a relative path inside the image root")
    return name


class JsonPart(BaseModel):
    """A part of ``metrics.json``; the scores of a diverged network are written as "NaN"."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class ImageResult(JsonPart):
    """A test image: its file (relative to the image root), its kind, the truth, and its score."""

    filename: Annotated[Name, AfterValidator(_inside)]
    kind: Name
    is_defect: bool
    score: float


class Verdicts(JsonPart):
    """The verdicts of an image threshold on the test split, and the best that any threshold could give.

    Attributes:
        threshold: a score at or above it is a defect.
        source: where the threshold comes from; "test labels" means the best F1 on the test split.
        missed: number of defect images below the threshold.
        false_alarms: number of normal images at or above the threshold.
        f1: F1 at the threshold; None if the split has no normal or no defect images.
        best_f1: F1 at ``best_threshold``; None as for ``f1``.
        best_threshold: the threshold that the test labels show to be best; None as for ``f1``.
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
        checkpoint: path of the checkpoint.
        modified_ns: when the file was last modified.
        checksum: of the file's content; another one makes these results outdated. "" in results of version 1.0, which
            the time makes outdated.
        step: training step; None if the file does not say.
        metrics: metrics by name.
        calibration: the calibration stored in the file; None if there is none.
        display: the thresholds and the colour scale.
        threshold_note: where the thresholds come from.
        verdicts: the verdicts; None if there is no threshold.
        images: the test images, in the order of the test split.
        curves: ``image_roc``, ``pixel_roc`` and ``pro``, if they could be computed.
        fpr_limit: false positive rate at which ``pro`` ends.
        made_with: what detectors of several seeds have in common (:mod:`comparison`); empty for references.
        chosen: what the detector chose by itself.
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
    checksum: str = ""
    made_with: dict[str, str] = {}
    chosen: dict[str, str] = {}


class ClassResult(JsonPart):
    """A class's results; the report shows the images of the first checkpoint.

    Attributes:
        dataset: name of the dataset.
        class_name: name of the class.
        made: date and time of the evaluation.
        notes: what a reader must know to judge the numbers.
        checkpoints: results of the checkpoints, at most one per protocol.
        settings: settings of scores and metrics; results with other settings are not compared.
        inputs: digest of the files and settings that the results depend on; "" if it was not taken.
        seed: of the detector, where there are several of the class; None for the class's own.
        is_unified: whether the detector is that of all classes.
    """

    dataset: str
    class_name: str
    made: str
    notes: tuple[str, ...]
    checkpoints: tuple[CheckpointResult, ...]
    settings: dict[str, float | str | None]
    inputs: str = ""
    seed: int | None = None
    is_unified: bool = False

    @property
    def subject(self) -> Subject:
        """Return the class and which of its detectors these are the results of."""
        return Subject(self.class_name, self.seed, self.is_unified)

    def pictured(self) -> list[Protocol]:
        """Return the protocols that have heatmaps: those of checkpoints, or else of references."""
        found = [one.protocol for one in self.checkpoints]
        return [protocol for protocol in found if protocol not in REFERENCES] or found

    def of(self, protocol: Protocol) -> CheckpointResult | None:
        """Return the results of a protocol; None if there are none."""
        return next((one for one in self.checkpoints if one.protocol == protocol), None)


class UnifiedResult(JsonPart):
    """The metrics of the unified detector: the means, and those of each class."""

    mean: dict[Protocol, dict[str, Metric]]
    classes: dict[str, dict[Protocol, dict[str, Metric]]]


class DatasetResult(JsonPart):
    """``metrics.json`` of a dataset: the means, and the metrics of each class, by its own detector."""

    dataset: str
    mean: dict[Protocol, dict[str, Metric]]
    classes: dict[str, dict[Protocol, dict[str, Metric]]]
    unified: UnifiedResult | None = None


def apart(results: Sequence[ClassResult]) -> tuple[list[ClassResult], list[ClassResult]]:
    """Return the results of the classes' own detectors, and those of the unified one."""
    return [one for one in results if not one.is_unified], [one for one in results if one.is_unified]


def means(results: Sequence[ClassResult]) -> dict[Protocol, dict[str, Metric]]:
    """Return, for each protocol with results, the mean of each metric over the classes."""
    found = {protocol: [one.metrics for result in results if (one := result.of(protocol))] for protocol in PROTOCOLS}
    return {protocol: mean_over_classes(metrics) for protocol, metrics in found.items() if metrics}


def results_folder(dataset: str, subject: Subject, part: Literal["given", "references"] | None = None) -> Path:
    """Return the folder of a class's results; a checkpoint given by hand, or references alone, get one inside it."""
    folder = paths.output(dataset, "realnet", "vis") / subject.place
    return folder / part if part else folder


def write_class(folder: Path, result: ClassResult) -> None:
    """Write a class's ``metrics.json``.

    Raises:
        UserError: if it cannot be written.
    """
    with whole_file(folder / METRICS_JSON) as file:
        file.write(result.model_dump_json(indent=1))


def read_class(folder: Path) -> ClassResult | None:
    """Read a class's ``metrics.json``.

    Returns:
        The results; None if there are none, if another version wrote them, or if a checkpoint has changed since.
    """
    result = read_earlier(folder)
    return result if result and all(_is_current(one, folder) for one in result.checkpoints) else None


def read_earlier(folder: Path) -> ClassResult | None:
    """Read a class's ``metrics.json``, even if checkpoints have changed; None if missing or of another version."""
    try:
        return ClassResult.model_validate_json((folder / METRICS_JSON).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not JSON, or not of this form
        return None


def collect(dataset: str, wanted: Sequence[Subject], made: Sequence[ClassResult]) -> list[ClassResult]:
    """Return the results just made and, for the others that are wanted, earlier results that still hold.

    Earlier results hold if their checkpoints have not changed and their :func:`common_settings` are the same.
    """
    known = {result.subject: result for result in made}
    found = [known.get(one) or read_class(results_folder(dataset, one)) for one in wanted]
    common = common_settings(made[0])
    return [result for result in found if result is not None and common_settings(result) == common]


def common_settings(result: ClassResult) -> dict[str, float | str | None]:
    """Return the settings that results which are compared share; a score pool that was not given is the detector's."""
    own = () if result.settings.get(GIVEN_POOL) else ("score_pool",)
    return {name: value for name, value in result.settings.items() if name not in own}


def write_dataset(folder: Path, results: Sequence[ClassResult]) -> None:
    """Write a dataset's ``metrics.json`` and ``metrics.csv``: a line per class and protocol, then the means.

    Raises:
        UserError: if they cannot be written.
    """
    own, unified = apart(results)
    found = UnifiedResult(mean=means(unified), classes=_by_class(unified)) if unified else None
    summary = DatasetResult(dataset=results[0].dataset, mean=means(own), classes=_by_class(own), unified=found)
    with whole_file(folder / METRICS_JSON) as file:
        file.write(summary.model_dump_json(indent=1, exclude=None if unified else {"unified"}))
    with whole_file(folder / METRICS_CSV) as file:
        table = csv.writer(file, lineterminator="\n")
        judged = ["threshold", "threshold_source", "missed", "false_alarms"]
        table.writerow(["class", "protocol", "checkpoint", "step", *METRICS, *judged])
        for name, group in (("mean", own), (f"{UNIFIED}/mean", unified)):
            table.writerows(
                _line(str(one.subject.place), checkpoint) for one in group for checkpoint in one.checkpoints
            )
            table.writerows([name, protocol, "", "", *_numbers(mean)] for protocol, mean in means(group).items())


def _by_class(results: Sequence[ClassResult]) -> dict[str, dict[Protocol, dict[str, Metric]]]:
    return {one.class_name: {c.protocol: c.metrics for c in one.checkpoints} for one in results}


def _line(name: str, result: CheckpointResult) -> list[object]:
    verdicts = result.verdicts
    judged: list[object] = []
    if verdicts is not None:
        judged = [f"{verdicts.threshold:.6g}", verdicts.source, verdicts.missed, verdicts.false_alarms]
    return [name, result.protocol, result.checkpoint, result.step, *_numbers(result.metrics), *judged]


def _numbers(metrics: Mapping[str, Metric]) -> list[str]:
    values = [metrics[name].value for name in METRICS]
    return ["" if value is None else f"{value:.6f}" for value in values]


def _is_current(result: CheckpointResult, folder: Path) -> bool:
    if result.protocol in REFERENCES:
        return True
    path = Path(result.checkpoint)
    if result.checksum:
        return checksums([path], folder) == [result.checksum]
    return path.is_file() and path.stat().st_mtime_ns == result.modified_ns
