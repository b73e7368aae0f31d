"""A detector as one file."""

import copy
import json
import pickle
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import tiny_detector
import torch
from safetensors.torch import load_file

from realnet import Detector, UserError
from realnet.config import RealNetConfig, load
from realnet.detection import bundle, description
from realnet.detection.export import as_stored, export_bundle
from realnet.detection.loading import calibration_of, read_stored
from realnet.models import backbone as backbones
from realnet.models import checkpoint
from realnet.models.checkpoint import Checkpoint

BUNDLE, CONFIG = Path("weave.realnet"), Path("experiments/tiny/realnet.yaml")


@pytest.fixture
def detector(tiny):
    return Detector.load(tiny_detector.save("weave"), device="cpu")


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (40, 70, 3)).astype(np.uint8)


def members() -> dict[str, bytes]:
    with zipfile.ZipFile(BUNDLE) as file:
        return {name: file.read(name) for name in file.namelist()}


def write_members(parts: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(BUNDLE, "w", compression) as file:
        for name, data in parts.items():
            file.writestr(name, data)


def rewrite(**changes: object) -> None:
    """Change values of the bundle's description."""
    parts = members()
    parts["realnet.json"] = json.dumps(json.loads(parts["realnet.json"]) | changes).encode()
    write_members(parts)


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


def test_a_detector_that_gives_nan_is_not_exported(tiny):
    diverged = Detector.load(tiny_detector.save("weave", diverged=True), device="cpu")
    with pytest.raises(UserError, match="the detector gives NaN: its weights diverged"):
        export_bundle(diverged, BUNDLE)
    assert not BUNDLE.exists()


def test_weights_of_nan_are_refused_in_a_bundle_too(detector):
    state = detector.model.state_dict()
    export_bundle(detector, BUNDLE)
    stored = read_stored(BUNDLE)
    name = next(key for key in state if key.endswith("bias"))
    bundle.write(BUNDLE, replace(stored, state_dict={**stored.state_dict, name: state[name] + torch.nan}))
    with pytest.raises(
        UserError, match=rf"weave\.realnet holds 1 tensors with NaN or infinite weights, such as {name}"
    ):
        Detector.load(BUNDLE)


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
        as_stored(
            Detector.load(path, device="cpu", config=load(RealNetConfig, CONFIG, [f"evaluation.score_pool={n}"])), {}
        )
        for n in (16, 4)
    )
    assert kept.facts["calibration"]["image_threshold"] == kept.facts["recalibration"]["threshold"] == 0.65
    assert changed.facts["calibration"] is None and "recalibration" not in changed.facts
    assert changed.config["evaluation"]["score_pool"] == 4


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


@pytest.fixture
def described(tmp_path, monkeypatch):
    """The values of a description, of a small bundle in the current folder."""
    monkeypatch.chdir(tmp_path)
    facts = {"calibration": asdict(tiny_detector.CALIBRATION), "backbone": {"name": "resnet18"}}
    small = Checkpoint("realnet", {"a": torch.zeros(9)}, "tiny", ("weave",), "weave", config={"seed": 1}, facts=facts)
    bundle.write(BUNDLE, small)
    return json.loads(members()["realnet.json"])


