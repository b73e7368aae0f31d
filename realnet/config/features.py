"""How features are measured, and which maps are made of them (docs/method.md, Normal statistics, Fusion)."""

from typing import Literal

from pydantic import Field, PositiveInt

from realnet.config.base import Fraction, Section

DEEP = "deep"
"""The name, among a detector's blocks, of the features of ``detector.fuse.deep``."""


class FeatureConfig(Section):
    """How selected features are measured before reconstruction and RRS see them."""

    normalise: Literal["none", "channel", "pooled", "position", "auto"] = Field(
        "none",
        description="none: as the backbone gives them (published); channel: each standardised by normal images; "
        "pooled: whitened by one Gaussian of all positions; "
        "position: whitened by the Gaussian of normal images at each position; auto: what tells "
        "drawn probes best from held-out normal images",
    )
    shrinkage: Fraction | Literal["auto"] = Field(
        "auto", description="of each position's covariance towards the pooled one; auto: by the same probes"
    )
    ridge: float = Field(1e-3, gt=0, description="on the covariances' diagonals, of the mean variance")
    folds: int = Field(
        4, ge=2, description="a training image is normalised by statistics of the folds that do not hold it"
    )


class FuseConfig(Section):
    """Which maps are joined with RRS's logit into the anomaly map."""

    position: bool = Field(
        False,
        description="the normalised residual, the distance from the Gaussian at the position, and the distance from "
        "the nearest normal feature; needs features.normalise",
    )
    deep: bool = Field(
        False,
        description="with position: the distance of the backbone's last two levels from their Gaussian, too; they see "
        "more of an anomaly's surroundings than blocks do",
    )
    memory: PositiveInt = Field(
        4096, description="normal features that are kept of a block, for the distance to the nearest one"
    )


class DetectorConfig(Section):
    """What the anomaly map is made of."""

    fuse: FuseConfig = FuseConfig()
