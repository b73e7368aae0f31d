"""A small detector as ONNX and OpenVINO files: made once for all tests, as making a graph takes seconds."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_detector
from conftest import write_configs

from realnet import Detector
from realnet.detection import export
from realnet.models import checkpoint

PACKAGES = ("onnx", "onnxscript", "onnxruntime", "openvino", "nncf")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
needs_packages = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (the extra export)")

SMALL = """
    image_size: 32
    backbone: {name: test_resnet, weights: none}
    blocks: {block1: {levels: {layer1: 16}}, block2: {levels: {layer2: 16}}}
    reconstruction: {channel_mult: [1, 1], num_res_blocks: 1, num_head_channels: 8}
    rrs: {modes: {max: 8, mean: 8}, num_residual_layers: 1}
    """
"""A network of each kind of layer: making a graph takes as long as it has layers."""


def picture(height: int = 40, width: int = 70, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def make(folder: Path) -> None:
    """Write weave.onnx and weave.xml, of dynamic size, by a detector that has been used, and its checkpoint."""
    with pytest.MonkeyPatch.context() as patch:
        folder.mkdir()
        patch.chdir(folder)
        write_configs(folder / "experiments/tiny")
        tiny_detector.CONFIG.write_text(SMALL)
        path = tiny_detector.save("weave")
        stored = checkpoint.load(path, kind="realnet")
        checkpoint.save(path, replace(stored, facts={**stored.facts, "image_bits": 12}))
        detector = Detector.load(path, device="cpu")
        detector.predict(picture())
        for suffix in (".onnx", ".xml"):
            images, path = [picture(), picture(32, 32, 1)], folder / f"weave{suffix}"
            found = export.export_network(detector, path, images=images, dynamic_size=True)
            assert all(parity.anomaly_map < 1e-5 and parity.image_score < 1e-5 for parity in found)
            readers = {"openvino"} | ({"onnxruntime"} if suffix == ".onnx" else set())
            assert {parity.runtime for parity in found} == readers
            patch.setattr(export, "write_onnx", graph_of(folder / "weave.onnx"))
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def graph_of(path: Path) -> Callable[..., None]:
    """Return what writes the graph of an earlier export of the same network instead of making it again."""
    import onnx

    network = onnx.load(path)
    del network.metadata_props[:]
    graph = network.SerializeToString()
    return lambda network, size, path, sizes=None: path.write_bytes(graph)
