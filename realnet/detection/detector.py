"""A trained detector: load it from a checkpoint and get verdicts on images."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, cast, overload

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from realnet.config import RealNetConfig
from realnet.data.images import Image, resize_image
from realnet.detection import description
from realnet.detection.calibration import Calibration, pixel_threshold
from realnet.detection.half import half_suits
from realnet.detection.inputs import ImageInput, to_image, to_images
from realnet.detection.loading import calibration_of, config_of, load_network
from realnet.detection.maps import DIVERGED
from realnet.detection.regions import Region, find_regions
from realnet.detection.runtimes import READERS, Runtime, TorchRuntime, choose_runtime
from realnet.detection.seal import read_description
from realnet.detection.tiling import TileJudge, rule_of
from realnet.drawing.heatmaps import Display, overlay
from realnet.errors import UserError
from realnet.models import checkpoint
from realnet.models.checkpoint import Checkpoint
from realnet.models.realnet import RealNet
from realnet.runtime.devices import best_device
from realnet.runtime.placement import make_ready
from realnet.runtime.precision import Precision, resolve


@dataclass(frozen=True)
class Prediction:
    """A detector's result for one image.

    Attributes:
        image_score: how anomalous the image is, in [0, 1] (docs/method.md, Image score).
        anomaly_map: (H, W) float32 in [0, 1], at the resolution of the given image.
        threshold: the verdict is "defect" if the image score is at least this; None: there is no verdict.
        pixel_threshold: pixels at or above it are defects; it follows ``threshold`` (docs/method.md, Calibration).
            None without a threshold.
        display_scale: the anomaly value that pictures show as hottest.
        image: the given image, uint8 RGB (H, W, 3).
        skipped_tiles: how many tiles were background alone and not judged; None where the image is seen whole.
    """

    image_score: float
    anomaly_map: NDArray[np.float32]
    threshold: float | None
    pixel_threshold: float | None = None
    display_scale: float = 1.0
    image: Image | None = field(default=None, repr=False)
    skipped_tiles: int | None = None

    @property
    def verdict(self) -> Literal["defect", "normal"] | None:
        """Return "defect" if the score reaches the threshold, else "normal"; None without a threshold."""
        if self.threshold is None:
            return None
        return "defect" if self.image_score >= self.threshold else "normal"

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """Return which pixels are defects, (H, W); none without a threshold."""
        threshold = np.inf if self.pixel_threshold is None else self.pixel_threshold
        return np.asarray(self.anomaly_map >= threshold)

    @cached_property
    def regions(self) -> list[Region]:
        """Return the connected parts of ``mask``, the highest peak first."""
        return [] if self.pixel_threshold is None else find_regions(self.anomaly_map, self.pixel_threshold)

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain values for JSON: score, verdict, thresholds, size and regions, without the map."""
        height, width = self.anomaly_map.shape
        return {
            "image_score": self.image_score,
            "verdict": self.verdict,
            "threshold": self.threshold,
            "pixel_threshold": self.pixel_threshold,
            "width": width,
            "height": height,
            **({} if self.skipped_tiles is None else {"skipped_tiles": self.skipped_tiles}),
            "regions": [asdict(region) for region in self.regions],
        }

    def overlay(self) -> Image:
        """Draw the heatmap and the outline of ``mask`` over the image; uint8 RGB (H, W, 3)."""
        image = np.zeros((*self.anomaly_map.shape, 3), np.uint8) if self.image is None else self.image
        return overlay(image, self.anomaly_map, scale=self.display_scale, threshold=self.pixel_threshold)


