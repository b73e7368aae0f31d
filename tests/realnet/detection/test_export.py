"""Detectors as ONNX and OpenVINO files."""

import json
import pickle
import signal
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cv2
import forks
import numpy as np
import pytest
import tiny_detector
import torch
from conftest import load_script
from exported import SMALL, graph_of, needs_packages, picture

from realnet import Detector, UserError
from realnet.config import RealNetConfig
from realnet.data.images import resize_image, to_batch
from realnet.detection import export, onnx_file, runtimes
from realnet.detection.description import describe
from realnet.detection.runtimes import ExportedRuntime, TorchRuntime, choose_runtime
from realnet.detection.seal import read_description
from realnet.models import checkpoint
from realnet.models.build import build_detector
from realnet.models.by_class import looks_of
from realnet.models.checkpoint import Checkpoint
from realnet.models.statistics import IMAGENET
from realnet.runtime.precision import Precision

FLAT = {"channel_mult": [1], "num_res_blocks": 1, "num_head_channels": 8}
"""A reconstruction of one level, where other parts of the graph are of interest: that of ``SMALL`` is most of it."""


def open_exported(path: Path, runtime: str | None = None) -> ExportedRuntime:
    return choose_runtime(path, runtime)(path)


@pytest.fixture
def detector(exported, monkeypatch):
    monkeypatch.chdir(exported)
    return Detector.load("experiments/tiny/realnet_checkpoints/weave/ckpt_last.pth", device="cpu")


@needs_packages
@pytest.mark.parametrize(
    ("name", "runtime", "shown"),
    [
        ("weave.onnx", None, ""),
        ("weave.onnx", "openvino", "OpenVINO"),
        ("weave.onnx", "onnxruntime", "ONNX Runtime"),
        ("weave.xml", None, "OpenVINO"),
    ],
)
def test_the_file_gives_the_same_prediction(detector, name, runtime, shown):
    expected = detector.predict(picture())
    loaded = Detector.load(name, runtime=runtime)
    assert shown in loaded.runtime.name
    assert loaded.calibration == detector.calibration and loaded.config == detector.config
    assert (loaded.dataset, loaded.class_name, loaded.facts) == ("tiny", "weave", detector.facts)
    for same in (loaded, pickle.loads(pickle.dumps(loaded))):
        found = same.predict(picture())
        assert found.image_score == pytest.approx(expected.image_score, abs=1e-5)
        np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map, atol=1e-5)
        assert (found.verdict, found.pixel_threshold) == (expected.verdict, expected.pixel_threshold)


@needs_packages
@pytest.mark.parametrize("name", ["weave.onnx", "weave.xml"])
def test_a_file_of_12_bits_gets_the_same_score(detector, name, tmp_path):
    cv2.imwrite(str(tmp_path / "deep.png"), picture().astype(np.uint16) * 16 + 7)
    found = Detector.load(name).predict(tmp_path / "deep.png")
    assert found.image_score == pytest.approx(detector.predict(picture()[..., ::-1]).image_score, abs=1e-5)


@needs_packages
@pytest.mark.parametrize(
    ("name", "runtime"), [("weave.onnx", "openvino"), ("weave.onnx", "onnxruntime"), ("weave.xml", "openvino")]
)
def test_a_batch_of_any_size_gives_each_images_own_map_and_score(exported, name, runtime):
    network = open_exported(exported / name, runtime)
    images = [picture(32, 32, seed) for seed in range(5)]
    maps, scores = network.judge(images, 4)
    assert maps.shape == (5, 32, 32) and scores.shape == (5,)
    for index, image in enumerate(images):
        one_map, one_score = network.judge([image], 4)
        np.testing.assert_allclose(one_map[0], maps[index], atol=1e-5)
        np.testing.assert_allclose(one_score[0], scores[index], atol=1e-5)


