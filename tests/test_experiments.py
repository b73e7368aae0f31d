"""Every YAML under ``experiments`` says what it means to, and the defaults are the published values."""

from pathlib import Path

import pytest
import torch

from realnet.config import (
    ClassifierConfig,
    DatasetConfig,
    DiffusionConfig,
    ForegroundRule,
    RealNetConfig,
    SampleConfig,
    load,
)
from realnet.models.build import build_classifier, build_detector, build_diffusion, build_unet

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
MODELS = {
    "dataset": DatasetConfig,
    "diffusion": DiffusionConfig,
    "classifier": ClassifierConfig,
    "sample": SampleConfig,
    "realnet": RealNetConfig,
}
FOLDERS = sorted(path.parent.name for path in EXPERIMENTS.glob("*/dataset.yaml"))
CLASSES = {
    "MVTec-AD": (
        "bottle cable capsule carpet grid hazelnut leather metal_nut pill screw tile toothbrush transistor wood zipper"
    ),
    "VisA": "candle capsules cashew chewinggum fryum macaroni1 macaroni2 pcb1 pcb2 pcb3 pcb4 pipe_fryum",
    "MPDD": "bracket_black bracket_brown bracket_white connector metal_plate tubes",
    "BTAD": "01 02 03",
}


def config_of(dataset: str, stage: str):
    return load(MODELS[stage], EXPERIMENTS / dataset / f"{stage}.yaml")


@pytest.mark.parametrize("dataset", FOLDERS)
def test_every_stage_of_every_dataset_loads_and_its_networks_can_be_built(dataset):
    assert {path.stem for path in (EXPERIMENTS / dataset).glob("*.yaml")} == set(MODELS)
    configs = {stage: config_of(dataset, stage) for stage in MODELS}
    with torch.device("meta"):
        build_unet(configs["diffusion"], 3)
        build_classifier(configs["classifier"], 3)
        build_detector(configs["realnet"], backbone_weights="none")
    build_diffusion(configs["diffusion"].process, configs["sample"].respacing)
    build_diffusion(configs["diffusion"].process, configs["diffusion"].validation.respacing)
    if len(configs["dataset"].classes or ()) > 1:  # the classifier guides the diffusion model
        assert configs["classifier"].image_size == configs["diffusion"].image_size


@pytest.mark.parametrize("dataset", CLASSES)
def test_the_published_datasets_differ_in_nothing_from_the_published_values(dataset):
    assert config_of(dataset, "dataset").classes == tuple(CLASSES[dataset].split())
    for stage in ("diffusion", "classifier", "sample", "realnet"):
        assert config_of(dataset, stage) == MODELS[stage]()


def rule(*values) -> ForegroundRule:
    return ForegroundRule(**dict(zip(("channel", "threshold", "polarity", "close", "open"), values, strict=False)))


@pytest.mark.parametrize(
    ("dataset", "class_names", "expected"),
    [
        ("MVTec-AD", "carpet leather tile wood cable transistor", "full"),
        ("MVTec-AD", "pill", rule("grey", "otsu", "bright", 6, 6)),
        ("MVTec-AD", "hazelnut metal_nut toothbrush", rule("grey", "triangle", "bright", 6, 6)),
        ("MVTec-AD", "bottle capsule grid screw zipper", rule("grey", "otsu", "dark", 6, 6)),
        ("VisA", "capsules", "full"),
        ("VisA", "pcb1 pcb2 pcb3 pcb4", rule("blue", "triangle", "bright", 8, 3)),
        (
            "VisA",
            "candle cashew chewinggum fryum macaroni1 macaroni2 pipe_fryum",
            rule("grey", "otsu", "bright", 3, 3),
        ),
        ("MPDD", "bracket_black bracket_brown connector", rule("green", "otsu", "dark", 6)),
        ("MPDD", "bracket_white tubes", rule("blue", "otsu", "bright", 6)),
        ("MPDD", "metal_plate", rule("grey", "otsu", "dark", 6)),
        ("BTAD", "02", "full"),
        ("BTAD", "01 03", rule("grey", "otsu", "bright", 15, 6)),
    ],
)
def test_the_published_foreground_rules(dataset, class_names, expected):
    config = config_of(dataset, "dataset")
    assert [config.foreground_of(name) for name in class_names.split()] == [expected] * len(class_names.split())


