"""Typed configs: one model a stage, whose defaults are the published values; YAML files list what differs."""

import difflib
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from realnet import paths
from realnet.errors import UserError

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
AnomalyType = Literal["normal", "sdas", "dtd", "self"]


def _pair(value: object) -> object:
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value


def _name(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


ImageSize = Annotated[tuple[Positive, Positive], BeforeValidator(_pair)]
"""(height, width) in pixels; one number means a square."""
ClassName = Annotated[str, BeforeValidator(_name)]


class Section(BaseModel):
    """A frozen part of a config that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Range(Section):
    """A closed interval, written in YAML as two numbers."""

    low: float
    high: float

    @model_validator(mode="before")
    @classmethod
    def _from_two_numbers(cls, value: object) -> object:
        return {"low": value[0], "high": value[1]} if isinstance(value, (list, tuple)) and len(value) == 2 else value

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"the first number of a range is its smallest, got {self.low} to {self.high}")
        return self


class ForegroundRule(Section):
    """How the foreground of a class is found: threshold of a channel, then square morphology (sides in pixels)."""

    channel: Literal["grey", "red", "green", "blue"] = "grey"
    threshold: Literal["otsu", "triangle"] = "otsu"
    polarity: Literal["bright", "dark"] = "bright"
    close: int = Field(0, ge=0)
    open: int = Field(0, ge=0)


Foreground = Literal["full", "auto"] | ForegroundRule


class DatasetConfig(Section):
    """``dataset.yaml``: where the images are, which classes, and each class's foreground rule."""

    image_root: str
    classes: tuple[ClassName, ...] | None = Field(None, description="None: the folders found under image_root")
    foreground: dict[ClassName, Foreground] = Field(default_factory=dict, description="by class; others are 'auto'")

    @model_validator(mode="after")
    def _check_classes(self) -> Self:
        unknown = sorted(set(self.foreground) - set(self.classes or self.foreground))
        if unknown:
            raise ValueError(f"foreground names {', '.join(unknown)}, which classes does not")
        return self

    def foreground_of(self, class_name: str) -> Foreground:
        """Return the class's rule, ``auto`` where there is none."""
        return self.foreground.get(class_name, "auto")


class RuntimeConfig(Section):
    """How the work is run; changes nothing but speed, memory and rounding."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 on a GPU that has it, else fp32"
    )
    num_workers: int = Field(4, ge=0, description="processes that load data, per training process")
    channels_last: bool = Field(True, description="memory layout of images and weights on a GPU")
    activation_checkpointing: bool = Field(False, description="U-Net training: less memory for about a third more time")


class OptimiserConfig(Section):
    """Adam and its learning rate over time."""

    learning_rate: float = Field(1e-4, gt=0)
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["constant", "cosine"] = Field("constant", description="cosine: falls to 1 % at the last step")
    warmup_steps: int = Field(0, ge=0)
    max_grad_norm: float | None = Field(None, gt=0, description="None: gradients are not clipped")


class TrainConfig(Section):
    """Length and batches of a training stage."""

    batch_size: Positive = Field(16, description="per process and micro-step")
    accumulation: Positive = Field(1, description="micro-steps averaged into one optimiser step")
    num_epochs: Positive = 1000
    num_steps: Positive | None = Field(None, description="optimiser steps; where given, instead of num_epochs")
    checkpoint_interval_steps: Positive = 1000
    log_interval_steps: Positive = 10
    augment: bool = Field(False, description="random flips and 90° rotations")


class TrainingConfig(Section):
    """What the training stages have in common."""

    seed: int = 0
    optimiser: OptimiserConfig = OptimiserConfig()
    train: TrainConfig = TrainConfig()
    runtime: RuntimeConfig = RuntimeConfig()


class ProcessConfig(Section):
    """The diffusion process (ADM)."""

    noise_schedule: Literal["linear", "cosine"] = "linear"
    num_steps: Positive = 1000


class NetworkConfig(Section):
    """Sizes of an ADM U-Net or of its encoder half."""

    channels: Positive
    channel_mult: tuple[Positive, ...] = (1, 1, 2, 2, 4, 4)
    num_res_blocks: Positive = 2
    attention_resolutions: tuple[Positive, ...] = Field(
        (32, 16, 8), description="feature sides (of the shorter image side) at which attention is applied"
    )
    num_head_channels: Positive = 64
    dropout: Fraction = 0.0

    def attention_downsampling(self, image_size: tuple[int, int]) -> tuple[int, ...]:
        """Return the downsampling factors at which the feature map's shorter side is an attention resolution."""
        factors = [2**level for level in range(len(self.channel_mult))]
        return tuple(factor for factor in factors if min(image_size) / factor in self.attention_resolutions)

    def check_image_size(self, image_size: tuple[int, int]) -> None:
        """Raise ValueError where the image's sides are no multiples of the total downsampling."""
        factor = 2 ** (len(self.channel_mult) - 1)
        if any(side % factor for side in image_size):
            height, width = image_size
            raise ValueError(
                f"image_size {height}x{width} must be a multiple of {factor} for {len(self.channel_mult)} levels"
            )


class UNetConfig(NetworkConfig):
    """The diffusion U-Net."""

    channels: Positive = 256


class EncoderConfig(NetworkConfig):
    """The noise-aware classifier."""

    channels: Positive = 128


class DiffusionTrainConfig(TrainConfig):
    """Length and batches of diffusion training."""

    batch_size: Positive = 5
    accumulation: Positive = 3
    ema_decay: Fraction = 0.9999


class DiffusionValidationConfig(Section):
    """The health check during training: DDIM round trip and samples of several strengths."""

    interval_epochs: Positive = 10
    num_batches: Positive = 7
    respacing: str = "ddim20"
    strengths: tuple[float, ...] = (0.0, 0.1, 0.2)


class ClippedOptimiserConfig(OptimiserConfig):
    """Adam with clipped gradients."""

    max_grad_norm: float | None = Field(1.0, gt=0)


class DiffusionConfig(TrainingConfig):
    """``diffusion.yaml``: the class-conditional diffusion model of a dataset."""

    image_size: ImageSize = (256, 256)
    pretrained: str | None = Field("pretrain/256x256_diffusion.pt", description="None: from random weights")
    process: ProcessConfig = ProcessConfig()
    model: UNetConfig = UNetConfig()
    optimiser: ClippedOptimiserConfig = ClippedOptimiserConfig()
    train: DiffusionTrainConfig = DiffusionTrainConfig()
    validation: DiffusionValidationConfig = DiffusionValidationConfig()

    @model_validator(mode="after")
    def _check_image_size(self) -> Self:
        self.model.check_image_size(self.image_size)
        return self


class ClassifierTrainConfig(TrainConfig):
    """Length and batches of classifier training."""

    batch_size: Positive = 20
    validation_interval_epochs: Positive = 1


class ClassifierConfig(TrainingConfig):
    """``classifier.yaml``: the noise-aware classifier that guides sampling."""

    image_size: ImageSize = (256, 256)
    pretrained: str | None = Field("pretrain/256x256_classifier.pt", description="None: from random weights")
    process: ProcessConfig = ProcessConfig()
    model: EncoderConfig = EncoderConfig()
    optimiser: ClippedOptimiserConfig = ClippedOptimiserConfig()
    train: ClassifierTrainConfig = ClassifierTrainConfig()

    @model_validator(mode="after")
    def _check_image_size(self) -> Self:
        self.model.check_image_size(self.image_size)
        return self


class SampleConfig(Section):
    """``sample.yaml``: strength-controllable diffusion anomaly synthesis (SDAS)."""

    seed: int = 0
    diffusion: str | None = Field(None, description="a checkpoint; None: the dataset's own ckpt_last.pth")
    classifier: str | None = Field(None, description="a checkpoint; None: the dataset's own, where there is one")
    num_samples: Positive = Field(10_000, description="images per class")
    strength: Range = Field(Range(low=0.1, high=0.2), description="anomaly strength s, drawn per image")
    sampler: Literal["ancestral", "ddim"] = "ancestral"
    respacing: str = "ddim20"
    eta: Fraction = Field(0.0, description="DDIM's noise; the ancestral sampler has none to set")
    guidance: bool = Field(True, description="use the classifier where one is trained")
    guidance_scale: float = Field(1.0, ge=0)
    batch_size: Positive = 16
    format: Literal["jpg", "png"] = "jpg"
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="after")
    def _check_strength(self) -> Self:
        if self.strength.low < 0:
            raise ValueError(f"strength starts at 0 (normal images), got {self.strength.low}")
        return self


