"""A trained detector for use: load it, and ask it for a verdict on any picture."""

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

from realnet import checkpoint, metrics
from realnet import precision as precisions
from realnet.calibration import Calibration
from realnet.checkpoint import Checkpoint
from realnet.config import RealNetConfig
from realnet.data.images import Image, normalise, read_image, resize_image
from realnet.distributed import best_device
from realnet.errors import UserError
from realnet.inference import DIVERGED, anomaly_maps
from realnet.models.realnet import RealNet
from realnet.models.statistics import IMAGENET
from realnet.networks import build_detector, has_backbone, make_ready
from realnet.precision import Precision

logger = logging.getLogger("realnet")

Picture = np.ndarray | PILImage.Image | str | Path


@dataclass(frozen=True)
class Prediction:
    """What a detector says of an image.

    Attributes:
        image_score: how anomalous the image is, in [0, 1].
        anomaly_map: (H, W) float32 in [0, 1], at the input's resolution.
        threshold: the image score from which on the verdict is "defect"; None: there is none, hence no verdict.
    """

    image_score: float
    anomaly_map: NDArray[np.float32]
    threshold: float | None

    @property
    def verdict(self) -> Literal["defect", "normal"] | None:
        """Return "defect" where the score reaches the threshold, else "normal"; None without a threshold."""
        if self.threshold is None:
            return None
        return "defect" if self.image_score >= self.threshold else "normal"


