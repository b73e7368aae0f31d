"""Model cards: what a detector was made of, how it was tested, and what it cannot do, for people and for machines."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from realnet.config import RealNetConfig, paths
from realnet.config.scoring import TilesConfig
from realnet.detection.calibration import FEWEST_HELD_OUT
from realnet.detection.loading import config_of
from realnet.detection.one_class import STATISTICS
from realnet.metrics.intervals import Rate, auroc_interval, percent
from realnet.models.checkpoint import Checkpoint
from realnet.runtime.files import whole_file

MARKDOWN, JSON = "card.md", "card.json"
Rows = Mapping[str, Any]
"""What a section says, by what it is about: texts, numbers, lists."""


@dataclass(frozen=True)
class Results:
    """A detector's results on test images, as plain values.

    Attributes:
        made: when, and on which images.
        num_defect, num_normal: test images.
        metrics: by name, in [0, 1]; those that could not be computed are left out.
        missed, false_alarms: wrong verdicts at the calibrated threshold; None without one.
        spread: mean and spread of detectors that differ in the seed alone, as text; "" for none.
        by_class: metrics of each class that a unified detector judges; ``metrics`` are their means.
    """

    made: str
    num_defect: int
    num_normal: int
    metrics: Mapping[str, float]
    missed: int | None = None
    false_alarms: int | None = None
    spread: str = ""
    by_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def rows(self) -> dict[str, Any]:
        """Return what a card says of them, with intervals where there is a formula."""
        rows: dict[str, Any] = {"evaluated": self.made, "images": f"{self.num_normal} good, {self.num_defect} defects"}
        for name, value in self.metrics.items():
            rows[name] = f"{value:.4f}"
            if name == "image_auroc" and self.num_defect and self.num_normal and not self.by_class:
                low, high = auroc_interval(value, self.num_defect, self.num_normal)
                rows[name] += f" (95 % interval {low:.3f} to {high:.3f})"
        if self.missed is not None and self.num_defect:
            rows["defects missed"] = str(Rate.of(self.missed, self.num_defect))
        if self.false_alarms is not None and self.num_normal:
            rows["false alarms"] = str(Rate.of(self.false_alarms, self.num_normal))
        for class_name, metrics in self.by_class.items():
            rows[f"class {class_name}"] = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        return {**rows, "over seeds": self.spread} if self.spread else rows


@dataclass(frozen=True)
class Card:
    """A model card: sections with rows, by title."""

    title: str
    sections: Mapping[str, Rows]

    def texts(self) -> dict[str, str]:
        """Return the card's two files by name."""
        values = {"title": self.title, **self.sections}
        return {MARKDOWN: self.markdown(), JSON: f"{json.dumps(values, indent=1, ensure_ascii=False)}\n"}

    def markdown(self) -> str:
        """Return the card as Markdown."""
        return "\n".join([f"# {self.title}", *self._lines(), ""])

    def _lines(self) -> Iterator[str]:
        for name, rows in self.sections.items():
            yield f"\n## {name}\n"
            yield from (f"- **{key}:** {value}" for key, value in rows.items())

    def write(self, checkpoint: Path) -> None:
        """Write both files beside a checkpoint: ``card.md`` for ``ckpt_last.pth``, ``<stem>.card.md`` for another.

        Raises:
            UserError: if they cannot be written.
        """
        prefix = "" if checkpoint.name == paths.LAST else f"{checkpoint.stem}."
        for name, text in self.texts().items():
            with whole_file(checkpoint.with_name(f"{prefix}{name}")) as file:
                file.write(text)


def make_card(stored: Checkpoint, path: Path, results: Results | None = None) -> Card | None:
    """Return the card of a stored detector; None for a published checkpoint, which says nothing of itself.

    Args:
        stored: the detector.
        path: its file, for messages.
        results: on test images, if it was evaluated.
    """
    if stored.config is None:
        return None
    config, facts = config_of(stored, None, path), stored.facts
    sections: dict[str, Rows] = {
        "Data": _data(stored, config),
        "Training": _training(config, facts),
        "Results": results.rows() if results else {"not evaluated": "run evaluation_realnet.py, then export again"},
        "Calibration": _calibration(facts),
        "Backbone": _backbone(config, facts.get("backbone", {})),
        "Limits": dict(_limits(config, facts, results)),
        "Licence": {"code": "MIT", "weights": "as the backbone's above, and as the images that it was trained on"},
    }
    of_what = "all classes" if facts.get("classes") else stored.class_name or "one class"
    return Card(f"RealNet detector of {of_what} ({stored.dataset or 'dataset'})", sections)


