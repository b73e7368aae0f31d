"""Typed configs, one model per stage, with the published defaults; YAML files list only what differs."""

from realnet.config.base import (
    OptimiserConfig,
    Range,
    RuntimeConfig,
    Section,
    TrainConfig,
    TrainingConfig,
)
from realnet.config.dataset import DatasetConfig, Foreground, ForegroundRule, MaskRule
from realnet.config.detector import (
    PUBLISHED_BLOCKS,
    AFSConfig,
    AnomalyConfig,
    AnomalyType,
    BackboneConfig,
    BlockConfig,
    CalibrationConfig,
    EvaluationConfig,
    RealDefectConfig,
    RealNetConfig,
    ReconstructionConfig,
    RRSConfig,
)
from realnet.config.detector_training import DetectorRuntimeConfig, LossConfig
from realnet.config.features import DEEP, FeatureConfig
from realnet.config.files import dump, experiments, load, load_dataset, parse_yaml
from realnet.config.generation import ClassifierConfig, DiffusionConfig, ProcessConfig, SampleConfig

__all__ = [
    "DEEP",
    "PUBLISHED_BLOCKS",
    "AFSConfig",
    "AnomalyConfig",
    "AnomalyType",
    "BackboneConfig",
    "BlockConfig",
    "CalibrationConfig",
    "ClassifierConfig",
    "DatasetConfig",
    "DetectorRuntimeConfig",
    "DiffusionConfig",
    "EvaluationConfig",
    "FeatureConfig",
    "Foreground",
    "ForegroundRule",
    "LossConfig",
    "MaskRule",
    "OptimiserConfig",
    "ProcessConfig",
    "RRSConfig",
    "Range",
    "RealDefectConfig",
    "RealNetConfig",
    "ReconstructionConfig",
    "RuntimeConfig",
    "SampleConfig",
    "Section",
    "TrainConfig",
    "TrainingConfig",
    "dump",
    "experiments",
    "load",
    "load_dataset",
    "parse_yaml",
]
