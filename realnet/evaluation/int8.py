"""Export a detector in 8 bits, and measure what this changes (docs/bundle.md, int8)."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from realnet.data.images import Image, read_image, resize_image
from realnet.data.order import spread
from realnet.data.registry import OpenDataset
from realnet.data.tiles import tiling_of
from realnet.detection.calibration import Calibration
from realnet.detection.detector import Detector
from realnet.detection.export import export_network
from realnet.detection.quantisation import add_to_description, write_int8
from realnet.detection.timing import timed
from realnet.errors import UserError
from realnet.evaluation.run import TestSplits
from realnet.evaluation.scores import ClassScores, curves_of, mean_over_classes, scores_of, summarise
from realnet.evaluation.split import TestSplit
from realnet.runtime.distributed import World
from realnet.runtime.files import refusing, scratch

NUM_CALIBRATION = 128
METRICS = {"image_auroc": "image AUROC", "aupro": "AUPRO"}


@dataclass(frozen=True)
class Int8Change:
    """What 8 bits change of a detector over the test images.

    Attributes:
        calibrated_on: number of training images.
        num_images: number of test images.
        float32, int8: the metrics of both, the mean over classes; None where they are undefined.
        largest_score, median_score: by how much image scores differ.
        largest_map, median_map: by how much maps differ at most, over all images and in the median one.
        changed_verdicts: how many; None without a threshold.
        milliseconds: of an image, in float32 and in int8.
    """

    calibrated_on: int
    num_images: int
    float32: Mapping[str, float | None]
    int8: Mapping[str, float | None]
    largest_score: float
    median_score: float
    largest_map: float
    median_map: float
    changed_verdicts: int | None
    milliseconds: tuple[float, float]

    def lines(self) -> list[str]:
        """Return the change as text for people."""
        metrics = ", ".join(
            f"{title} {_shown(self.float32[name])} → {_shown(self.int8[name])}" for name, title in METRICS.items()
        )
        verdicts = "" if self.changed_verdicts is None else f"; {self.changed_verdicts} verdicts changed"
        return [
            f"{metrics}, over {self.num_images} test images",
            f"scores moved by up to {self.largest_score:.4f} (median {self.median_score:.4f}){verdicts}",
            f"maps moved by up to {self.largest_map:.4f} (median image {self.median_map:.4f})",
            f"an image takes {self.milliseconds[1]:.0f} ms instead of {self.milliseconds[0]:.0f} ms",
        ]


def export_int8(
    detector: Detector, path: Path, dataset: OpenDataset, *, images: Sequence[Image], world: World
) -> Int8Change:
    """Write a detector for OpenVINO with convolutions in 8 bits, calibrated on the dataset's training images.

    Its metrics on the test images, and those of the same network in float32, become part of the file's description.

    Args:
        detector: as for :func:`export_network`; of a class of the dataset, or of all.
        path: ``.xml``, which gets a ``.bin`` beside it.
        dataset: the one that the detector was trained on.
        images: photographs to compare float32 with torch on.
        world: this process.

    Raises:
        UserError: as :func:`export_network`; if NNCF is not installed, there are no test images, or images cannot be
            used.
    """
    classes = dataset.classes_of(detector.class_name or "")
    alone = detector.config.runtime.model_copy(update={"num_workers": 0})  # a runtime's threads survive no fork
    config = detector.config.model_copy(update={"runtime": alone})
    splits = [TestSplits(dataset, name, config, world).at(config.image_size) for name in classes]
    if not any(len(split) for split in splits):
        raise UserError(f"{dataset.name} has no test images, on which int8 is compared with float32; leave --int8 out")
    training = _training_images(detector, dataset, classes)
    with refusing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            exact, rounded, made = (Path(folder, name, path.name) for name in ("float32", "int8", "described"))
            for place in (rounded, made):
                place.parent.mkdir()
            export_network(detector, exact, images=images)
            write_int8(exact, rounded, training)
            change = _compare(Detector.load(exact), Detector.load(rounded), splits, len(training), training[:1])
            add_to_description(rounded, made, {"int8": asdict(change)})
            for file in sorted(made.parent.iterdir()):  # the weights before the network that names them
                file.replace(path.parent / file.name)
    return change


def _training_images(detector: Detector, dataset: OpenDataset, classes: Sequence[str]) -> list[Image]:
    """Return training images, evenly spaced, as the network takes them; of tiles, one of each photograph."""
    tiling = tiling_of(detector.config)
    names = [entry.filename for name in classes for entry in dataset.index(name, write=False).train]
    chosen = spread(len(names), min(NUM_CALIBRATION, len(names)))
    found = []
    for number, place in enumerate(chosen):
        photograph = read_image(dataset.image_root / names[place], detector.image_bits)
        image = resize_image(photograph, detector.config.image_size)
        found.append(tiling.cut(image, tiling.corners[number % len(tiling)]) if tiling else image)
    return found


def _compare(
    exact: Detector, rounded: Detector, splits: Sequence[TestSplit], calibrated_on: int, example: Sequence[Image]
) -> Int8Change:
    pairs = [(_scores(exact, split, "float32"), _scores(rounded, split, "int8")) for split in splits if len(split)]
    moved = np.concatenate([np.abs(one.image_scores - other.image_scores) for one, other in pairs])
    apart = np.concatenate([np.abs(one.anomaly_maps - other.anomaly_maps).max(axis=(1, 2)) for one, other in pairs])
    limit, pool = exact.config.evaluation.aupro_fpr_limit, exact.config.evaluation.pool
    metrics = [
        mean_over_classes([summarise(curves_of(scores), fpr_limit=limit) for scores in of_one])
        for of_one in zip(*pairs, strict=True)
    ]
    float32, int8 = ({name: of_one[name].value for name in METRICS} for of_one in metrics)
    one_ms, other_ms = (1e3 * timed(partial(one.runtime.judge, example, pool)) for one in (exact, rounded))
    return Int8Change(
        calibrated_on=calibrated_on,
        num_images=len(moved),
        float32=float32,
        int8=int8,
        largest_score=float(moved.max()),
        median_score=float(np.median(moved)),
        largest_map=float(apart.max()),
        median_map=float(np.median(apart)),
        changed_verdicts=_changed_verdicts(pairs, exact.calibration),
        milliseconds=(one_ms, other_ms),
    )


def _changed_verdicts(pairs: Sequence[tuple[ClassScores, ClassScores]], calibration: Calibration | None) -> int | None:
    if calibration is None:
        return None
    limit = calibration.image_threshold
    return sum(
        int(np.count_nonzero((one.image_scores >= limit) != (other.image_scores >= limit))) for one, other in pairs
    )


def _scores(detector: Detector, split: TestSplit, description: str) -> ClassScores:
    maps, scores = scratch((split.num_own, *split.image_size), np.float32), np.zeros(split.num_own)
    for number, image in split.photographs(description):
        maps[number], scores[number], _ = detector.judge(image)
    return scores_of(split, maps, scores, resolution=detector.config.evaluation.resolution)


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
