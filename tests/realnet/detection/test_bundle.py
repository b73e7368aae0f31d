"""A detector as one file."""

import copy
import json
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_detector
import torch
from safetensors.torch import load_file

from realnet import Detector, UserError
from realnet.config import RealNetConfig, load
from realnet.detection.export import export_bundle
from realnet.models import backbone as backbones
from realnet.models import checkpoint

BUNDLE = Path("weave.realnet")


@pytest.fixture
def detector(tiny):
    return Detector.load(tiny_detector.save("weave"), device="cpu")


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (40, 70, 3)).astype(np.uint8)


def rewrite(**changes: object) -> None:
    """Change values of the bundle's description."""
    with zipfile.ZipFile(BUNDLE) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    parts["realnet.json"] = json.dumps(json.loads(parts["realnet.json"]) | changes).encode()
    with zipfile.ZipFile(BUNDLE, "w") as file:
        for name, data in parts.items():
            file.writestr(name, data)


def test_a_bundle_gives_the_same_predictions_to_the_bit_and_needs_nothing_else(detector, picture, monkeypatch):
    expected = detector.predict(picture)  # packs the convolutions
    export_bundle(detector, BUNDLE)
    monkeypatch.setattr(backbones.files, "load_file", None)
    monkeypatch.setattr(backbones.packages, "load_package", None)
    loaded = Detector.load(BUNDLE, device="cpu")
    found = loaded.predict(picture)
    assert found.anomaly_map.tobytes() == expected.anomaly_map.tobytes()
    assert (found.image_score, found.threshold) == (expected.image_score, expected.threshold)
    assert loaded.calibration == detector.calibration and loaded.config == detector.config
    assert (loaded.dataset, loaded.class_name, loaded.facts) == ("tiny", "weave", detector.facts)
    with pytest.raises(UserError, match="class 'weave', but 'widget' is needed"):
        Detector.load(BUNDLE, class_name="widget")


def test_it_holds_tensors_and_json_alone(detector, tmp_path):
    export_bundle(detector, BUNDLE, texts={"card.md": "# weave"})
    with zipfile.ZipFile(BUNDLE) as file:
        assert file.namelist() == ["realnet.json", "card.md", "weights.safetensors"]
        file.extractall(tmp_path)
    state = load_file(tmp_path / "weights.safetensors")
    expected = tiny_detector.build().state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in state)


def test_in_half_the_space_the_weights_are_rounded_and_the_statistics_are_not(detector, picture):
    export_bundle(detector, BUNDLE)
    whole = BUNDLE.stat().st_size
    export_bundle(detector, BUNDLE, storage="bfloat16")
    assert BUNDLE.stat().st_size < 0.52 * whole
    found, expected = Detector.load(BUNDLE, device="cpu").predict(picture), detector.predict(picture)
    assert 0 < abs(found.image_score - expected.image_score) < 0.05


def test_thresholds_of_another_score_pool_stay_behind(tiny):
    path = tiny_detector.save("weave")
    stored = checkpoint.load(path, kind="realnet")
    checkpoint.save(path, replace(stored, facts={**stored.facts, "recalibration": {"threshold": 0.65}}))
    kept, changed = (
        load(RealNetConfig, Path("experiments/tiny/realnet.yaml"), [f"evaluation.score_pool={pool}"])
        for pool in (16, 4)
    )
    export_bundle(Detector.load(path, device="cpu", config=changed), BUNDLE)
    found = Detector.load(BUNDLE, device="cpu")
    assert found.config.evaluation.score_pool == 4 and found.calibration is None
    assert found.facts["calibration"] is None and "recalibration" not in found.facts
    export_bundle(Detector.load(path, device="cpu", config=kept), BUNDLE)
    assert Detector.load(BUNDLE, device="cpu").facts["recalibration"] == {"threshold": 0.65}


def test_without_the_backbone_its_weights_are_asked_for(detector, picture):
    export_bundle(detector, BUNDLE, with_backbone=False)
    assert Detector.load(BUNDLE, device="cpu").predict(picture).image_score == detector.predict(picture).image_score
    config = json.loads(zipfile.ZipFile(BUNDLE).read("realnet.json"))["config"]
    rewrite(config={**config, "backbone": {**config["backbone"], "weights": "absent.pth"}})
    with pytest.raises(UserError, match=r"weave\.realnet needs the backbone weights absent\.pth"):
        Detector.load(BUNDLE, device="cpu")


def test_what_is_no_whole_bundle_of_this_version_is_refused_by_name(detector):
    export_bundle(detector, BUNDLE)
    whole = BUNDLE.read_bytes()
    for length in (len(whole) - 10, len(whole) // 2, 100):
        BUNDLE.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"weave\.realnet is truncated or damaged .*; copy it again"):
            Detector.load(BUNDLE)
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 255
    BUNDLE.write_bytes(damaged)
    with pytest.raises(UserError, match=r"weave\.realnet is truncated or damaged \(Bad CRC"):
        Detector.load(BUNDLE)
    BUNDLE.write_bytes(whole)
    rewrite(version=2, versions={"realnet": "3.1.0"})
    with pytest.raises(UserError, match=r"version 2 of its format, made by realnet 3\.1\.0; .*install a newer one"):
        Detector.load(BUNDLE)
    rewrite(format="other")
    with pytest.raises(UserError, match=r"weave\.realnet is no detector of this project"):
        Detector.load(BUNDLE)
    for data in (b"", b"no zip"):
        BUNDLE.write_bytes(data)
        with pytest.raises(UserError, match=r"weave\.realnet is no bundle"):
            Detector.load(BUNDLE)
    with zipfile.ZipFile(BUNDLE, "w") as file:
        file.writestr("other.json", "{}")
    with pytest.raises(UserError, match=r"weave\.realnet is no bundle: it holds no realnet\.json"):
        Detector.load(BUNDLE)
    BUNDLE.unlink()
    with pytest.raises(UserError, match=r"weave\.realnet does not exist; make it with: python export_realnet"):
        Detector.load(BUNDLE)


def test_copies_of_a_detector_that_has_been_used_predict_the_same(detector, picture):
    expected = detector.predict(picture).image_score
    for same in (copy.deepcopy(detector), pickle.loads(pickle.dumps(detector))):
        assert same.predict(picture).image_score == expected