class BackboneConfig(Section):
    """The frozen feature extractor: a timm model, or ``torchvision/<name>``."""

    name: str = "wide_resnet50_2.racm_in1k"
    weights: str = Field("hub", description="hub (the model's own), none (random), or a file")


class BlockConfig(Section):
    """Feature levels at one stride, and how many channels AFS keeps of each (``all`` or a number)."""

    levels: dict[str, Positive | Literal["all"]] = Field(min_length=1)
    stride: Positive | None = Field(None, description="None: the smallest stride of its levels")


class AFSConfig(Section):
    """Anomaly-aware feature selection."""

    init_batches: Positive = 64


class ReconstructionConfig(Section):
    """The reconstruction U-Net of a block."""

    hidden_ratio: float = Field(0.5, gt=0)
    channel_mult: tuple[Positive, ...] = (1, 2, 4)
    num_res_blocks: Positive = 2
    attention_downsampling: tuple[Positive, ...] = (2, 4)
    num_head_channels: Positive = 64


class RRSConfig(Section):
    """Residual selection: how many channels each ranking keeps, and the decoder's depth."""

    modes: dict[Literal["max", "mean"], Positive] = Field({"max": 256, "mean": 256}, min_length=1)
    num_residual_layers: Positive = 2
    stop_grad: bool = Field(False, description="keep the segmentation loss from training the reconstruction")