def test_the_published_diffusion_model():
    config = DiffusionConfig()
    assert (config.image_size, config.process.noise_schedule, config.process.num_steps) == ((256, 256), "linear", 1000)
    assert (config.model.channels, config.model.channel_mult) == (256, (1, 1, 2, 2, 4, 4))
    assert (config.model.num_res_blocks, config.model.num_head_channels, config.model.dropout) == (2, 64, 0)
    assert config.model.attention_resolutions == (32, 16, 8)
    assert config.model.attention_downsampling(config.image_size) == (8, 16, 32)
    assert (config.train.batch_size, config.train.accumulation, config.train.num_epochs) == (5, 3, 1000)
    assert (config.train.ema_decay, config.train.augment) == (0.9999, False)
    assert (config.validation.interval_epochs, config.validation.num_batches) == (10, 7)
    assert config.validation.strengths == (0.0, 0.1, 0.2)


def test_the_published_classifier():
    config = ClassifierConfig()
    assert (config.model.channels, config.model.channel_mult) == (128, (1, 1, 2, 2, 4, 4))
    assert (config.train.batch_size, config.train.accumulation) == (20, 1)


@pytest.mark.parametrize(("model", "limit"), [(DiffusionConfig, 1.0), (ClassifierConfig, 1.0), (RealNetConfig, None)])
def test_the_published_optimiser(model, limit):
    optimiser = model().optimiser
    assert (optimiser.learning_rate, optimiser.betas, optimiser.weight_decay) == (1e-4, (0.9, 0.999), 0)
    assert (optimiser.schedule, optimiser.warmup_steps, optimiser.max_grad_norm) == ("constant", 0, limit)


def test_the_published_sampling():
    config = SampleConfig()
    assert (config.num_samples, config.strength.low, config.strength.high) == (10_000, 0.1, 0.2)
    assert (config.sampler, config.respacing, config.guidance, config.guidance_scale) == (
        "ancestral",
        "ddim20",
        True,
        1.0,
    )


def test_the_published_detector():
    config = RealNetConfig()
    assert (config.seed, config.image_size, config.backbone.name) == (100, (256, 256), "wide_resnet50_2.racm_in1k")
    assert {name: (block.stride, block.levels) for name, block in config.blocks.items()} == {
        "block1": (4, {"layer1": 256}),
        "block2": (8, {"layer2": 512}),
        "block3": (16, {"layer3": 512}),
        "block4": (32, {"layer4": 256}),
    }
    assert config.afs.init_batches == 64
    assert (config.reconstruction.hidden_ratio, config.reconstruction.channel_mult) == (0.5, (1, 2, 4))
    assert (config.reconstruction.num_res_blocks, config.reconstruction.attention_downsampling) == (2, (2, 4))
    assert (config.rrs.modes, config.rrs.num_residual_layers) == ({"max": 256, "mean": 256}, 2)
    assert config.anomalies.types == {"normal": 0.5, "sdas": 0.5}
    opacity = {name: (bounds.low, bounds.high) for name, bounds in config.anomalies.opacity.items()}
    assert (opacity["sdas"], opacity["dtd"]) == ((0.5, 1), (0.2, 1))
    assert (config.anomalies.min_perlin_scale, config.anomalies.perlin_scale) == (0, 6)
    assert (config.loss.segmentation, config.loss.segmentation_weight, config.loss.reconstruction_weight) == (
        "cross_entropy",
        1,
        1,
    )
    assert (config.train.batch_size, config.train.num_epochs, config.train.evaluation_interval_epochs) == (16, 1000, 5)
    assert (config.evaluation.pool, config.evaluation.aupro_fpr_limit) == (16, 0.3)
