"""A unified detector as the detector of one of its classes (docs/method.md, Unified detector)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from realnet.config import RealNetConfig
from realnet.models.checkpoint import Checkpoint
from realnet.models.realnet import Measure

STATISTICS = "statistics"
"""The name, among the facts of a unified detector, of how the features of each of its classes are measured."""


def measures_of(stored: Checkpoint) -> list[Measure]:
    """Return what the features of each class are measured by; none where they are measured alike."""
    return [one["normalise"] for one in stored.facts.get(STATISTICS, {}).values()]


def measured_by(config: RealNetConfig, choice: Mapping[str, Any]) -> RealNetConfig:
    """Return a config that names how features are measured, as keys of ``features``."""
    return config.model_copy(update={"features": config.features.model_copy(update=dict(choice))})


def as_one_class(stored: Checkpoint, config: RealNetConfig, class_name: str) -> tuple[Checkpoint, RealNetConfig]:
    """Return what a unified detector's file says of the detector of one class, without weights, and its config.

    The numbers of images are those of all classes, so they are left out.
    """
    facts, choice = stored.facts, stored.facts[STATISTICS][class_name]
    own = {key: value for key, value in facts.items() if key not in {STATISTICS, "classes", "calibrations", "data"}}
    if calibration := facts.get("calibrations", {}).get(class_name):
        own["calibration"] = calibration
    named = replace(stored, state_dict={}, classes=(class_name,), class_name=class_name, facts=own)
    return named, measured_by(config, choice)
