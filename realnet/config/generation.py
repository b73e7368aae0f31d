"""The configs of the generating stages: diffusion, classifier, SDAS sampling."""

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from realnet.config.base import (
    ClassName,
    ClippedOptimiserConfig,
    Draws,
    Fraction,
    ImageSize,
    Positive,
    Range,
    Respacing,
    RuntimeConfig,
    Section,
    Seed,
    TrainConfig,
    TrainingConfig,
)


class ProcessConfig(Section):
    """The diffusion process of ADM (docs/method.md, Diffusion process)."""

    noise_schedule: Literal["linear", "cosine"] = "linear"
    num_steps: Positive = 1000


class NetworkConfig(Section):
    """Sizes of an ADM U-Net or of its encoder half."""

    channels: Positive
    channel_mult: tuple[Positive, ...] = Field((1, 1, 2, 2, 4, 4), min_length=1)
    num_res_blocks: Positive = 2
    attention_resolutions: tuple[Positive, ...] = Field(
        (32, 16, 8), description="apply attention where the shorter side of the feature map has one of these lengths"
    )
    num_head_channels: Positive = 64
    dropout: Fraction = 0.0

    def attention_downsampling(self, image_size: tuple[int, int]) -> tuple[int, ...]:
        """Return the downsampling factors at which the feature map's shorter side is an attention resolution."""
        factors = [2**level for level in range(len(self.channel_mult))]
        return tuple(factor for factor in factors if min(image_size) / factor in self.attention_resolutions)

    def check_image_size(self, image_size: tuple[int, int]) -> None:
        """Check that both sides of the image are multiples of the total downsampling.

        Raises:
            ValueError: if one is not.
        """
        factor = 2 ** (len(self.channel_mult) - 1)
        if any(side % factor for side in image_size):
            height, width = image_size
            raise ValueError(
                f"image_size {height}x{width} must be a multiple of {factor} for {len(self.channel_mult)} levels"
            )


class UNetConfig(NetworkConfig):
    """The diffusion U-Net (docs/method.md, U-Net)."""

    channels: Positive = 256


class EncoderConfig(NetworkConfig):
    """The noise-aware classifier (docs/method.md, Guidance classifier)."""

    channels: Positive = 128


class DiffusionTrainConfig(TrainConfig):
    """Length and batches of diffusion training (docs/method.md, Diffusion training)."""

    batch_size: Positive = 5
    accumulation: Positive = 3
    ema_decay: Fraction = 0.9999


class DiffusionRuntimeConfig(RuntimeConfig):
    """How diffusion training runs."""

    ema_on_cpu: bool = Field(
        False, description="keep the moving average of the weights in CPU memory, not in GPU memory"
    )


class DiffusionValidationConfig(Section):
    """The readiness check during training: DDIM round trip, and samples of several strengths.

    See docs/method.md, Readiness.
    """

    until: Literal["end", "ready"] = Field(
        "end", description="ready: stop training at the first validation that finds the model ready; at the end at most"
    )
    interval_epochs: Positive = 10
    num_batches: Positive = 7
    respacing: Respacing = "ddim20"
    strengths: tuple[Annotated[float, Field(ge=0)], ...] = Field((0.0, 0.1, 0.2), min_length=1)


class DiffusionConfig(TrainingConfig):
    """``diffusion.yaml``: the class-conditional diffusion model of a dataset."""

    image_size: ImageSize = (256, 256)
    pretrained: str | None = Field("pretrain/256x256_diffusion.pt", description="None: start from random weights")
    process: ProcessConfig = ProcessConfig()
    model: UNetConfig = UNetConfig()
    optimiser: ClippedOptimiserConfig = ClippedOptimiserConfig()
    train: DiffusionTrainConfig = DiffusionTrainConfig()
    runtime: DiffusionRuntimeConfig = DiffusionRuntimeConfig()
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
    pretrained: str | None = Field("pretrain/256x256_classifier.pt", description="None: start from random weights")
    process: ProcessConfig = ProcessConfig()
    model: EncoderConfig = EncoderConfig()
    optimiser: ClippedOptimiserConfig = ClippedOptimiserConfig()
    train: ClassifierTrainConfig = ClassifierTrainConfig()

    @model_validator(mode="after")
    def _check_image_size(self) -> Self:
        self.model.check_image_size(self.image_size)
        return self


PUBLISHED_STRENGTH = Range(low=0.1, high=0.2)
ONE_RANGE, BY_CLASS = "one range", "ranges by class"


def _form_of(strength: object) -> str:
    is_range = isinstance(strength, dict) and not any(isinstance(value, (list, tuple)) for value in strength.values())
    return (
        BY_CLASS if isinstance(strength, dict) and not (is_range and {"low", "high"} >= strength.keys()) else ONE_RANGE
    )


Strength = Annotated[
    Annotated[Range, Tag(ONE_RANGE)] | Annotated[dict[ClassName, Range], Field(min_length=1), Tag(BY_CLASS)],
    Discriminator(_form_of),
]


class SampleConfig(Section):
    """``sample.yaml``: strength-controllable diffusion anomaly synthesis (docs/method.md, SDAS)."""

    seed: Seed = 0
    draws: Draws = 2
    diffusion: str | None = Field(None, description="a checkpoint; None: the dataset's own ckpt_last.pth")
    classifier: str | None = Field(None, description="a checkpoint; None: the dataset's own, if there is one")
    num_samples: Positive = Field(10_000, description="images per class")
    strength: Strength = Field(
        PUBLISHED_STRENGTH,
        description="anomaly strength s, drawn per image: a range, or ranges by class (0.1 to 0.2 where there is none)",
    )
    sampler: Literal["ancestral", "ddim", "dpm"] = Field(
        "ancestral", description="dpm: DPM-Solver++(2M), for few steps; needs respacing snrN"
    )
    respacing: Respacing = "ddim20"
    eta: Fraction = Field(0.0, description="DDIM's noise (0: none); no effect on the other samplers")
    guidance: bool = Field(True, description="use the classifier if one is trained")
    guidance_scale: float = Field(1.0, ge=0)
    require_ready: bool = Field(True, description="refuse a diffusion model whose validation says that it is not ready")
    batch_size: Positive = 16
    format: Literal["jpg", "png"] = "jpg"
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="after")
    def _check_respacing(self) -> Self:
        if self.sampler == "dpm" and not self.respacing.startswith("snr"):
            raise ValueError(
                f"sampler dpm takes steps that are even in log-SNR: set respacing to snr10, not {self.respacing}"
            )
        return self

    @model_validator(mode="after")
    def _check_strength(self) -> Self:
        for strength in self.strength.values() if isinstance(self.strength, dict) else [self.strength]:
            if strength.low < 0:
                raise ValueError(f"strength must be 0 (normal images) or more, got {strength.low}")
        return self

    def of_class(self, class_name: str) -> Self:
        """Return the settings of a class: with its own range of strengths."""
        return self.model_copy(update={"strength": self.strength_of(class_name)})

    def strength_of(self, class_name: str) -> Range:
        """Return a class's range of strengths."""
        return self.strength.get(class_name, PUBLISHED_STRENGTH) if isinstance(self.strength, dict) else self.strength