@needs_packages
@pytest.mark.parametrize(
    ("name", "runtime"), [("weave.onnx", "openvino"), ("weave.onnx", "onnxruntime"), ("weave.xml", "openvino")]
)
def test_a_network_of_dynamic_size_gives_what_torch_gives_at_each_size(detector, name, runtime):
    network = open_exported(Path(name), runtime)
    sizes = json.loads(read_description(Path(name)))["sizes"]
    assert sizes == {"multiple_of": 16, "smallest": 64}
    for height, width in ((64, 80), (112, 64)):
        images = [picture(height, width, seed) for seed in range(2)]
        pool = detector.config.evaluation.pool
        (maps, scores), (expected, expected_scores) = (one.judge(images, pool) for one in (network, detector.runtime))
        assert maps.shape == (2, height, width)
        np.testing.assert_allclose(maps, expected, atol=1e-4)
        np.testing.assert_allclose(scores, expected_scores, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"features": {"normalise": "position"}}, r"normal features have statistics .* \(features\.normalise\); leave"),
        (
            {"features": {"normalise": "channel"}, "detector": {"fuse": {"position": True}}},
            r"joined maps have a centre for each pixel \(detector\.fuse\); leave it out",
        ),
        ({"image_size": [48, 40], "tiles": {"size": 32}}, r"tiles have one size \(tiles\.size\); leave it out"),
    ],
)
def test_what_ties_a_detector_to_one_size_is_said_and_nothing_written(tiny, changes, reason):
    tiny_detector.CONFIG.write_text(SMALL)
    changes = {"calibration": {"holdout_fraction": 0.1}, **changes}
    config = tiny_detector.config(**changes)
    runtime = TorchRuntime(build_detector(config).eval(), Precision(torch.float32, torch.device("cpu")))
    with pytest.raises(UserError, match=rf"--dynamic-size: .* 32x32 pixels alone, because its {reason}"):
        export.export_network(
            Detector(runtime, config, None, {}), Path("x.onnx"), images=[picture()], dynamic_size=True
        )
    assert not Path("x.onnx").exists()


@needs_packages
def test_an_onnx_file_knows_how_long_each_runtime_took(exported):
    seconds = onnx_file.seconds_of(exported / "weave.onnx")
    assert seconds.keys() == {"torch", "openvino", "onnxruntime"} and min(seconds.values()) > 0


@needs_packages
def test_a_runtime_reports_its_use_to_nobody_and_what_others_do_is_theirs(exported, monkeypatch):
    runtimes.import_extra("openvino")
    from openvino.tools.ovc import telemetry_utils

    assert telemetry_utils.tm.__name__ == "openvino.tools.ovc.telemetry_stub"
    own = ModuleType("openvino_telemetry")
    monkeypatch.setitem(sys.modules, "openvino_telemetry", own)
    runtimes.import_extra("openvino")
    assert sys.modules["openvino_telemetry"] is own


def come_and_go(path: Path) -> None:
    """Two networks, of which the first goes first; then a signal, whose handler needs its stack."""
    signal.signal(signal.SIGINT, lambda *_: None)
    first, second = (open_exported(path) for _ in range(2))
    del first
    del second
    signal.raise_signal(signal.SIGINT)


@needs_packages
def test_a_signal_is_survived_after_networks_have_gone(exported):
    process = forks.start(come_and_go, exported / "weave.xml")
    process.join(120)
    assert process.exitcode == 0


def field(number: int, value: bytes) -> bytes:
    """A field of a protocol buffer that holds bytes."""
    size = len(value)
    return bytes([number << 3 | 2, size % 128 | 128, size // 128 % 128 | 128, size // 128**2]) + value


def described(text: str) -> bytes:
    """What an ONNX file is for those that read its description alone: numbers, a network, further metadata, and it."""
    other, own = (field(1, key) + field(2, value) for key, value in ((b"k", b"v"), (b"realnet", text.encode())))
    return b"\x08\x0a" + field(7, b"\xff" * 300) + b"\x0d\0\0\0\0" + field(14, other) + field(14, own)


def stand_in(name: str, opened: list[str]) -> type:
    """A runtime that notes when it opens a file."""
    return type(name, (), {"__init__": lambda *_: opened.append(name), "name": name})


def test_the_installed_runtime_that_was_fastest_at_the_export_is_taken_and_no_other_opened(tmp_path, monkeypatch):
    path = tmp_path / "weave.onnx"
    config = RealNetConfig().model_dump(mode="json")
    opened: list[str] = []
    both, one_slower = {"openvino", "onnxruntime"}, {"torch": 0.1, "openvino": 0.3, "onnxruntime": 0.2}
    for seconds, installed, asked, taken in [
        (one_slower, both, None, "onnxruntime"),
        ({"torch": 0.1, "openvino": 0.2, "onnxruntime": 0.3}, both, None, "openvino"),
        (one_slower, {"openvino"}, None, "openvino"),
        (one_slower, both, "openvino", "openvino"),
        ({"openvino": 0.3}, both, None, "openvino"),
        ({"onnxruntime": 0.3}, {"openvino"}, None, "openvino"),
        ({}, both, None, "openvino"),
    ]:
        text = describe(Checkpoint("realnet", {}, config=config), seconds=seconds)
        path.write_bytes(described(text))
        opened.clear()
        made = {name: stand_in(name, opened) for name in ("openvino", "onnxruntime")}
        monkeypatch.setattr(runtimes, "RUNTIMES", made)
        find_spec = {name: object() for name in installed}.get
        monkeypatch.setattr(runtimes.importlib.util, "find_spec", find_spec)
        assert Detector.load(path, runtime=asked).runtime.name == taken and opened == [taken]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        described('{"seconds": {"onnxruntime": 1}}')[:-9],
        described("no JSON"),
        described('{"seconds": [1]}'),
        b"\x0b\0",
        b"\xff" * 99,
    ],
)
def test_a_file_that_is_damaged_says_nothing_of_runtimes(tmp_path, data):
    (tmp_path / "weave.onnx").write_bytes(data)
    assert onnx_file.seconds_of(tmp_path / "weave.onnx") == {}