@dataclass(frozen=True)
class Detector:
    """A trained detector of one class.

    Attributes:
        model: in eval mode.
        config: that it was trained with.
        calibration: thresholds and display scale; None for checkpoints without.
        facts: the checkpoint's (step, metrics, …).
        precision: the number format in use.
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
        config: RealNetConfig | None = None,
        backbone_weights: str | Path | None = None,
        dataset: str | None = None,
        class_name: str | None = None,
    ) -> Self:
        """Load a detector from a checkpoint of this project, or of the published format.

        Args:
            path: ``ckpt_last.pth`` or ``ckpt_best.pth``.
            device: where to run; None takes the best that is there.
            config: describes the network of a published checkpoint, which holds no config of ours. Of a checkpoint of
                ours it replaces what is no part of the network: ``runtime``, ``evaluation``, and ``backbone.weights``
                where it names a file, or the file that the detector was trained on is not there.
            backbone_weights: where the file lies that the backbone's weights are in, which are no part of our
                checkpoints; None looks where they lay in training, relative to the current folder.
            dataset: refuse a checkpoint of another one.
            class_name: likewise.

        Raises:
            UserError: where the file is absent, does not fit, or was trained on other backbone weights, or where
                the config's ``score_pool`` is larger than the images.
        """
        stored = checkpoint.load(Path(path), kind="realnet", dataset=dataset, class_name=class_name)
        used = _with_statistics(_config_of(stored, config, Path(path)), stored)
        brings_backbone = has_backbone(stored.state_dict)
        if not brings_backbone:
            used = _with_backbone_weights(used, backbone_weights, Path(path))
        model = build_detector(used, backbone_weights="given" if brings_backbone else None, only_backbone=True)
        _fill(model, stored, Path(path))
        _check_backbone(model, stored, Path(path))
        where = torch.device(device) if device else best_device()
        number_format = precisions.resolve(used.runtime.precision, where)
        make_ready(model, number_format, used.runtime)
        return cls(
            model=model,
            config=used,
            calibration=_calibration_of(stored, used, Path(path)),
            facts=dict(stored.facts),
            precision=number_format,
        )

    @overload
    def predict(  # type: ignore[overload-overlap]  # a path given as str is a sequence of str too
        self, images: Picture, *, threshold: float | None = None
    ) -> Prediction: ...

    @overload
    def predict(self, images: Sequence[Picture], *, threshold: float | None = None) -> list[Prediction]: ...

    def predict(
        self, images: Picture | Sequence[Picture], *, threshold: float | None = None
    ) -> Prediction | list[Prediction]:
        """Score one image, or several.

        Each image runs through the network by itself, so its prediction is the same to the last bit whatever others
        come with it.

        Args:
            images: uint8 RGB array (H, W, 3), PIL image or path; or a sequence of these, of any sizes, or an array of
                them (B, H, W, 3).
            threshold: on the image score; None takes the calibrated one.

        Returns:
            A :class:`Prediction`, or a list of them for several images.

        Raises:
            UserError: for a file that cannot be read, an array of another kind, or a network that gives NaN.
        """
        if isinstance(images, (str, Path, PILImage.Image)) or (isinstance(images, np.ndarray) and images.ndim != 4):
            return self._predict_one(images, threshold)
        return [self._predict_one(image, threshold) for image in images]

    def _predict_one(self, picture: Picture, threshold: float | None) -> Prediction:
        image = _to_array(picture)
        small = normalise(resize_image(image, self.config.image_size))[None]
        anomaly_map = anomaly_maps(self.model, small, self.precision).cpu().numpy()
        score = float(metrics.image_scores(anomaly_map, self.config.evaluation.score_pool)[0])
        if not np.isfinite(score):
            raise UserError(f"the detector gives NaN: {DIVERGED}")
        if threshold is None and self.calibration is not None:
            threshold = self.calibration.image_threshold
        height, width = image.shape[:2]
        full = cv2.resize(anomaly_map[0], (width, height), interpolation=cv2.INTER_LINEAR)
        return Prediction(score, full, threshold)


def require_fit(path: Path, config: RealNetConfig, *, dataset: str, class_name: str) -> None:
    """Check that a checkpoint holds the detector that its config describes; its backbone is not looked at.

    Raises:
        UserError: as :meth:`Detector.load`.
    """
    stored = checkpoint.load(path, kind="realnet", dataset=dataset, class_name=class_name)
    with torch.device("meta"):
        model = build_detector(_config_of(stored, config, path), backbone_weights="given")
    _fill(model, stored, path)


def _fill(model: RealNet, stored: Checkpoint, path: Path) -> None:
    """Load the weights; a backbone that the checkpoint does not bring stays as it is."""
    own = {f"backbone.{key}": value for key, value in model.backbone.state_dict().items()}
    kept = {} if has_backbone(stored.state_dict) else own
    checkpoint.load_into(model, {**kept, **stored.state_dict}, str(path))


def _config_of(stored: Checkpoint, config: RealNetConfig | None, path: Path) -> RealNetConfig:
    if stored.config is None:
        if config is None:
            raise UserError(f"{path} is a published checkpoint, which holds no config; give the one that describes it")
        return config
    try:
        used = RealNetConfig.model_validate(stored.config)
    except ValidationError as error:
        what = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise UserError(f"{path} holds a config that this version does not know ({what}); train it again") from error
    if config is None:
        return used
    pool, (height, width) = config.evaluation.score_pool, used.image_size
    if pool > min(height, width):
        raise UserError(f"evaluation.score_pool is {pool}, more than the {height}x{width} pixels that {path} is for")
    weights = _backbone_weights(used.backbone.weights, config.backbone.weights)
    backbone = used.backbone.model_copy(update={"weights": weights})
    return used.model_copy(update={"backbone": backbone, "runtime": config.runtime, "evaluation": config.evaluation})


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
    if not _are_to_be_had(weights):
        raise UserError(
            f"{path} needs the backbone weights {weights}, which are not there (seen from {Path.cwd()}); name the file "
            "by --set backbone.weights=FILE, in Python by Detector.load(…, backbone_weights=FILE)"
        )
    return config.model_copy(update={"backbone": config.backbone.model_copy(update={"weights": weights})})


def _backbone_weights(trained: str, here: str) -> str:
    """Return the file that this machine names, else what the detector was trained on where that is to be had."""
    return trained if here in {"hub", "none"} and _are_to_be_had(trained) else here


def _are_to_be_had(weights: str) -> bool:
    return weights in {"hub", "none"} or Path(weights).is_file()


def _calibration_of(stored: Checkpoint, config: RealNetConfig, path: Path) -> Calibration | None:
    values = stored.facts.get("calibration")
    if not values or stored.config is None:
        return None
    pool = stored.config["evaluation"]["score_pool"]
    if config.evaluation.score_pool != pool:
        logger.warning(
            "WARNING: %s was calibrated with evaluation.score_pool %d; its thresholds are left out", path, pool
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
            f"{path} was trained on other weights of {model.backbone.name} (checksum {expected[:12]}…, here "
            f"{str(found)[:12]}…); give the same file in backbone.weights (in Python: backbone_weights)"
        )


def _to_array(image: Picture) -> Image:
    if isinstance(image, (str, Path)):
        return read_image(Path(image))
    if isinstance(image, PILImage.Image):
        image = _from_pil(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise UserError(f"an image is a uint8 RGB array (H, W, 3), got {image.dtype} {image.shape}")
    return image


def _from_pil(image: PILImage.Image) -> Image:
    """Return what ``read_image`` gives of the image's file."""
    image = ImageOps.exif_transpose(image)
    if image.mode in {"I", "F"}:
        raise UserError(f"an image of PIL's mode {image.mode!r} has no known range; give its file, or 8-bit values")
    if image.mode.startswith("I;16"):
        image = PILImage.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return np.asarray(image.convert("RGB"))
