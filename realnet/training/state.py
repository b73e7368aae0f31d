"""The state of a training run: what ``kill -9`` and the same command again need to go on."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sized
from pathlib import Path
from typing import Any

from realnet import checkpoint, distributed
from realnet.config import TrainingConfig
from realnet.data.sampling import EpochSampler
from realnet.distributed import Process
from realnet.errors import UserError
from realnet.training.batches import make_sampler, total_steps

logger = logging.getLogger("realnet")

# what may change between a run and its continuation; :func:`identity` has what matters of batches, steps and weights
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
    "size",  # blocks and the rest that follow from it count
)


def path_of(weights: Path) -> Path:
    """Return where the training state beside ``ckpt_last.pth`` lies: ``ckpt_last.state.pth``."""
    return weights.with_suffix(".state.pth")


def identity(config: TrainingConfig, sampler: EpochSampler, subject: Mapping[str, Any]) -> dict[str, Any]:
    """Return, by its name in words, what must not change between a run and its continuation.

    Args:
        config: of the stage; all its keys but ``FREE_KEYS`` count.
        sampler: of the training items.
        subject: what is trained on what.
    """
    settings = _flatten(config.model_dump(mode="json"))
    lasting = {"steps in all (the cosine schedule follows them)": total_steps(config.train, sampler)}
    return {
        **subject,
        "images a step (train.batch_size x train.accumulation x processes)": sampler.global_batch,
        **(lasting if config.optimiser.schedule == "cosine" else {}),
        **{key: value for key, value in settings.items() if not key.startswith(FREE_KEYS)},
    }


def fingerprint(names: Iterable[object]) -> str:
    """Return the number of names and a digest of them in their order."""
    listed = [str(name) for name in names]
    return f"{len(listed)} (digest {hashlib.sha256(repr(listed).encode()).hexdigest()[:8]})"


def require_agreement(mine: Mapping[str, Any]) -> None:
    """Check that all processes start the same run at the same step.

    Raises:
        UserError: on all processes alike; names what differs.
    """
    every = distributed.gather(dict(mine))
    names = dict.fromkeys(name for one in every for name in one)
    values = {name: [one.get(name) for one in every] for name in names}
    differing = [f"{name}: {found}" for name, found in values.items() if any(value != found[0] for value in found)]
    if differing:
        head = "the processes differ; do the machines not share a file system, or was each given another command?"
        raise UserError("\n  ".join([f"{head} By rank:", *differing]))


def save(
    path: Path, step: int, identity: Mapping[str, Any], parts: Mapping[str, Any], *, keep_previous: bool = True
) -> None:
    """Write the state after ``step`` steps; the one before it is kept as ``.previous``, unless told otherwise."""
    values = {"kind": "training state", "step": step, "identity": dict(identity), **parts}
    checkpoint.write(path, values, keep_previous=keep_previous)


def load(path: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read the last complete state; None where there is none.

    Raises:
        UserError: where it is of a run of another :func:`identity`, whose differences are listed; or where no file
            that is there can be read.
    """
    candidates = [candidate for candidate in (path, checkpoint.previous(path)) if candidate.is_file()]
    for candidate in candidates:
        try:
            values = checkpoint.read(candidate)
        except UserError as error:
            logger.warning("WARNING: %s; falling back to the state before it", error)
            continue
        _check_identity(values.get("identity", {}), identity, candidate)
        return values
    if candidates:
        raise UserError(f"{path} cannot be read, nor is there a state before it; start anew with --no-resume")
    return None


def first_step(
    config: TrainingConfig, items: Sized, process: Process, last: Path, subject: Callable[[], Mapping[str, Any]]
) -> int:
    """Return the step that a run to come would begin at; 0: it would begin anew.

    Args:
        config: of the stage.
        items: the training items.
        process: this process of that run.
        last: where its weights lie.
        subject: says what is trained on what.

    Raises:
        UserError: for too few items, and as :func:`load`.
    """
    sampler, path = make_sampler(items, config.train, process, seed=config.seed), path_of(last)
    if not (path.is_file() or checkpoint.previous(path).is_file()):
        return 0
    stored = load(path, identity(config, sampler, subject()))
    return stored["step"] if stored else 0


def discard(path: Path) -> None:
    """Remove the states of an earlier run, so that nothing falls back to them."""
    for candidate in (checkpoint.previous(path), path):
        candidate.unlink(missing_ok=True)


def _check_identity(before: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    changed = [key for key in {**now, **before} if before.get(key) != now.get(key)]
    if changed:
        listed = [f"{key}: {before.get(key)} then, {now.get(key)} now" for key in changed]
        advice = "restore what has changed, or start anew with --no-resume"
        raise UserError("\n  ".join([f"{path} is of another run; {advice}:", *listed]))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
