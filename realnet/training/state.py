"""The state of a training run, with which the same command continues after a kill."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sized
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from realnet.config import Section, TrainingConfig
from realnet.data.order import EpochOrder
from realnet.errors import UserError
from realnet.models import checkpoint
from realnet.runtime import distributed
from realnet.runtime.distributed import World
from realnet.training.batches import make_order, total_steps

logger = logging.getLogger("realnet")

# may differ between a run and its continuation; identity() adds what matters about batches, steps and weights
FREE_KEYS = (
    "runtime.",
    "train.batch_size",
    "train.accumulation",
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
    "preset",
    "size",  # blocks and the rest that follow from it count
)


IMAGE_CONTENTS, SOURCE_CONTENTS = "contents of the training images", "contents of the anomaly sources"
HELD_OUT, HELD_OUT_CONTENTS = "held-out images", "contents of the held-out images"
FOREGROUND = "foreground in dataset.yaml"
NEW_NAMES = {IMAGE_CONTENTS, SOURCE_CONTENTS, HELD_OUT, HELD_OUT_CONTENTS, FOREGROUND}
"""What earlier states do not record; a run that goes on from one takes them to be as they were."""


FIRST_DRAWS = 1
"""The draws of states that do not name theirs: of version 1.0."""
ConfigT = TypeVar("ConfigT", bound=TrainingConfig)


def path_of(weights: Path) -> Path:
    """Return the path of the training state beside ``ckpt_last.pth``: ``ckpt_last.state.pth``."""
    return weights.with_suffix(".state.pth")


def identity(config: TrainingConfig, order: EpochOrder, subject: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that must not change between a run and its continuation, by their names in words.

    Args:
        config: of the stage; all keys except ``FREE_KEYS`` are included.
        order: of the training items.
        subject: what is trained, and on which data.
    """
    settings = _flatten(config.model_dump(mode="json"))
    lasting = {"steps in all (the cosine schedule follows them)": total_steps(config.train, order)}
    return {
        **subject,
        "images a step (train.batch_size x train.accumulation x processes)": order.global_batch,
        **(lasting if config.optimiser.schedule == "cosine" else {}),
        **{key: value for key, value in settings.items() if not key.startswith(FREE_KEYS)},
    }


def fingerprint(names: Iterable[object]) -> str:
    """Return, as text, the number of names and a digest of them in their order."""
    listed = [str(name) for name in names]
    return f"{len(listed)} (digest {hashlib.sha256(repr(listed).encode()).hexdigest()[:8]})"


def require_agreement(mine: Mapping[str, Any]) -> None:
    """Check that all processes start the same run at the same step.

    Raises:
        UserError: on all processes; names what differs.
    """
    every = distributed.gather(dict(mine))
    names = dict.fromkeys(name for one in every for name in one)
    values = {name: [one.get(name) for one in every] for name in names}
    differing = [f"{name}: {found}" for name, found in values.items() if any(value != found[0] for value in found)]
    if differing:
        head = "the processes differ; run the same command on all machines, with a shared file system. By rank:"
        raise UserError("\n  ".join([head, *differing]))


def as_begun(config: ConfigT, last: Path) -> ConfigT:
    """Return a config with the draws of the saved run that it continues: those of version 1.0 were others.

    Args:
        config: of the stage.
        last: the file for the weights.
    """
    for candidate in (path_of(last), checkpoint.previous(path_of(last))):
        with suppress(UserError):
            draws = checkpoint.read(candidate, mapped=True).get("identity", {}).get("draws", FIRST_DRAWS)
            if draws != config.draws:
                logger.warning(
                    "%s goes on as it was begun, with draws: %d; --no-resume takes new ones", candidate, draws
                )
            return config.model_copy(update={"draws": draws})
    return config


def save(
    path: Path, step: int, identity: Mapping[str, Any], parts: Mapping[str, Any], *, keep_previous: bool = True
) -> None:
    """Write the state after ``step`` steps; with ``keep_previous``, keep the state before it as ``.previous``."""
    values = {"kind": "training state", "step": step, "identity": dict(identity), **parts}
    checkpoint.write(path, values, keep_previous=keep_previous)


def load(path: Path, identity: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read the last complete state, mapped (:func:`checkpoint.read`); return None if there is no file.

    Raises:
        UserError: if it belongs to a run of another :func:`identity` (the message lists the differences), or if none of
            the files can be read.
    """
    candidates = [candidate for candidate in (path, checkpoint.previous(path)) if candidate.is_file()]
    for candidate in candidates:
        try:
            values = checkpoint.read(candidate, mapped=True)
        except UserError as error:
            logger.warning("WARNING: %s; falling back to the previous state", error)
            continue
        _check_identity(values.get("identity", {}), identity, defaults, candidate)
        return values
    if candidates:
        raise UserError(f"{path} cannot be read, and there is no readable previous state; start again with --no-resume")
    return None


def first_step(
    config: TrainingConfig, items: Sized, world: World, last: Path, subject: Callable[[], Mapping[str, Any]]
) -> int:
    """Return the step at which a run would start; 0 if there is no saved state.

    Args:
        config: of the stage.
        items: the training items.
        world: this process of the run.
        last: the file for the weights.
        subject: returns what is trained, and on which data.

    Raises:
        UserError: for too few items, and as in :func:`load`.
    """
    config, path = as_begun(config, last), path_of(last)
    order = make_order(items, config.train, world, seed=config.seed, draws=config.draws)
    if not (path.is_file() or checkpoint.previous(path).is_file()):
        return 0
    stored = load(path, identity(config, order, subject()), defaults_of(config))
    return stored["step"] if stored else 0


def discard(path: Path) -> None:
    """Delete the states of an earlier run, so that no later run continues from them."""
    for candidate in (checkpoint.previous(path), path):
        candidate.unlink(missing_ok=True)


def defaults_of(config: TrainingConfig) -> dict[str, Any]:
    """Return the values to assume for keys of a stage's config that a state from an older version does not have."""
    return _defaults(type(config)())


def _defaults(section: Section, prefix: str = "") -> dict[str, Any]:
    """Return a section's plain values by full key; a dict, whose names are the user's own, has no defaults."""
    values = section.model_dump(mode="json")
    found: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            found |= _defaults(value, f"{prefix}{name}.")
        elif not isinstance(value, Mapping):
            found[f"{prefix}{name}"] = values[name]
    return found


def _check_identity(before: Mapping[str, Any], now: Mapping[str, Any], defaults: Mapping[str, Any], path: Path) -> None:
    then = {**{key: value for key, value in defaults.items() if key in now}, "draws": FIRST_DRAWS, **before}
    compared = {**now, **then}.keys() - (NEW_NAMES - before.keys())
    changed = [key for key in {**now, **then} if key in compared and then.get(key) != now.get(key)]
    if changed:
        listed = [f"{key}: {then.get(key)} then, {now.get(key)} now" for key in changed]
        advice = "restore the values below, or start again with --no-resume"
        raise UserError("\n  ".join([f"{path} belongs to another run; {advice}:", *listed]))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
