"""What the configs of all stages share: value types, and the sections on runtime, optimiser and training."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from realnet.config.paths import is_inside

Auto = Literal["auto"]
"""Follows from something else, such as the backbone's levels, before it is needed."""
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Decay = Annotated[float, Field(ge=0, lt=1)]


def _pair(value: object) -> object:
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value


def _name(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Draws = Annotated[
    Literal[1, 2],
    Field(description="how random numbers follow from the seed; 1: as in version 1.0, to repeat what it drew"),
]
ImageSize = Annotated[tuple[Positive, Positive], BeforeValidator(_pair)]
"""(height, width) in pixels; one number means a square."""


def _folder(name: str) -> str:
    if not is_inside(name):
        raise ValueError("a class is a folder of images: its name must not lead out of the folders above it")
    return name


ClassName = Annotated[str, BeforeValidator(_name), AfterValidator(_folder)]
Respacing = Annotated[str, BeforeValidator(_name)]
"""The diffusion steps to take: how many (``20``), how many per section (``10,5``), DDIM's spacing (``ddim20``), or
as many evenly spread in log-SNR (``snr10``)."""


class Section(BaseModel):
    """A frozen part of a config; it refuses unknown keys, infinities, and booleans in place of other values."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    holds_names: ClassVar[bool] = False
    """Whether plain values in YAML stay the text that they are written as: ``1e3`` and ``true`` may name folders."""

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_bool(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("must not be true or false")
        return value


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
            raise ValueError(f"a range starts with its smaller number, got {self.low} to {self.high}")
        return self


class RuntimeConfig(Section):
    """How the work runs; affects only speed, memory and rounding."""

    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = Field(
        "auto",
        description="auto: bf16 on a GPU that has it, and on a CPU where a detector's file says that it is faster and "
        "agrees (docs/bundle.md), else fp32; tf32: float32 of 10 bits after the point in the products, on GPUs by "
        "NVIDIA, where fp32 has all 23",
    )
    num_workers: int = Field(
        4, ge=0, description="processes that load data, per training process; at most one a processor"
    )
    channels_last: bool = Field(True, description="memory layout of images and weights on a GPU")
    activation_checkpointing: bool = Field(False, description="saves memory in training, for about a third more time")
    compile: bool = Field(
        False, description="torch.compile the networks; needs a C++ compiler, and delays the first step by minutes"
    )


class OptimiserConfig(Section):
    """Adam and its learning rate over time."""

    learning_rate: float = Field(1e-4, gt=0)
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["constant", "cosine"] = Field("constant", description="cosine: falls to 1 % at the last step")
    warmup_steps: int = Field(0, ge=0)
    max_grad_norm: float | None = Field(None, gt=0, description="None: gradients are not clipped")


class ClippedOptimiserConfig(OptimiserConfig):
    """Adam with clipped gradients."""

    max_grad_norm: float | None = Field(1.0, gt=0)


class TrainConfig(Section):
    """Length and batches of a training stage."""

    batch_size: Positive = Field(16, description="per process and micro-step")
    accumulation: Positive = Field(1, description="micro-steps averaged into one optimiser step")
    num_epochs: Positive = 1000
    num_steps: Positive | None = Field(None, description="optimiser steps; replaces num_epochs if given")
    checkpoint_interval_steps: Positive = 1000
    log_interval_steps: Positive = 10
    augment: bool = Field(False, description="random flips and 90° rotations")


class TrainingConfig(Section):
    """What all training stages share."""

    seed: Seed = 0
    draws: Draws = 2
    optimiser: OptimiserConfig = OptimiserConfig()
    train: TrainConfig = TrainConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    def seeded(self, seed: int | None) -> Self:
        """Return the config with another seed; None keeps its own."""
        return self if seed is None else self.model_copy(update={"seed": seed})