@needs_packages
def test_a_network_that_differs_is_refused_and_nothing_is_written(exported, detector, monkeypatch, tmp_path):
    monkeypatch.setattr(export, "write_onnx", graph_of(exported / "weave.onnx"))
    with torch.no_grad():
        detector.model.rrs.decoder3[2]._bias[1] += 0.5
    with pytest.raises(UserError, match=r"refused: openvino differs from torch by at most .*nothing is written"):
        export.export_network(detector, tmp_path / "other.onnx", images=[picture()])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", [0, 1])
def test_nan_in_maps_or_scores_is_a_difference(monkeypatch, part):
    zeros = np.zeros((1, 4, 4)), np.zeros(1)
    network = SimpleNamespace(judge=lambda images: zeros, arrays=lambda images: {}, pool=1)
    found = [np.zeros((1, 4, 4)), np.zeros(1)]
    found[part] = found[part] + np.nan
    monkeypatch.setattr(export, "installed_readers", lambda _: ["openvino"])
    monkeypatch.setattr(export, "choose_runtime", lambda *_: lambda _: SimpleNamespace(judge=lambda *_: found))
    with pytest.raises(UserError, match=r"the exported detector is refused: openvino differs .* nan"):
        export._compare(network, Path("x.onnx"), [[picture(4, 4)]])


@needs_packages
def test_files_of_another_detector_or_of_no_detector_are_refused_by_name(exported):
    with pytest.raises(UserError, match="class 'weave', but 'widget' is needed"):
        Detector.load(exported / "weave.onnx", class_name="widget")
    with pytest.raises(UserError, match=r"an exported detector .* has no torch network; give its checkpoint"):
        _ = Detector.load(exported / "weave.onnx").model


def test_what_cannot_be_exported_is_said(tiny, monkeypatch):
    path = tiny_detector.save("weave")
    half = Detector.load(path, precision=Precision(torch.bfloat16, torch.device("cpu")))
    with pytest.raises(UserError, match="exported from float32, not bf16"):
        export.export_bundle(half, Path("x.realnet"))
    command = ("--detector", str(path), "--format")
    main = load_script("export_realnet").main
    for flags, reason in (
        (("bundle", "--dynamic-size"), "--dynamic-size is for networks, not a bundle; add --format onnx"),
        (("openvino", "--dynamic-size", "--int8"), "--int8 measures .* own size; leave --dynamic-size out"),
    ):
        with pytest.raises(UserError, match=reason):
            main([*command, *flags])
    with pytest.raises(UserError, match=r"--output x\.onnx: the suffix of the format bundle is \.realnet"):
        main([*command, "bundle", "--output", "x.onnx"])
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"onnx is not installed .*pip install 'realnet\[export\]'"):
        main([*command, "onnx", "--output", "x.onnx"])
    with pytest.raises(UserError, match=r"absent\.onnx does not exist; make it with python export_realnet\.py"):
        Detector.load("absent.onnx")
    with pytest.raises(UserError, match=r"--runtime onnxruntime does not read absent\.xml; give openvino"):
        Detector.load("absent.xml", runtime="onnxruntime")


def test_images_to_compare_on_are_the_given_ones_the_datasets_or_drawings(tiny):
    from realnet.commands.export import _images

    detector = Detector.load(tiny_detector.save("weave"), device="cpu")
    assert len(_images(None, detector)) == 8
    assert len(_images(Path("data/tiny/images/weave/test/good"), detector)) == 2
    other = Detector.load(tiny_detector.save("weave", dataset="unknown"), device="cpu")
    drawn = _images(None, other)
    assert len(drawn) == 8 and len({image.tobytes() for image in drawn}) == 8