def test_damaged_descriptions_are_refused_by_name(described):
    def refusal(text: str | bytes) -> str:
        with pytest.raises(UserError, match=r"^weave\.realnet ") as found:
            description.parse(text, BUNDLE)
        return str(found.value)

    for key in ("kind", "config", "facts", "dataset", "class_name"):
        for value in (None, 7, [], [1], "text", {"a": 1}):
            is_name = key in ("dataset", "class_name") and (value is None or isinstance(value, str))
            if not is_name and not (key in ("facts", "config") and isinstance(value, dict)):
                assert f"damaged: its description says {key}" in refusal(json.dumps(described | {key: value}))
    calibration, backbone = described["facts"]["calibration"], described["facts"]["backbone"]
    for wrong in [
        {"calibration": {"image_threshold": 0.5}},
        {"calibration": calibration | {"image_threshold": "high"}},
        {"calibration": calibration | {"image_threshold": "0.5"}},
        {"calibration": calibration | {"pixel_threshold": None}},
        {"calibration": calibration | {"display_scale": float("nan")}},
        {"calibration": calibration | {"more": 1}},
        {"calibration": 0.5},
        {"backbone": None},
        {"backbone": ["resnet18"]},
        {"backbone": backbone | {"mean": "grey", "std": 1}},
        {"backbone": backbone | {"mean": [0.5, 0.5, 0.5]}},
        {"backbone": backbone | {"levels": 3}},
        {"image_bits": "twelve"},
        {"image_bits": 99},
    ]:
        text = json.dumps(described | {"facts": described["facts"] | wrong})
        assert f"damaged: its description says facts.{next(iter(wrong))}" in refusal(text)
    for key in ("kind", "config", "facts"):
        assert key in refusal(json.dumps({name: value for name, value in described.items() if name != key}))
    for versions in (None, [1], {"realnet": 3}):
        assert "version 9 of its format" in refusal(json.dumps(described | {"version": 9, "versions": versions}))
    for text in ("[" * 100_000, "{", "", "\x00", b"\xff\xfe{}"):
        assert "is damaged: its description is no JSON" in refusal(text)
    for text in ("null", "[]", '"x"'):
        assert "is no detector of this project" in refusal(text)
    assert description.parse(json.dumps(described), BUNDLE).class_name == "weave"


def test_a_config_without_evaluation_keeps_its_thresholds(described):
    stored = Checkpoint("realnet", {}, config={}, facts=described["facts"])
    assert calibration_of(stored, RealNetConfig(), BUNDLE) == tiny_detector.CALIBRATION


def test_archives_that_zip_cannot_read_are_refused_by_name(described):
    whole = BUNDLE.read_bytes()
    local, central = whole.index(b"PK\x03\x04"), whole.index(b"PK\x01\x02")

    def changed(**values: int) -> bytes:
        damaged = bytearray(whole)
        for name, value in values.items():
            damaged[int(name[1:])] = value
        return bytes(damaged)

    def packed(method: int) -> bytes:
        write_members({**members(), "weights.safetensors": b"\x00" * 5000}, method)
        data = bytearray(BUNDLE.read_bytes())
        data[data.index(b"weights.safetensors") + 30] ^= 0xFF
        return bytes(data)

    encrypted = changed(**{f"_{local + 6}": 1, f"_{central + 8}": 1})
    unknown = changed(**{f"_{local + 8}": 97, f"_{central + 10}": 97})
    newer = changed(**{f"_{central + 6}": 255})
    elsewhere = changed(**{f"_{len(whole) - 5}": 255})
    methods = (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    for data in (encrypted, unknown, newer, elsewhere, whole[:-30] + whole[-22:], *map(packed, methods)):
        BUNDLE.write_bytes(data)
        with pytest.raises(UserError, match=r"weave\.realnet is truncated or damaged \(.*\); copy it again"):
            bundle.read(BUNDLE)
        other = Path("weave.pth")
        other.write_bytes(data)
        with pytest.raises(UserError, match=r"weave\.pth is "):
            read_stored(other)
        BUNDLE.write_bytes(whole)


def test_weights_that_are_none_are_refused_by_name(described):
    for weights in (b"", b"\xff" * 64, b"\x08" + bytes(7) + b"{}"):
        write_members({**members(), "weights.safetensors": weights})
        with pytest.raises(UserError, match=r"weave\.realnet is truncated or damaged"):
            bundle.read(BUNDLE)


def test_copies_of_a_detector_that_has_been_used_predict_the_same(detector, picture):
    expected = detector.predict(picture).image_score
    for same in (copy.deepcopy(detector), pickle.loads(pickle.dumps(detector))):
        assert same.predict(picture).image_score == expected
