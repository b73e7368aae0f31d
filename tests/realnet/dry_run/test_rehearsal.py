"""The memory that --dry-run states; benchmarks/memory.py compares it with what is measured."""

from pathlib import Path

import pytest
import torch

from realnet import config
from realnet.config import ClassifierConfig, DiffusionConfig, RealNetConfig
from realnet.dry_run import rehearsal
from realnet.models.build import build_detector
from realnet.runtime import distributed
from realnet.runtime.precision import Precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
FP32, BF16 = Precision(torch.float32, CPU), Precision(torch.bfloat16, CPU)


def diffusion(tiny: Path, *overrides: str, number_format: Precision = FP32) -> int:
    described = config.load(
        DiffusionConfig, tiny / "experiments/tiny/diffusion.yaml", ["train.batch_size=64", *overrides]
    )
    return rehearsal.diffusion_training(described, 2, number_format)


def detector(tiny: Path, *overrides: str, number_format: Precision = FP32) -> int:
    described = config.load(RealNetConfig, tiny / "experiments/tiny/realnet.yaml", ["train.batch_size=64", *overrides])
    return rehearsal.detector_training(build_detector(described), described, number_format)


@pytest.mark.parametrize("stage", [diffusion, detector])
def test_what_saves_memory_needs_less(tiny, stage):
    plain = stage(tiny)
    assert stage(tiny, number_format=BF16) < plain
    assert stage(tiny, "runtime.activation_checkpointing=true") < plain
    twice = stage(tiny, "train.batch_size=128")
    assert 1.2 * plain < twice < 2 * plain  # the weights are there once


def test_the_average_of_the_weights_may_lie_elsewhere(tiny):
    on_gpu = Precision(torch.float32, CUDA)
    elsewhere = diffusion(tiny, "runtime.ema_on_cpu=true", number_format=on_gpu)
    described = config.load(DiffusionConfig, tiny / "experiments/tiny/diffusion.yaml")
    with torch.device("meta"):
        weights = sum(p.numel() * 4 for p in rehearsal.build_unet(described, 2).parameters())
    assert diffusion(tiny, number_format=on_gpu) - elsewhere == weights
    assert diffusion(tiny, "runtime.ema_on_cpu=true") == diffusion(tiny)  # there is one memory


def test_each_stage_needs_its_weights_and_more(tiny):
    folder = tiny / "experiments/tiny"
    classifier = config.load(ClassifierConfig, folder / "classifier.yaml")
    assert rehearsal.classifier_training(classifier, 2, FP32) > 4 * 32 * 32 * 9 * 4
    model = build_detector(config.load(RealNetConfig, folder / "realnet.yaml"))
    weights = sum(p.numel() * 4 for p in model.parameters())
    assert weights < rehearsal.detection(model, (32, 32), 1, FP32) < 2 * weights


@pytest.mark.parametrize(("device", "name"), [("cuda", "bf16"), ("cpu", "fp32"), (None, "fp32")])
def test_a_plan_is_for_the_device_that_is_named(monkeypatch, device, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert distributed.plan_world(device).precision.name == name
