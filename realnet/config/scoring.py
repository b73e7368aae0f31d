"""How photographs are cut into tiles, scored and judged."""

from typing import Annotated, Literal

from pydantic import Field

from realnet.config.base import Auto, ImageSize, Positive, Section


class TilesConfig(Section):
    """The tiles in which a photograph of ``image_size`` is learned and judged (docs/method.md, Tiles)."""

    size: ImageSize = (256, 256)
    overlap: float = Field(0.25, ge=0, lt=1, description="share of a tile's side that its neighbours cover too")
    context: bool = Field(
        False,
        description="see the whole photograph too, shrunk to a tile's size: for missing parts and large defects",
    )


class CalibrationConfig(Section):
    """Thresholds and display scale, fixed without test labels at the end of training."""

    holdout_fraction: Auto | Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="training images kept from the weights; 0: calibrated on the training images; auto (own datasets): "
        "a tenth and at least 32 images; of a class with fewer than 128 none, or a tenth if features.normalise is used",
    )
    num_anomalies: Positive = Field(64, description="local anomalies to calibrate on")


class EvaluationConfig(Section):
    """Scores and their metrics."""

    batch_size: Positive = 16
    score_pool: Positive | Literal["auto"] | None = Field(
        None,
        description="side of the average pool (px) before an image's maximum; None: in training the published 16, in "
        "use the detector's own; auto: chosen after training on held-out normal images with drawn anomalies",
    )
    aupro_fpr_limit: float = Field(0.3, gt=0, le=1)
    resolution: Literal["input", "file"] = Field(
        "input", description="pixels that pixel metrics count: of the detector's input, or of the files, maps enlarged"
    )
    mask_resize: Literal["nearest", "regions"] = Field(
        "nearest",
        description="of masks, to the input: the nearest pixel (published), which breaks thin regions and loses small "
        "ones; or regions: each stays one",
    )

    @property
    def pool(self) -> int:
        """Return the pool's side in pixels; where none is chosen yet, the published one."""
        return self.score_pool if isinstance(self.score_pool, int) else 16
