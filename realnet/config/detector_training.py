"""What the detector's training is made of: its loss, its length and its batches (docs/method.md, Detector training)."""

from typing import Literal, Self

from pydantic import Field, model_validator

from realnet.config.base import Positive, RuntimeConfig, Section, TrainConfig


class LossConfig(Section):
    """The detector's loss: segmentation + reconstruction."""

    segmentation: Literal["cross_entropy", "focal"] = "cross_entropy"
    segmentation_weight: float = Field(1.0, ge=0)
    reconstruction_weight: float = Field(1.0, ge=0)
    focal_gamma: float = Field(2.0, ge=0)


class DetectorRuntimeConfig(RuntimeConfig):
    """How detectors are trained and evaluated."""

    features_mib: int = Field(
        1024,
        ge=0,
        description="most MiB for the backbone's features of images, which the detectors of a command share on a CPU",
    )
    keep_features: bool = Field(
        False, description="keep these features on disk, in data/.features, where later commands find them"
    )


SMALLEST_OWN_BATCH = 8
"""Images whose statistics serve a batch norm by themselves."""


class DetectorTrainConfig(TrainConfig):
    """Length and batches of detector training."""

    accumulation: Positive = Field(
        1,
        description="micro-steps averaged into one optimiser step; RRS's batch norms take each micro-batch by itself "
        "(of all processes together), so k micro-batches are not quite a batch k times as large",
    )
    batch_norm: Literal["joint", "own"] = Field(
        "joint",
        description="statistics of RRS's batch norms in several processes: of their batches joined; own: of each one's "
        f"own batch, of at least {SMALLEST_OWN_BATCH} images, so that none waits for another",
    )
    evaluation_interval_epochs: Positive = 5
    evaluation: bool = Field(True, description="score the test split while training, to keep ckpt_best as published")

    @model_validator(mode="after")
    def _check_batch_norm(self) -> Self:
        if self.batch_norm == "own" and self.batch_size < SMALLEST_OWN_BATCH:
            raise ValueError(
                f"batch_norm own needs batches of at least {SMALLEST_OWN_BATCH} images, but batch_size is "
                f"{self.batch_size}; set batch_norm to joint, or batch_size to {SMALLEST_OWN_BATCH}"
            )
        return self