class AnomalyConfig(Section):
    """Local anomaly synthesis: the mix of sources and the Perlin masks."""

    types: dict[AnomalyType, Annotated[float, Field(ge=0)]] = Field({"normal": 0.5, "sdas": 0.5}, min_length=1)
    opacity: dict[Literal["sdas", "dtd", "self"], Range] = {
        "sdas": Range(low=0.5, high=1.0),
        "dtd": Range(low=0.2, high=1.0),
        "self": Range(low=0.2, high=1.0),
    }
    min_perlin_scale: int = Field(0, ge=0)
    perlin_scale: Positive = Field(6, description="exponents of the Perlin periods are below this")
    perlin_threshold: float = 0.5
    dtd_root: str = "data/DTD/images"

    @model_validator(mode="after")
    def _check_types(self) -> Self:
        sources = [name for name, weight in self.types.items() if weight > 0 and name != "normal"]
        if not sources:
            raise ValueError(f"types {self.types} hold no anomaly source; give sdas, dtd or self a weight")
        missing = [name for name in sources if name not in self.opacity]
        if missing:
            raise ValueError(f"opacity lacks a range for {', '.join(missing)}")
        if self.min_perlin_scale >= self.perlin_scale:
            raise ValueError(f"perlin_scale {self.perlin_scale} must exceed min_perlin_scale {self.min_perlin_scale}")
        return self


class LossConfig(Section):
    """The detector's loss: segmentation + reconstruction."""

    segmentation: Literal["cross_entropy", "focal"] = "cross_entropy"
    segmentation_weight: float = Field(1.0, ge=0)
    reconstruction_weight: float = Field(1.0, ge=0)
    focal_gamma: float = Field(2.0, ge=0)


class DetectorTrainConfig(TrainConfig):
    """Length and batches of detector training."""

    evaluation_interval_epochs: Positive = 5
    evaluation: bool = Field(True, description="score the test split while training, to keep ckpt_best as published")


class CalibrationConfig(Section):
    """Thresholds and display scale, fixed without test labels at the end of training."""

    holdout_fraction: float = Field(
        0.0, ge=0, lt=1, description="training images kept from the weights; 0: calibrated on the training images"
    )
    num_anomalies: Positive = Field(64, description="local anomalies to calibrate on")


class EvaluationConfig(Section):
    """Scores and their metrics."""

    batch_size: Positive = 16
    score_pool: Positive = Field(16, description="side of the average pool (px) before an image's maximum")
    aupro_fpr_limit: float = Field(0.3, gt=0, le=1)


PUBLISHED_BLOCKS = {
    "block1": BlockConfig(levels={"layer1": 256}, stride=4),
    "block2": BlockConfig(levels={"layer2": 512}, stride=8),
    "block3": BlockConfig(levels={"layer3": 512}, stride=16),
    "block4": BlockConfig(levels={"layer4": 256}, stride=32),
}


class RealNetConfig(TrainingConfig):
    """``realnet.yaml``: the detector of a class."""

    seed: int = 100
    image_size: ImageSize = (256, 256)
    backbone: BackboneConfig = BackboneConfig()
    blocks: dict[str, BlockConfig] = Field(PUBLISHED_BLOCKS, min_length=1)
    afs: AFSConfig = AFSConfig()
    reconstruction: ReconstructionConfig = ReconstructionConfig()
    rrs: RRSConfig = RRSConfig()
    anomalies: AnomalyConfig = AnomalyConfig()
    loss: LossConfig = LossConfig()
    train: DetectorTrainConfig = DetectorTrainConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


