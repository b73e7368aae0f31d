"""What a file that leaves the project says of its detector, as JSON: config, calibration, facts, versions."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from realnet.errors import UserError
from realnet.models.checkpoint import Checkpoint, versions

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


def parse(text: str | bytes, path: Path) -> tuple[Checkpoint, Mapping[str, Any]]:
    """Return the detector, without weights, that a description is of, and all values of the description.

    Raises:
        UserError: if the text is no description, or one of a newer version; names the file.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UserError(
            f"{path} is damaged: its description is no JSON ({error}); export the detector again"
        ) from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise UserError(f"{path} is no detector of this project; give a file that export_realnet.py wrote")
    if values.get("version") != VERSION:
        made_by = values.get("versions", {}).get("realnet", "another version")
        raise UserError(
            f"{path} has version {values.get('version')} of its format, made by realnet {made_by}; this realnet reads "
            f"version {VERSION}: install a newer one (pip install --upgrade realnet), or export it with this one"
        )
    name = values.get("class_name")
    stored = Checkpoint(
        kind=values["kind"],
        state_dict={},
        dataset=values.get("dataset"),
        classes=(name,) if name else None,
        class_name=name,
        config=values["config"],
        facts=values["facts"],
    )
    return stored, values