@dataclass(frozen=True)
class Detector:
    """A trained detector of one class, or of all classes of a dataset (docs/method.md, Detector).

    Attributes:
        runtime: computes anomaly maps.
        config: the config that it was trained with.
        calibration: thresholds and display scale; None if the file has none.
        facts: further values of the file (step, metrics, …).
        dataset, class_name: what it was trained on; None if the file does not say.
    """

    runtime: Runtime
    config: RealNetConfig
    calibration: Calibration | None
    facts: dict[str, Any]
    dataset: str | None = None
    class_name: str | None = None

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
        runtime: str | None = None,
    ) -> Self:
        """Load a detector from a checkpoint of this project or in the published format, a bundle, ONNX or OpenVINO.

        Args:
            path: ``ckpt_last.pth``, ``ckpt_best.pth``, or a file that ``export_realnet.py`` wrote (``.realnet``,
                ``.onnx``, ``.xml``).
            device: the device to run on; None takes the best one available. ONNX and OpenVINO run on the CPU.
            precision: number format and device; replaces ``device`` and the stored ``runtime.precision``.
            config: for a published checkpoint, which has no config, the description of its network. For a checkpoint of
                this project, it replaces the settings that are not part of the network: ``runtime``, ``evaluation``,
                and ``backbone.weights`` if it names a file or the file used in training is missing.
            backbone_weights: the file with the backbone's weights, which our checkpoints do not contain; None takes the
                path used in training, relative to the current folder. A bundle brings them.
            dataset: if given, refuse detectors of other datasets.
            class_name: if given, refuse detectors of other classes; of a unified detector, judge by the thresholds of
                this class instead of those for any.
            runtime: what runs an ONNX file: ``openvino`` or ``onnxruntime``; None takes the one of those installed
                that was faster when the file was exported.

        Raises:
            UserError: if the file is missing, does not fit, or was trained on other backbone weights, if the config's
                ``score_pool`` is larger than the images, or if the runtime is not installed.
        """
        path = Path(path)
        if path.suffix in READERS:
            open_exported = choose_runtime(path, runtime)
            stored = description.parse(read_description(path), path)
            checkpoint.require_match(stored, path, kind="realnet", dataset=dataset, class_name=class_name)
            used = config_of(stored, config, path)
            if used.evaluation.pool != config_of(stored, None, path).evaluation.pool:
                raise UserError(f"{path} scores with its own evaluation.score_pool; export the detector with another")
            return cls._described(open_exported(path), stored, used, path, class_name)
        if runtime is not None:
            raise UserError(
                f"--runtime {runtime} reads exported detectors ({', '.join(READERS)}); {path} runs in torch"
            )
        is_rehearsal = precision is not None and precision.device.type == "meta"
        loaded = load_network(
            path,
            config=config,
            backbone_weights=backbone_weights,
            dataset=dataset,
            class_name=class_name,
            mapped=is_rehearsal,
        )
        if precision is None:
            place = torch.device(device) if device else best_device()
            precision = resolve(loaded.config.runtime.precision, place, half_on_cpu=half_suits(loaded.stored.facts))
        model = make_ready(loaded.model, precision, loaded.config.runtime)
        return cls._described(TorchRuntime(model, precision), loaded.stored, loaded.config, path, class_name)

    @classmethod
    def _described(
        cls, runtime: Runtime, stored: Checkpoint, config: RealNetConfig, path: Path, class_name: str | None
    ) -> Self:
        return cls(
            runtime=runtime,
            config=config,
            calibration=calibration_of(stored, config, path, class_name),
            facts=dict(stored.facts),
            dataset=stored.dataset,
            class_name=stored.class_name,
        )

    @property
    def image_bits(self) -> int:
        """Return how many bits the values of its 16-bit images use."""
        return int(self.facts.get("image_bits", 16))

    @cached_property
    def by_tiles(self) -> TileJudge | None:
        """Return how it judges photographs tile by tile; None if it sees them whole."""
        return TileJudge.of(self.config, rule_of(self.facts))

    @property
    def is_torch(self) -> bool:
        """Tell whether the detector runs in torch."""
        return isinstance(self.runtime, TorchRuntime)

    @property
    def model(self) -> RealNet:
        """Return the network, in eval mode.

        Raises:
            UserError: if the detector does not run in torch.
        """
        return self._torch().model

    @property
    def precision(self) -> Precision:
        """Return the number format and device of a detector that runs in torch; raises as ``model``."""
        return self._torch().precision

    def _torch(self) -> TorchRuntime:
        if not isinstance(self.runtime, TorchRuntime):
            raise UserError(f"an exported detector ({self.runtime.name}) has no torch network; give its checkpoint")
        return self.runtime

    def display(self, threshold: float | None = None) -> Display:
        """Return the thresholds and the colour scale that go with an image threshold; None takes the calibrated one."""
        calibration = self.calibration
        if threshold is None and calibration is not None:
            threshold = calibration.image_threshold
        return Display(
            threshold, pixel_threshold(threshold, calibration), calibration.display_scale if calibration else 1.0
        )

    @overload
    def predict(  # type: ignore[overload-overlap]  # a path given as str is a sequence of str too
        self, images: ImageInput, *, threshold: float | None = None
    ) -> Prediction: ...

    @overload
    def predict(self, images: Sequence[ImageInput], *, threshold: float | None = None) -> list[Prediction]: ...

    @overload
    def predict(self, images: Iterator[ImageInput], *, threshold: float | None = None) -> Iterator[Prediction]: ...

    def predict(
        self, images: ImageInput | Sequence[ImageInput] | Iterator[ImageInput], *, threshold: float | None = None
    ) -> Prediction | list[Prediction] | Iterator[Prediction]:
        """Score one image or several.

        Images run through the network one at a time, so a prediction is the same to the last bit whatever the other
        images are.

        Args:
            images: an image as array or tensor, PIL image or path; or several, as a sequence of images of any sizes or
                as an array (B, H, W, 3) or tensor (B, 3, H, W). Arrays are (H, W) or (H, W, 3), tensors (H, W) or
                (3, H, W): uint8, uint16, or float in [0, 1]; colours are RGB, so turn what cv2 reads with
                ``cv2.cvtColor(image, cv2.COLOR_BGR2RGB)``. An empty sequence gives an empty list. An iterator, such as
                a generator, may give any number: it is asked for an image when the prediction of that image is.
            threshold: threshold of the image score; None takes the calibrated one.

        Returns:
            A :class:`Prediction`; a list of them for several images, and an iterator of them for an iterator.

        Raises:
            UserError: for an unreadable file, another shape, type or range, an impossible threshold, or a score of NaN.
        """
        if threshold is not None and not 0 <= threshold <= 1:
            raise UserError(f"threshold {threshold} must be an image score, from 0 to 1")
        several = to_images(images)
        if several is None:
            return self._predict_one(cast(ImageInput, images), threshold)
        found = (self._predict_one(image, threshold) for image in several)
        return found if isinstance(images, Iterator) else list(found)

    def _predict_one(self, picture: ImageInput, threshold: float | None) -> Prediction:
        image = to_image(picture, bits=self.image_bits)
        anomaly_map, score, skipped = self.judge(resize_image(image, self.config.image_size))
        if not np.isfinite(score):
            raise UserError(f"the detector gives NaN: {DIVERGED}")
        display = self.display(threshold)
        height, width = image.shape[:2]
        full = np.asarray(cv2.resize(anomaly_map, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
        return Prediction(
            image_score=score,
            anomaly_map=full,
            threshold=display.threshold,
            pixel_threshold=display.pixel_threshold,
            display_scale=display.scale,
            image=image,
            skipped_tiles=skipped,
        )

    def judge(self, image: Image) -> tuple[NDArray[np.float32], float, int | None]:
        """Return the anomaly map (H, W) and the score of an image of ``config.image_size``, and the tiles skipped."""
        if self.by_tiles:
            return self.by_tiles.judge(image, self.runtime)
        maps, scores = self.runtime.judge([image], self.config.evaluation.pool)
        return maps[0], float(scores[0]), None