ConfigT = TypeVar("ConfigT", bound=Section)


class _YamlLoader(yaml.SafeLoader):
    """YAML 1.2's plain scalars: ``1e-4`` is a number, ``01`` and ``on`` are strings."""


_YamlLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|false|False", "tTfF"),
    ("null", r"~|null|Null|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(0|[1-9][0-9_]*)", "-+0123456789"),
    ("float", r"[-+]?(([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.inf)|\.nan", "-+.0123456789"),
):
    _YamlLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def parse_yaml(text: str, source: str) -> Any:
    """Parse YAML 1.2 scalars safely.

    Raises:
        UserError: where the text is no YAML; names ``source`` and the line.
    """
    try:
        return yaml.load(text, Loader=_YamlLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from error


def load(model: type[ConfigT], path: Path, overrides: Sequence[str] = ()) -> ConfigT:
    """Read a config file and apply ``a.b=value`` overrides, checked alike.

    Raises:
        UserError: names the file, the full key, the value, and the nearest valid key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read the config {path}: {error.strerror}") from error
    values = parse_yaml(text, str(path)) or {}
    if not isinstance(values, Mapping):
        raise UserError(f"{path} must hold keys and values, got {type(values).__name__}")
    config = _validate(model, values, str(path))
    if not overrides:
        return config
    changed = config.model_dump()
    for override in overrides:
        _apply_override(changed, override)
    return _validate(model, changed, "--set")


def experiments() -> list[str]:
    """Return the names of the datasets that have a folder of configs."""
    return sorted(path.parent.name for path in paths.EXPERIMENTS.glob("*/dataset.yaml"))


def load_dataset(dataset: str) -> DatasetConfig:
    """Read ``experiments/<dataset>/dataset.yaml``.

    Raises:
        UserError: where there is no such dataset; names those that there are, and how to add one.
    """
    path = paths.experiment(dataset) / "dataset.yaml"
    if not path.is_file():
        known = ", ".join(experiments()) or "none in this folder: start the scripts from the project's folder"
        raise UserError(
            f"there is no dataset {dataset!r}: {path} does not exist (datasets: {known}); "
            f"add your own with: python prepare_data.py add --name {dataset} --source <folder of images>"
        )
    return load(DatasetConfig, path)


def dump(config: Section) -> str:
    """Return a config as YAML, complete and in the order of its fields."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set takes key=value, such as train.batch_size=8, got {override!r}")
    *parents, last = key.split(".")
    for parent in parents:
        if values.get(parent) is None:
            values[parent] = {}
        values = values[parent]
        if not isinstance(values, dict):
            raise UserError(f"--set {override}: {parent} holds a value, not keys")
    values[last] = parse_yaml(text, f"--set {override}")


def _validate(model: type[ConfigT], values: Mapping, source: str) -> ConfigT:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [f"  {_explain(model, problem)}" for problem in error.errors()]
        raise UserError("\n".join([f"{source}:", *dict.fromkeys(lines)])) from error


def _explain(model: type[BaseModel], problem: Any) -> str:
    location = [str(part) for part in problem["loc"] if not _is_union_branch(str(part))]
    key = ".".join(location) or "(whole file)"
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(location[-1], _keys_at(model, location[:-1]), n=1, cutoff=0.4)
        valid = ".".join([*location[:-1], *near]) if near else ", ".join(_keys_at(model, location[:-1]))
        return f"{key}: unknown key (value {problem['input']!r}); did you mean {valid}?"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{key}: {message}" + ("" if isinstance(problem["input"], dict) else f" (got {problem['input']!r})")


def _is_union_branch(part: str) -> bool:
    """Tell pydantic's own words for a union's branches from the user's keys."""
    return part.startswith(("constrained-", "literal[", "function-")) or part in {"ForegroundRule", "int", "str"}


def _keys_at(model: type[BaseModel], location: Sequence[str]) -> list[str]:
    """Return the fields of the section that a location leads to; a dict's own key is passed over."""
    current: Any = model
    for part in location:
        is_mapping = typing.get_origin(current) is dict
        current = typing.get_args(current)[1] if is_mapping else current.model_fields[part].annotation
        if typing.get_origin(current) in (typing.Union, types.UnionType):
            current = next((a for a in typing.get_args(current) if hasattr(a, "model_fields")), current)
    return list(getattr(current, "model_fields", {}))
