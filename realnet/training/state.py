"""The state of a training run: what ``kill -9`` and the same command again need to go on."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from realnet import checkpoint
from realnet.config import Section
from realnet.errors import UserError

logger = logging.getLogger("realnet")

# what may change between a run and its continuation without changing what is learnt up to any step
FREE_KEYS = (
    "runtime.",
    "train.num_epochs",
    "train.num_steps",
    "train.checkpoint_interval_steps",
    "train.log_interval_steps",
    "train.evaluation",
    "validation.",
    "evaluation.",
    "calibration.num_anomalies",
    "pretrained",
    "backbone.weights",
)


def path_of(weights: Path) -> Path:
    """Return where the training state beside ``ckpt_last.pth`` lies: ``ckpt_last.state.pth``."""
    return weights.with_suffix(".state.pth")


def save(path: Path, step: int, config: Section, parts: Mapping[str, Any]) -> None:
    """Write the state after ``step`` steps; the one before it is kept as ``.previous``."""
    values = {"kind": "training state", "step": step, "config": config.model_dump(mode="json"), **parts}
    checkpoint.write(path, values, keep_previous=True)


def load(path: Path, config: Section) -> dict[str, Any] | None:
    """Read the last complete state; None where there is none.

    Raises:
        UserError: where it was made with other settings, which are listed; or where no file that is there can be read.
    """
    candidates = [candidate for candidate in (path, checkpoint.previous(path)) if candidate.is_file()]
    for candidate in candidates:
        try:
            values = checkpoint.read(candidate)
        except UserError as error:
            logger.warning("WARNING: %s; falling back to the state before it", error)
            continue
        _check_config(values["config"], config.model_dump(mode="json"), candidate)
        return values
    if candidates:
        raise UserError(f"{path} cannot be read, nor is there a state before it; start anew with --no-resume")
    return None


def discard(path: Path) -> None:
    """Remove the states of an earlier run, so that nothing falls back to them."""
    for candidate in (checkpoint.previous(path), path):
        candidate.unlink(missing_ok=True)


def _check_config(stored: Mapping[str, Any], current: Mapping[str, Any], path: Path) -> None:
    before, now = _flatten(stored), _flatten(current)
    changed = [key for key in sorted(before | now) if before.get(key) != now.get(key) and not key.startswith(FREE_KEYS)]
    if changed:
        listed = [f"{key}: {before.get(key)} then, {now.get(key)} now" for key in changed]
        advice = "give the same settings, or start anew with --no-resume"
        raise UserError("\n  ".join([f"{path} was made with other settings; {advice}:", *listed]))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