@needs_packages
def test_a_network_of_tiles_gives_joined_maps_and_the_photograph_is_cut_and_blended_outside(tiny):
    tiny_detector.CONFIG.write_text(SMALL)
    changes = {
        "image_size": [48, 40],
        "tiles": {"size": 32, "context": True},
        "blocks": {"block1": {"levels": {"layer1": 16}}},
        "features": {"normalise": "pooled"},
        "reconstruction": FLAT,
        "detector": {"fuse": {"position": True, "memory": 16}},
        "calibration": {"holdout_fraction": 0.1},
    }
    config = tiny_detector.config(**changes)
    torch.manual_seed(0)
    model = build_detector(config).eval()
    for nearest in model.nearest.values():
        nearest.memory.normal_()
    model.fusion.weights.copy_(torch.tensor([0.3, 0.3, 0.2, 0.2]))
    model.fusion.score_weights.copy_(torch.tensor([0.0, 0.2, 0.3, 0.5]))
    model.context.gaussian.mean.normal_()
    model.context.slopes.copy_(torch.tensor([0.5, 1.0]))
    model.context.offsets.copy_(torch.tensor([-0.5, -1.5]))
    path = tiny_detector.save("weave")
    values = torch.load(path, weights_only=True)
    checkpoint.write(path, {**values, "config": config.model_dump(mode="json"), "state_dict": model.trainable_state()})
    detector = Detector.load(path, device="cpu")
    (parity, other) = export.export_network(detector, Path("tiles.onnx"), images=[picture(), picture(48, 40, 1)])
    assert max(parity.anomaly_map, other.anomaly_map, parity.image_score, other.image_score) < 1e-5
    loaded = Detector.load("tiles.onnx", runtime="onnxruntime")
    found = loaded.runtime.outputs([picture(32, 32)])
    assert set(found) == {"anomaly_maps", "scored_maps", "context_maps"}
    assert not np.allclose(found["anomaly_maps"], found["scored_maps"], atol=1e-3)
    assert found["context_maps"].shape == (1, 2, 32, 32)
    described = json.loads(read_description(Path("tiles.onnx")))
    assert described["input"] == [32, 32, 3]
    assert (described["tiles"]["photograph"], described["tiles"]["rows"], described["tiles"]["columns"]) == (
        [48, 40],
        [0, 16],
        [0, 8],
    )
    expected, found = detector.predict(picture()), loaded.predict(picture())
    assert found.image_score == pytest.approx(expected.image_score, abs=1e-5)
    np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map, atol=1e-5)


@needs_packages
def test_an_exported_network_tells_classes_apart(tiny):
    tiny_detector.CONFIG.write_text(SMALL)
    backbone = tiny_detector.config().backbone.model_dump() | {"mean": IMAGENET.mean, "std": IMAGENET.std}
    changes = {
        "backbone": backbone,
        "blocks": {"block1": {"levels": {"layer1": 16}}},
        "features": {"normalise": "auto"},
        "reconstruction": FLAT,
        "detector": {"fuse": {"position": True, "memory": 16}},
        "calibration": {"holdout_fraction": 0.1},
    }
    config = tiny_detector.config(**changes)
    torch.manual_seed(0)
    model = build_detector(config, by_class=["channel", "position"]).eval()
    model.measure_by(["channel", "position"], config.input_size)
    pictures = [resize_image(picture(seed=seed), config.image_size) for seed in (0, 1)]
    model.rule.means.copy_(looks_of(model.select(to_batch(pictures))))
    for number in (0, 1):
        one = model.of_class(number)
        one.nearest["block1"].memory.normal_()
        one.normal["block1"].mean.normal_()
        one.fusion.weights.copy_(torch.tensor([0.3, 0.3, 0.2, 0.2]))
        one.fusion.centres.fill_(3.0 * number)
    path = tiny_detector.save("unified", by_class=dict.fromkeys(("weave", "widget"), tiny_detector.CALIBRATION))
    values = torch.load(path, weights_only=True)
    measures = {"weave": {"normalise": "channel"}, "widget": {"normalise": "position"}}
    values |= {"config": config.model_dump(mode="json"), "state_dict": model.trainable_state()}
    checkpoint.write(path, {**values, "facts": {**values["facts"], "statistics": measures}})
    detector = Detector.load(path, device="cpu")
    assert detector.model(to_batch(pictures[::-1])).classes.tolist() == [1, 0]
    for parity in export.export_network(detector, Path("both.onnx"), images=pictures):
        assert max(parity.anomaly_map, parity.image_score) < 1e-5
    loaded = Detector.load("both.onnx", runtime="onnxruntime")
    for number, name in enumerate(measures):
        own = Detector.load(path, device="cpu", class_name=name)
        expected = own.predict(pictures[number]).anomaly_map
        np.testing.assert_allclose(loaded.predict(pictures[number]).anomaly_map, expected, atol=1e-5)
        assert np.abs(loaded.predict(pictures[1 - number]).anomaly_map - expected).max() > 0.01
