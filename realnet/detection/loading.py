"""Build a detector's network from a stored file: a checkpoint of this project, a published one, or a bundle."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError

from realnet.config import RealNetConfig
from realnet.detection import bundle
from realnet.detection.calibration import Calibration
from realnet.detection.description import problems
from realnet.detection.one_class import STATISTICS, as_one_class, measures_of
from realnet.errors import UserError
from realnet.models import checkpoint
from realnet.models.build import build_detector, has_backbone
from realnet.models.checkpoint import Checkpoint
from realnet.models.realnet import RealNet
from realnet.models.statistics import IMAGENET
from realnet.runtime.contents import marks

logger = logging.getLogger("realnet")

NOT_FILES = frozenset({"hub", "package", "none"})
"""What ``backbone.weights`` may be other than a file."""


@dataclass(frozen=True)
class Loaded:
    """A network with its weights, on the CPU in float32, and what its file says of it.

    That of a unified detector whose classes are measured apart is the network of one class, where the class is known.
    """

    model: RealNet
    config: RealNetConfig
    stored: Checkpoint


def load_network(
    path: Path,
    *,
    config: RealNetConfig | None = None,
    backbone_weights: str | Path | None = None,
    dataset: str | None = None,
    class_name: str | None = None,
    mapped: bool = False,
) -> Loaded:
    """Read a file and build its network; see :meth:`Detector.load`.

    Raises:
        UserError: as :meth:`Detector.load`.
    """
    stored = read_stored(path, dataset=dataset, class_name=class_name, mapped=mapped)
    used = _with_statistics(config_of(stored, config, path), stored)
    brings_backbone = has_backbone(stored.state_dict)
    if not brings_backbone:
        used = _with_backbone_weights(used, backbone_weights, path)
    kinds = measures_of(stored)
    model = build_detector(
        used, by_class=kinds, backbone_weights="given" if brings_backbone else None, only_backbone=True
    )
    _fill(model, stored, path)
    _check_backbone(model, stored, path)
    if class_name and class_name in (classes := list(stored.facts.get(STATISTICS, ()))):
        model = model.of_class(classes.index(class_name))
        stored, used = as_one_class(stored, used, class_name)
    return Loaded(model, used, stored)


def read_stored(
    path: Path, *, dataset: str | None = None, class_name: str | None = None, mapped: bool = False
) -> Checkpoint:
    """Read a checkpoint or a bundle; raises UserError as :func:`checkpoint.load`."""
    if bundle.is_bundle(path):
        stored = bundle.read(path)
        checkpoint.require_match(stored, path, kind="realnet", dataset=dataset, class_name=class_name)
    else:
        stored = checkpoint.load(path, kind="realnet", dataset=dataset, class_name=class_name, mapped=mapped)
    return stored


def require_fit(path: Path, config: RealNetConfig, *, dataset: str, class_name: str) -> None:
    """Check that a checkpoint's weights fit its config, without reading the backbone's weights.

    Raises:
        UserError: as in :meth:`Detector.load`.
    """
    stored = read_stored(path, dataset=dataset, class_name=class_name, mapped=True)
    with torch.device("meta"):
        used = config_of(stored, config, path)
        model = build_detector(used, by_class=measures_of(stored), backbone_weights="given")
    _fill(model, stored, path)


def _fill(model: RealNet, stored: Checkpoint, path: Path) -> None:
    """Load the weights, which must be finite; keep the current backbone if the checkpoint has none."""
    lost = [name for name, value in stored.state_dict.items() if not value.isfinite().all()]
    if lost:
        raise UserError(
            f"{path} holds {len(lost)} tensors with NaN or infinite weights, such as {lost[0]}: its training diverged, "
            "or the file is damaged; train it again, with a lower optimiser.learning_rate, or take an earlier file"
        )
    own = {f"backbone.{key}": value for key, value in model.backbone.state_dict().items()}
    kept = {} if has_backbone(stored.state_dict) else own
    checkpoint.load_into(model, {**kept, **stored.state_dict}, str(path))


def stored_config(path: Path, config: RealNetConfig) -> RealNetConfig:
    """Return the config that :meth:`Detector.load` would use for a checkpoint."""
    return config_of(read_stored(path, mapped=True), config, path)


def config_of(stored: Checkpoint, config: RealNetConfig | None, path: Path) -> RealNetConfig:
    """Return the config to use a stored detector with; ``config`` is as in :meth:`Detector.load`."""
    if stored.config is None:
        if config is None:
            raise UserError(f"{path} is a published checkpoint, which has no config; give the config that describes it")
        return config
    try:
        used = RealNetConfig.model_validate(stored.config)
    except ValidationError as error:
        what = problems(error)
        raise UserError(f"{path} has a config that this version does not accept ({what}); train it again") from error
    if config is None:
        return used
    evaluation = config.evaluation
    if not isinstance(evaluation.score_pool, int):
        evaluation = evaluation.model_copy(update={"score_pool": used.evaluation.score_pool})
    pool, (height, width) = evaluation.pool, used.input_size
    if pool > min(height, width):
        raise UserError(f"evaluation.score_pool is {pool}, but {path} is for {height}x{width} pixels; lower score_pool")
    weights = _backbone_weights(used.backbone.weights, config.backbone.weights)
    backbone = used.backbone.model_copy(update={"weights": weights})
    return used.model_copy(update={"backbone": backbone, "runtime": config.runtime, "evaluation": evaluation})


def _with_statistics(config: RealNetConfig, stored: Checkpoint) -> RealNetConfig:
    """Return the config with the backbone's mean and deviation in training: ImageNet's where a file names none."""
    facts, given = stored.facts.get("backbone", {}), config.backbone
    if "mean" in facts:
        mean, std = tuple(facts["mean"]), tuple(facts["std"])
    elif given.mean is None:
        mean, std = IMAGENET.mean, IMAGENET.std
    else:  # of a published checkpoint, by the config that describes it
        return config
    return config.model_copy(update={"backbone": given.model_copy(update={"mean": mean, "std": std})})


def _with_backbone_weights(config: RealNetConfig, given: str | Path | None, path: Path) -> RealNetConfig:
    weights = config.backbone.weights if given is None else str(given)
    if not _are_available(weights):
        raise UserError(
            f"{path} needs the backbone weights {weights}, which do not exist (searched from {Path.cwd()}); give the "
            "file with --set backbone.weights=FILE, or in Python with Detector.load(…, backbone_weights=FILE)"
        )
    return config.model_copy(update={"backbone": config.backbone.model_copy(update={"weights": weights})})


def _backbone_weights(trained: str, here: str) -> str:
    """Return the file that the given config names, else the weights used in training if they are available."""
    return trained if here in NOT_FILES and _are_available(trained) else here


def _are_available(weights: str) -> bool:
    return weights in NOT_FILES or Path(weights).is_file()


def calibration_of(
    stored: Checkpoint, config: RealNetConfig, path: Path, class_name: str | None = None
) -> Calibration | None:
    """Return the stored calibration, of a unified detector that of the class if it is known and has one.

    None, with a warning, if it is of another score pool than the config's.
    """
    values = stored.facts.get("calibrations", {}).get(class_name) or stored.facts.get("calibration")
    if not values or stored.config is None:
        return None
    pool = config_of(stored, None, path).evaluation.pool
    if config.evaluation.pool != pool:
        logger.warning(
            "WARNING: %s was calibrated with evaluation.score_pool %s; its thresholds are ignored", path, pool
        )
        return None
    return Calibration(**values)


def _check_backbone(model: RealNet, stored: Checkpoint, path: Path) -> None:
    facts, levels = stored.facts.get("backbone", {}), model.backbone.listed_levels()
    if facts.get("levels", levels) != levels:
        raise UserError(
            f"{path} was trained on other levels of {model.backbone.name}: {facts['levels']} (name, channels, stride), "
            f"here {levels}; install the version of timm or torchvision that it was trained with, or train it again"
        )
    expected = None if has_backbone(stored.state_dict) else facts.get("checksum")
    found = model.backbone.checksum if expected else ""
    if expected and expected != found:
        raise UserError(
            f"{path} was trained on other weights of {model.backbone.name} (checksum {expected[:12]}…, not "
            f"{found[:12]}…); give the file used in training as backbone.weights (in Python: backbone_weights)"
        )


def trained_on(stored: Checkpoint, files: Sequence[Path], folder: Path) -> list[Path]:
    """Return the files that a detector was trained on, by their contents; none if its version did not note them.

    Args:
        stored: the detector.
        files: photographs.
        folder: where their checksums are kept (:func:`marks`).
    """
    known = set(stored.facts.get("training_images", ())) - {""}
    return [file for file, mark in zip(files, marks(files, folder), strict=True) if mark in known]
