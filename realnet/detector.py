"""A trained detector for use: load it, and ask it for a verdict on any picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import torch
from PIL import Image as PILImage

from realnet import checkpoint, metrics
from realnet import precision as precisions
from realnet.calibration import Calibration
from realnet.checkpoint import Checkpoint
from realnet.config import RealNetConfig
from realnet.data.images import Image, normalise, read_image, resize_image
from realnet.errors import UserError
from realnet.inference import anomaly_maps
from realnet.models.realnet import RealNet
from realnet.networks import build_detector, has_backbone
from realnet.precision import Precision

Picture = np.ndarray | PILImage.Image | str | Path


@dataclass(frozen=True)
class Prediction:
    """What a detector says of an image.

    Attributes:
        image_score: how anomalous the image is, in [0, 1].
        anomaly_map: (H, W) float32 in [0, 1], at the input's resolution.
        is_anomalous: whether the score reaches the threshold; None where there is no threshold.
    """

    image_score: float
    anomaly_map: np.ndarray
    is_anomalous: bool | None


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
        dataset: str | None = None,
        class_name: str | None = None,
    ) -> Self:
        """Load a detector from a checkpoint of this project, or of the published format.

        Args:
            path: ``ckpt_last.pth`` or ``ckpt_best.pth``.
            device: where to run; None takes a GPU where there is one.
            config: describes the network of a published checkpoint, which holds no config of ours; ignored otherwise
                but for ``backbone.weights`` and ``runtime``, which belong to this machine.
            dataset: refuse a checkpoint of another one.
            class_name: likewise.

        Raises:
            UserError: where the file is absent, does not fit, or was trained on other backbone weights.
        """
        stored = checkpoint.load(Path(path), kind="realnet", dataset=dataset, class_name=class_name)
        used = _config_of(stored, config, Path(path))
        brings_backbone = has_backbone(stored.state_dict)
        model = build_detector(used, backbone_weights="given" if brings_backbone else None)
        own = {} if brings_backbone else {f"backbone.{k}": v for k, v in model.backbone.state_dict().items()}
        checkpoint.load_into(model, {**own, **stored.state_dict}, str(path))
        _check_backbone(model, stored, Path(path))
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        calibration = stored.facts.get("calibration")
        return cls(
            model=model.to(where).eval(),
            config=used,
            calibration=Calibration(**calibration) if calibration else None,
            facts=dict(stored.facts),
            precision=precisions.resolve(used.runtime.precision, where),
        )

    def predict(self, images: Picture | Sequence[Picture], *, threshold: float | None = None) -> Any:
        """Score one image, or several.

        Args:
            images: uint8 RGB array (H, W, 3), PIL image or path; or a sequence of these, of any sizes.
            threshold: on the image score; None takes the calibrated one.

        Returns:
            A :class:`Prediction`, or a list of them for a sequence. An image's prediction does not depend on the
            others: each runs through the network alone.
        """
        if isinstance(images, (str, Path, PILImage.Image)) or (isinstance(images, np.ndarray) and images.ndim == 3):
            return self._predict_one(_to_array(images), threshold)
        return [self._predict_one(_to_array(image), threshold) for image in images]

    def _predict_one(self, image: Image, threshold: float | None) -> Prediction:
        small = normalise(resize_image(image, self.config.image_size))[None]
        anomaly_map = anomaly_maps(self.model, small, self.precision).cpu().numpy()
        score = float(metrics.image_scores(anomaly_map, self.config.evaluation.score_pool)[0])
        if threshold is None and self.calibration is not None:
            threshold = self.calibration.image_threshold
        height, width = image.shape[:2]
        full = cv2.resize(anomaly_map[0], (width, height), interpolation=cv2.INTER_LINEAR)
        return Prediction(score, full, None if threshold is None else score >= threshold)


def _config_of(stored: Checkpoint, config: RealNetConfig | None, path: Path) -> RealNetConfig:
    if stored.config is None:
        if config is None:
            raise UserError(f"{path} holds no config (a published checkpoint); give the config that describes it")
        return config
    used = RealNetConfig.model_validate(stored.config)
    if config is None:
        return used
    backbone = used.backbone.model_copy(update={"weights": config.backbone.weights})
    return used.model_copy(update={"backbone": backbone, "runtime": config.runtime, "evaluation": config.evaluation})


def _check_backbone(model: RealNet, stored: Checkpoint, path: Path) -> None:
    expected = stored.facts.get("backbone", {}).get("checksum")
    found = model.backbone.checksum() if expected else None
    if expected != found:
        raise UserError(
            f"{path} was trained on other weights of {model.backbone.name} (checksum {expected[:12]}…, here "
            f"{str(found)[:12]}…); give the same file in backbone.weights"
        )


def _to_array(image: Picture) -> Image:
    if isinstance(image, (str, Path)):
        return read_image(Path(image))
    if isinstance(image, PILImage.Image):
        return np.asarray(image.convert("RGB"))
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise UserError(f"an image is a uint8 RGB array (H, W, 3), got {image.dtype} {image.shape}")
    return image
