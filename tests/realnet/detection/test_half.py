"""bfloat16 on a CPU: chosen where it was measured to be fast and right."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import tiny_detector
import torch
from exported import SMALL, picture

from realnet import Detector
from realnet.detection import half, half_check
from realnet.detection.export import export_bundle
from realnet.detection.half import HalfCheck
from realnet.runtime.packing import can_pack
from realnet.runtime.precision import Precision, resolve

FASTER = HalfCheck("a CPU", (0.2, 0.1), 32, 0.01, (0.95, 0.954))
needs_bf16 = pytest.mark.skipif(not can_pack(torch.bfloat16), reason="this processor has no bfloat16")


@pytest.fixture
def weave(tiny):
    tiny_detector.CONFIG.write_text(SMALL)
    return Detector.load(tiny_detector.save("weave"), device="cpu")


def in_order(*seconds: float) -> Callable[..., float]:
    """A clock that says what it is told, whatever it times."""
    left = iter(seconds)
    return lambda run: next(left)


@pytest.mark.parametrize(
    ("change", "processor", "name"),
    [
        ({}, "a CPU", "bf16"),
        ({"image_auroc": (0.954, 0.95)}, "a CPU", "bf16"),
        ({}, "another CPU", "fp32"),
        ({"seconds": (0.1, 0.11)}, "a CPU", "fp32"),
        ({"median_map": 0.021}, "a CPU", "fp32"),
        ({"image_auroc": (0.954, 0.948)}, "a CPU", "fp32"),
        ({"median_map": None, "image_auroc": None}, "a CPU", "fp32"),
        (None, "a CPU", "fp32"),
    ],
)
def test_auto_is_bf16_where_this_cpu_was_faster_and_the_results_agree(weave, monkeypatch, change, processor, name):
    check = None if change is None else replace(FASTER, **change)
    export_bundle(weave, Path("weave.realnet"), half=check)
    monkeypatch.setattr(half, "processor", lambda: processor)
    loaded = Detector.load("weave.realnet", device="cpu")
    assert loaded.precision.name == name and loaded.facts.get("bf16") == _as_json(check)
    fixed = weave.config.model_copy(update={"runtime": weave.config.runtime.model_copy(update={"precision": "fp32"})})
    assert Detector.load("weave.realnet", device="cpu", config=fixed).precision.name == "fp32"


def test_a_dry_run_states_the_memory_of_the_format_that_the_prediction_takes(weave, monkeypatch, run_script):
    export_bundle(weave, Path("weave.realnet"), half=FASTER)
    for processor, name in (("a CPU", "bf16"), ("another CPU", "fp32")):
        monkeypatch.setattr(half, "processor", lambda processor=processor: processor)
        flags = ("--detector", "weave.realnet", "--input", "data/tiny/images/weave", "--device", "cpu", "--dry-run")
        assert f"on cpu in {name}" in run_script("predict_realnet", *flags)


@pytest.mark.parametrize("name", ["fp32", "tf32", "fp16", "bf16"])
def test_a_dry_run_for_a_gpu_takes_the_format_that_the_file_names(weave, run_script, name):
    runtime = weave.config.runtime.model_copy(update={"precision": name})
    weave = replace(weave, config=weave.config.model_copy(update={"runtime": runtime}))
    export_bundle(weave, Path("weave.realnet"))
    flags = ("--detector", "weave.realnet", "--input", "data/tiny/images/weave", "--device", "cuda", "--dry-run")
    assert f"on cuda in {name}" in run_script("predict_realnet", *flags)


def _as_json(check: HalfCheck | None) -> dict | None:
    listed = (tuple, list)
    values = asdict(check) if check else {}
    return {key: [*one] if isinstance(one, listed) else one for key, one in values.items()} or None


def test_a_file_made_of_another_keeps_no_comparison_that_it_did_not_make(weave):
    export_bundle(weave, Path("weave.realnet"), half=FASTER)
    export_bundle(Detector.load("weave.realnet", device="cpu"), Path("again.realnet"))
    assert "bf16" not in Detector.load("again.realnet", device="cpu").facts


def test_a_gpu_and_a_name_choose_for_themselves():
    assert resolve("fp32", torch.device("cpu"), half_on_cpu=True).name == "fp32"
    assert resolve("auto", torch.device("meta"), half_on_cpu=True).name == "fp32"


@needs_bf16
def test_maps_and_scores_are_compared_where_bf16_is_faster(weave, monkeypatch):
    monkeypatch.setattr(half_check, "timed", in_order(0.2, 0.1))
    photographs = [picture(seed=seed) for seed in range(5)]
    found = half_check.check_half(weave, photographs)
    assert (found.processor, found.seconds, found.num_images) == (half.processor(), (0.2, 0.1), 5)
    rounded = Detector.load(
        "experiments/tiny/realnet_checkpoints/weave/ckpt_last.pth",
        precision=Precision(torch.bfloat16, torch.device("cpu")),
    )
    images = [half_check.resize_image(one, (32, 32)) for one in photographs]
    apart = [np.abs(weave.judge(one)[0] - rounded.judge(one)[0]).max() for one in images]
    assert 0 < min(apart) <= found.median_map <= 4 * max(apart)  # the drawn defects are among them
    assert all(0 <= value <= 1 for value in found.image_auroc)


@needs_bf16
def test_where_bf16_is_slower_nothing_else_is_measured(weave, monkeypatch):
    monkeypatch.setattr(half_check, "timed", in_order(0.1, 0.2))
    found = half_check.check_half(weave, [picture()])
    assert found.seconds == (0.1, 0.2) and found.median_map is None and not found.suits


@needs_bf16
def test_the_export_of_a_bundle_says_what_it_compared(weave, monkeypatch, run_script):
    monkeypatch.setattr(half_check, "timed", in_order(0.2, 0.1))
    printed = run_script("export_realnet", "--dataset", "tiny", "--class_name", "weave", "--output", "weave.realnet")
    assert "bf16       a photograph takes 100 ms instead of 200 ms, maps differ by" in printed
    assert "over 2 photographs and as many with drawn defects" in printed  # the good ones of the test split
    assert Detector.load("weave.realnet", device="cpu").facts["bf16"]["num_images"] == 2
