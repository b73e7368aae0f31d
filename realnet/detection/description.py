"""What a file that leaves the project says of its detector, as JSON: config, calibration, facts, versions."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from realnet.config.detector import Colour
from realnet.detection.calibration import Calibration
from realnet.detection.half import HalfCheck
from realnet.errors import UserError
from realnet.models.checkpoint import Checkpoint, Kind, versions

FORMAT = "realnet detector"
VERSION = 1


def describe(stored: Checkpoint, **more: Any) -> str:
    """Return the description of a detector, without its weights; ``more`` are further values of the file's format."""
    values = {
        "format": FORMAT,
        "version": VERSION,
        "made": datetime.now().astimezone().isoformat(" ", "seconds"),
        "versions": versions(),
        "kind": stored.kind,
        "dataset": stored.dataset,
        "class_name": stored.class_name,
        "config": stored.config,
        "facts": stored.facts,
        **more,
    }
    return json.dumps(values, indent=1, ensure_ascii=False)


def problems(error: ValidationError) -> str:
    """Return what a value fails by, each with its key."""
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())


class _Part(BaseModel):
    """A part of a description of which other keys are not checked."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Backbone(_Part):
    levels: list[tuple[str, int, int]] | None = None
    checksum: str | None = None
    mean: Colour | None = None
    std: Colour | None = None

    @model_validator(mode="after")
    def _check_statistics(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together")
        return self


class _Measure(_Part):
    normalise: Literal["channel", "pooled", "position"]


class _Facts(_Part):
    calibration: Calibration | None = None
    calibrations: dict[str, Calibration | None] = {}
    classes: list[str] = []
    statistics: dict[str, _Measure] = {}
    backbone: _Backbone = _Backbone()
    image_bits: int = Field(16, ge=8, le=16)
    training_images: list[str] = []
    bf16: HalfCheck | None = None


class _Description(_Part):
    kind: Kind
    dataset: str | None = None
    class_name: str | None = None
    config: dict[str, Any]
    facts: _Facts
    seconds: dict[str, float] = {}


def parse(text: str | bytes, path: Path) -> Checkpoint:
    """Return the detector, without weights, that a description is of.

    Raises:
        UserError: if the text is no description, a damaged one, or one of a newer version; names the file.
    """
    try:
        values = from_json(text)
    except ValueError as error:
        raise UserError(
            f"{path} is damaged: its description is no JSON ({error}); export the detector again"
        ) from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise UserError(f"{path} is no detector of this project; give a file that export_realnet.py wrote")
    if values.get("version") != VERSION:
        versions_of = values.get("versions")
        made_by = versions_of.get("realnet") if isinstance(versions_of, dict) else "of another version"
        raise UserError(
            f"{path} has version {values.get('version')} of its format, made by realnet {made_by}; this realnet reads "
            f"version {VERSION}: install a newer one (pip install --upgrade realnet), or export it with this one"
        )
    try:
        _Description.model_validate_json(text)
    except ValidationError as error:
        raise UserError(
            f"{path} is damaged: its description says {problems(error)}; export the detector again"
        ) from error
    name = values.get("class_name")
    return Checkpoint(
        kind=values["kind"],
        state_dict={},
        dataset=values.get("dataset"),
        classes=(name,) if name else None,
        class_name=name,
        config=values["config"],
        facts=values["facts"],
    )
