"""Detectors with convolutions in 8 bits."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_detector
from conftest import load_script
from exported import SMALL, graph_of, needs_packages, picture

from realnet import Detector, UserError
from realnet.detection import export
from realnet.detection.runtimes import choose_runtime
from realnet.detection.seal import read_description

COMMAND = ("--dataset", "tiny", "--class_name", "weave", "--int8", "--format", "openvino", "--output", "weave.xml")


def run(*arguments: str) -> None:
    load_script("export_realnet").main([*COMMAND, *arguments])


@pytest.fixture
def weave(tiny):
    tiny_detector.CONFIG.write_text(SMALL)
    return Detector.load(tiny_detector.save("weave"), device="cpu")


@needs_packages
def test_the_file_says_what_8_bits_change(weave, exported, monkeypatch, capsys):
    monkeypatch.setattr(export, "write_onnx", graph_of(exported / "weave.onnx"))
    run()
    printed = capsys.readouterr().out
    loaded = Detector.load("weave.xml")
    assert "in int8" in loaded.runtime.name and loaded.calibration == weave.calibration
    told = json.loads(read_description(Path("weave.xml")))["int8"]
    assert (told["calibrated_on"], told["num_images"]) == (6, 5)
    photographs = sorted(Path("data/tiny/images/weave/test").rglob("*.png"))
    own, rounded = (one.predict(photographs) for one in (weave, loaded))
    apart = [np.abs(a.anomaly_map - b.anomaly_map) for a, b in zip(own, rounded, strict=True)]
    moved = [abs(a.image_score - b.image_score) for a, b in zip(own, rounded, strict=True)]
    assert told["largest_map"] == pytest.approx(np.max(apart), abs=1e-4)
    assert told["median_score"] == pytest.approx(np.median(moved), abs=1e-4)
    assert np.mean(apart) > 1e-4
    assert set(told["float32"]) == {"image_auroc", "aupro"} and told["float32"].keys() == told["int8"].keys()
    before, after = (f"{told[name]['image_auroc']:.4f}" for name in ("float32", "int8"))
    assert f"int8       image AUROC {before} → {after}, AUPRO" in printed
    assert "written    weave.xml" in printed
    network, images = choose_runtime(Path("weave.xml"))(Path("weave.xml")), [picture(32, 32, seed) for seed in range(3)]
    assert network._network.inputs[0].partial_shape[0].is_dynamic
    together, scores = network.judge(images, 4)
    for place, image in enumerate(images):
        alone, score = network.judge([image], 4)
        np.testing.assert_allclose(alone[0], together[place], atol=1e-5)
        assert score[0] == pytest.approx(scores[place], abs=1e-5)
    kinds = {
        value.get_node().get_type_name()
        for operation in loaded.runtime._network.get_ops()
        if operation.get_type_name() == "FakeQuantize"
        for value in operation.output(0).get_target_inputs()
    }
    assert kinds <= {"Convolution", "ConvolutionBackpropData", "Reshape"} and "Convolution" in kinds
    assert sorted(path.name for path in Path().glob("*weave*")) == ["weave.bin", "weave.xml"]


@needs_packages
def test_without_the_dataset_or_its_test_images_8_bits_are_refused(weave, exported, monkeypatch, tmp_path):
    monkeypatch.setattr(export, "write_onnx", graph_of(exported / "weave.onnx"))
    shutil.rmtree("data/tiny/images/weave/test")
    with pytest.raises(UserError, match="tiny has no test images, on which int8 is compared with float32"):
        run()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    stored = "../experiments/tiny/realnet_checkpoints/weave/ckpt_last.pth"
    with pytest.raises(UserError, match=r"--int8 needs training and test images of the dataset 'tiny', which is not"):
        load_script("export_realnet").main(["--detector", stored, *COMMAND[4:]])


def test_what_8_bits_need_is_said(weave, monkeypatch):
    with pytest.raises(UserError, match=r"--int8 is for OpenVINO, not onnx; add --format openvino"):
        run("--format", "onnx", "--output", "weave.onnx")
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(UserError, match=r"nncf is not installed .*pip install 'realnet\[export\]'"):
        run()
