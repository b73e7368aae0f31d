"""A trained detector: load it from a checkpoint and get verdicts on images."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, overload

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import ImageOps
from pydantic import ValidationError

from realnet.config import EvaluationConfig, RealNetConfig
from realnet.data.images import Image, normalise, read_image, resize_image
from realnet.detection.calibration import Calibration
from realnet.detection.maps import DIVERGED, anomaly_maps
from realnet.errors import UserError
from realnet.metrics.image_score import image_scores
from realnet.models import checkpoint
from realnet.models.build import build_detector, has_backbone
from realnet.models.checkpoint import Checkpoint
from realnet.models.realnet import RealNet
from realnet.models.statistics import IMAGENET
from realnet.runtime.distributed import best_device
from realnet.runtime.placement import make_ready
from realnet.runtime.precision import Precision, resolve

logger = logging.getLogger("realnet")

NOT_FILES = frozenset({"hub", "package", "none"})
"""What ``backbone.weights`` may be other than a file."""
ImageInput = np.ndarray | PILImage.Image | str | Path


@dataclass(frozen=True)
class Prediction:
    """A detector's result for one image.

    Attributes:
        image_score: how anomalous the image is, in [0, 1] (docs/method.md, Image score).
        anomaly_map: (H, W) float32 in [0, 1], at the resolution of the given image.
        threshold: the verdict is "defect" if the image score is at least this; None: there is no verdict.
    """

    image_score: float
    anomaly_map: NDArray[np.float32]
    threshold: float | None

    @property
    def verdict(self) -> Literal["defect", "normal"] | None:
        """Return "defect" if the score reaches the threshold, else "normal"; None without a threshold."""
        if self.threshold is None:
            return None
        return "defect" if self.image_score >= self.threshold else "normal"


@dataclass(frozen=True)
class Detector:
    """A trained detector of one class (docs/method.md, Detector).

    Attributes:
        model: in eval mode.
        config: the config that it was trained with.
        calibration: thresholds and display scale; None if the checkpoint has none.
        facts: further values of the checkpoint (step, metrics, …).
        precision: the number format and device that it runs in.
    """

    model: RealNet
    config: RealNetConfig
    calibration: Calibration | None
    facts: dict[str, Any]
    precision: Precision

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str | torch.device | None = None,
        precision: Precision | None = None,
        config: RealNetConfig | None = None,
        backbone_weights: str | Path | None = None,
        dataset: str | None = None,
        class_name: str | None = None,
    ) -> Self:
        """Load a detector from a checkpoint of this project or in the published format.

        Args:
            path: ``ckpt_last.pth`` or ``ckpt_best.pth``.
            device: the device to run on; None takes the best one available.
            precision: number format and device; replaces ``device`` and the stored ``runtime.precision``.
            config: for a published checkpoint, which has no config, the description of its network. For a checkpoint of
                this project, it replaces the settings that are not part of the network: ``runtime``, ``evaluation``,
                and ``backbone.weights`` if it names a file or the file used in training is missing.
            backbone_weights: the file with the backbone's weights, which our checkpoints do not contain; None takes the
                path used in training, relative to the current folder.
            dataset: if given, refuse checkpoints of other datasets.
            class_name: if given, refuse checkpoints of other classes.

        Raises:
            UserError: if the file is missing, does not fit, or was trained on other backbone weights, or if the
                config's ``score_pool`` is larger than the images.
        """
        is_rehearsal = precision is not None and precision.device.type == "meta"
        stored = checkpoint.load(
            Path(path), kind="realnet", dataset=dataset, class_name=class_name, mapped=is_rehearsal
        )
        used = _with_statistics(_config_of(stored, config, Path(path)), stored)
        brings_backbone = has_backbone(stored.state_dict)
        if not brings_backbone:
            used = _with_backbone_weights(used, backbone_weights, Path(path))
        model = build_detector(used, backbone_weights="given" if brings_backbone else None, only_backbone=True)
        _fill(model, stored, Path(path))
        _check_backbone(model, stored, Path(path))
        if precision is None:
            precision = resolve(used.runtime.precision, torch.device(device) if device else best_device())
        make_ready(model, precision, used.runtime)
        return cls(
            model=model,
            config=used,
            calibration=_calibration_of(stored, used, Path(path)),
            facts=dict(stored.facts),
            precision=precision,
        )

    @overload
    def predict(  # type: ignore[overload-overlap]  # a path given as str is a sequence of str too
        self, images: ImageInput, *, threshold: float | None = None
    ) -> Prediction: ...

    @overload
    def predict(self, images: Sequence[ImageInput], *, threshold: float | None = None) -> list[Prediction]: ...

    def predict(
        self, images: ImageInput | Sequence[ImageInput], *, threshold: float | None = None
    ) -> Prediction | list[Prediction]:
        """Score one image or several.

        Images run through the network one at a time, so a prediction is the same to the last bit whatever the other
        images are.

        Args:
            images: an image as uint8 RGB array (H, W, 3), PIL image or path; or several, as a sequence of images of any
                sizes or as an array (B, H, W, 3).
            threshold: threshold of the image score; None takes the calibrated one.

        Returns:
            A :class:`Prediction`, or a list of them for several images.

        Raises:
            UserError: for an unreadable file, an array of another shape or type, or a network that returns NaN.
        """
        if isinstance(images, (str, Path, PILImage.Image)) or (isinstance(images, np.ndarray) and images.ndim != 4):
            return self._predict_one(images, threshold)
        return [self._predict_one(image, threshold) for image in images]

    def _predict_one(self, picture: ImageInput, threshold: float | None) -> Prediction:
        image = _to_array(picture)
        small = normalise(resize_image(image, self.config.image_size))[None]
        anomaly_map = anomaly_maps(self.model, small, self.precision).cpu().numpy()
        score = float(image_scores(anomaly_map, self.config.evaluation.pool)[0])
        if not np.isfinite(score):
            raise UserError(f"the detector gives NaN: {DIVERGED}")
        if threshold is None and self.calibration is not None:
            threshold = self.calibration.image_threshold
        height, width = image.shape[:2]
        full = cv2.resize(anomaly_map[0], (width, height), interpolation=cv2.INTER_LINEAR)
        return Prediction(score, full, threshold)


def require_fit(path: Path, config: RealNetConfig, *, dataset: str, class_name: str) -> None:
    """Check that a checkpoint's weights fit its config, without reading the backbone's weights.

    Raises:
        UserError: as in :meth:`Detector.load`.
    """
    stored = checkpoint.load(path, kind="realnet", dataset=dataset, class_name=class_name, mapped=True)
    with torch.device("meta"):
        model = build_detector(_config_of(stored, config, path), backbone_weights="given")
    _fill(model, stored, path)


def _fill(model: RealNet, stored: Checkpoint, path: Path) -> None:
    """Load the weights; keep the current backbone if the checkpoint has none."""
    own = {f"backbone.{key}": value for key, value in model.backbone.state_dict().items()}
    kept = {} if has_backbone(stored.state_dict) else own
    checkpoint.load_into(model, {**kept, **stored.state_dict}, str(path))


def stored_config(path: Path, config: RealNetConfig) -> RealNetConfig:
    """Return the config that :meth:`Detector.load` would use for a checkpoint."""
    return _config_of(checkpoint.load(path, kind="realnet", mapped=True), config, path)


def _config_of(stored: Checkpoint, config: RealNetConfig | None, path: Path) -> RealNetConfig:
    if stored.config is None:
        if config is None:
            raise UserError(f"{path} is a published checkpoint, which has no config; give the config that describes it")
        return config
    try:
        used = RealNetConfig.model_validate(stored.config)
    except ValidationError as error:
        what = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise UserError(f"{path} has a config that this version does not accept ({what}); train it again") from error
    if config is None:
        return used
    evaluation = config.evaluation
    if not isinstance(evaluation.score_pool, int):
        evaluation = evaluation.model_copy(update={"score_pool": used.evaluation.score_pool})
    pool, (height, width) = evaluation.pool, used.image_size
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


def _calibration_of(stored: Checkpoint, config: RealNetConfig, path: Path) -> Calibration | None:
    values = stored.facts.get("calibration")
    if not values or stored.config is None:
        return None
    pool = EvaluationConfig.model_validate(stored.config["evaluation"]).pool
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
    expected = facts.get("checksum")
    found = model.backbone.checksum() if expected else None
    if expected != found:
        raise UserError(
            f"{path} was trained on other weights of {model.backbone.name} (checksum {expected[:12]}…, not "
            f"{str(found)[:12]}…); give the file used in training as backbone.weights (in Python: backbone_weights)"
        )


def _to_array(image: ImageInput) -> Image:
    if isinstance(image, (str, Path)):
        return read_image(Path(image))
    if isinstance(image, PILImage.Image):
        image = _from_pil(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise UserError(f"an image must be a uint8 RGB array (H, W, 3), but this one is {image.dtype} {image.shape}")
    return image


def _from_pil(image: PILImage.Image) -> Image:
    """Return the array that ``read_image`` would return for the image's file."""
    image = ImageOps.exif_transpose(image)
    if image.mode in {"I", "F"}:
        raise UserError(f"a PIL image of mode {image.mode!r} has no known range; give its file, or 8-bit values")
    if image.mode.startswith("I;16"):
        image = PILImage.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return np.asarray(image.convert("RGB"))