def _data(stored: Checkpoint, config: RealNetConfig) -> Rows:
    counts = stored.facts.get("data", {})
    kinds = ", ".join(f"{name} {weight:g}" for name, weight in config.anomalies.types.items())
    return {
        "dataset": stored.dataset,
        "class": ", ".join(stored.facts.get("classes", ())) or stored.class_name,
        "images": ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in counts.items()) or "not recorded",
        "synthetic anomalies": kinds,
    }


def _training(config: RealNetConfig, facts: Mapping[str, Any]) -> Rows:
    measures = ", ".join(f"{one['normalise']} ({name})" for name, one in facts.get(STATISTICS, {}).items())
    return {
        "step": facts.get("step", "not recorded"),
        "preset": config.preset,
        "seed": config.seed,
        "image size": "x".join(map(str, config.image_size)),
        **({"tiles": _tiles(config.tiles)} if config.tiles else {}),
        "batch": config.train.batch_size * config.train.accumulation,
        "learning rate": f"{config.optimiser.learning_rate:g}, {config.optimiser.schedule}",
        "features": f"normalised by {measures or config.features.normalise}",
        "score pool": config.evaluation.pool,
        "versions": ", ".join(f"{name} {number}" for name, number in facts.get("versions", {}).items()),
    }


def _tiles(tiles: TilesConfig) -> str:
    return "x".join(map(str, tiles.size)) + (", and whole photographs at this size" if tiles.context else "")


def _calibration(facts: Mapping[str, Any]) -> Rows:
    values = facts.get("calibration")
    if not values:
        return {"none": "there is no verdict without --threshold; set one with calibrate_realnet.py"}
    which = "held-out" if values["held_out"] else "training"
    return {
        "image threshold": f"{values['image_threshold']:.6g}",
        "pixel threshold": f"{values['pixel_threshold']:.6g}",
        "set on": values.get("note")
        or f"{values['num_images']} {which} images, and {values['num_anomalies']} anomalies drawn on them",
        **{f"class {name}": _thresholds(one) for name, one in facts.get("calibrations", {}).items()},
    }


def _thresholds(values: Mapping[str, Any] | None) -> str:
    if values is None:
        return "none"
    return f"image threshold {values['image_threshold']:.6g}, pixel threshold {values['pixel_threshold']:.6g}"


def _backbone(config: RealNetConfig, facts: Mapping[str, Any]) -> Rows:
    return {
        "model": config.backbone.name,
        "weights": config.backbone.weights,
        "licence": facts.get("license", "not recorded"),
        "checksum": facts.get("checksum", "not recorded"),
        "levels": ", ".join(
            f"{name} ({channels}, stride {stride})" for name, channels, stride in facts.get("levels", [])
        ),
    }


def _limits(config: RealNetConfig, facts: Mapping[str, Any], results: Results | None) -> Iterator[tuple[str, str]]:
    yield (
        "photographs",
        "of the product, camera, light and pose of the training images; others are judged without warning",
    )
    size = "x".join(map(str, config.image_size))
    yield "small defects", f"photographs are resized to {size}; what is smaller than a few pixels there is missed"
    calibration = facts.get("calibration")
    if calibration and not calibration["held_out"]:
        yield "thresholds", "set on training images, where scores are lower than on new ones: expect more false alarms"
    elif calibration and not calibration.get("note") and calibration["num_images"] < FEWEST_HELD_OUT:
        number, rate = calibration["num_images"], percent(1 / (calibration["num_images"] + 1))
        few = f"set on {number} normal images: a new one scores above them all with a probability of {rate}"
        yield "thresholds", f"{few}; set them on more photographs with calibrate_realnet.py"
    if results and results.num_normal:
        number, fewest = results.num_normal, percent(Rate.of(0, results.num_normal).high)
        yield (
            "certainty",
            f"{number} good test images cannot show fewer false alarms than {fewest}",
        )
