"""Whole detectors against the published implementation's numbers."""

import json
import re

import numpy as np
import pytest
import torch
from torch import Tensor

from realnet.config import RealNetConfig
from realnet.models.afs import AFS, Block, Selection, afs_criteria, select_channels
from realnet.models.backbone import Backbone, Level
from realnet.models.build import build_detector
from realnet.models.losses import cross_entropy_loss, focal_loss, reconstruction_loss
from realnet.models.realnet import RealNet
from realnet.models.reconstruction import ReconstructionSize
from tests import golden

pytestmark = pytest.mark.usefixtures("published_rounding")


def build(run: dict) -> RealNet:
    backbone = Backbone(run["backbone"], "none")
    blocks = [
        Block(
            block["name"],
            block["stride"],
            tuple(Selection(backbone.level(layer["idx"]), layer["planes"]) for layer in block["layers"]),
        )
        for block in run["structure"]
    ]
    recon, rrs = run["recon"], run["rrs"]
    size = ReconstructionSize(
        hidden_ratio=recon["hide_channels_ratio"],
        channel_mult=tuple(recon["channel_mult"]),
        num_res_blocks=recon["num_res_blocks"],
        attention_downsampling=tuple(recon["attention_mult"]),
    )
    model = RealNet(
        backbone,
        blocks,
        reconstruction=size,
        rrs_modes=dict(zip(rrs["modes"], rrs["mode_numbers"], strict=True)),
        num_residual_layers=rrs["num_residual_layers"],
        stop_grad=rrs["stop_grad"],
    )
    model.load_state_dict(golden.formula().fill(model.state_dict()))
    for key, selection in model.afs.selections().items():
        chosen = golden.formula().spread(selection.num_channels, selection.level.channels)
        model.afs.indexes.get_buffer(key).copy_(chosen)
    return model


def every_8th(features: Tensor) -> Tensor:
    return features[:, ::8]


@pytest.mark.parametrize("path", golden.paths("realnet", "model"))
def test_detector(path):
    case = golden.load(path)
    expected = case.outputs
    image, clean, mask = (golden.evaluate(case.run[key]) for key in ("image", "gt_image", "mask"))
    model = build(case.run).eval()
    with torch.no_grad():
        detection, clean_features = model(image), model.select(clean)
        golden.assert_close(detection.logits, expected["logit"])
        golden.assert_close(detection.anomaly_map, expected["anomaly_score"])
        golden.assert_close(cross_entropy_loss(detection.logits, mask), expected["segment_ce"])
        golden.assert_close(focal_loss(detection.logits, mask), expected["focal"])
        golden.assert_close(reconstruction_loss(detection.reconstructed, clean_features), expected["feature_mse"])
        for block in model.afs.blocks:
            golden.assert_close(every_8th(detection.selected[block.name]), expected[f"block_{block.name}"])
            golden.assert_close(every_8th(detection.residuals[block.name]), expected[f"residual_{block.name}"])
        for mode, chosen in detection.chosen.items():
            np.testing.assert_array_equal(golden.as_array(chosen), expected[f"rrs_{mode}"])
        model.train()
        golden.assert_close(model(image).logits, expected["logit_train"])
        golden.assert_close(model.rrs.bn_idx.running_mean, expected["bn_idx_running_mean_after"])


def afs_expressions(run: dict, level_key: str, side: int, batch: int) -> tuple[str, str, str]:
    """The case's expressions of (clean features, anomalous features, mask), for one level and batch."""

    def filled(text: str) -> str:
        text = text.replace("{layer key}", level_key).replace("{key}", level_key).replace("{batch}", str(batch))
        return re.sub(r"(?<=[ ,(])h(?=[,)])", str(side), text)

    mask, clean = filled(run["mask"]), filled(run["gt_feat"].split(", layer keys")[0])
    nearest = f"torch.nn.functional.interpolate({mask}, size=({side}, {side}))"
    anomalous = filled(run["anomaly_feat"]).replace(f"nearest(mask,{side})", nearest)
    return clean, anomalous.replace("gt_feat", f"({clean})"), mask


@pytest.mark.parametrize("path", golden.paths("realnet", "afs"))
def test_afs_choice(path):
    case = golden.load(path)
    run, channels = case.run, case.run["channels"]
    levels = {name: Level(name, channels, stride) for name, stride in run["strides"].items()}
    sides = dict(zip(levels, re.findall(r"(\w+) \(h=(\d+)\)", run["gt_feat"]), strict=True))
    block = Block("block", run["block_stride"], tuple(Selection(levels[n], k) for n, k in run["planes"].items()))
    afs = AFS([block])
    totals = {key: torch.zeros(channels) for key in afs.selections()}
    for batch in range(run["batches"]):
        clean, anomalous = {}, {}
        for name, (level_key, side) in sides.items():
            texts = afs_expressions(run, level_key, int(side), batch)
            clean[name], anomalous[name], mask = (golden.evaluate(text) for text in texts)
        for key, value in afs_criteria(afs, anomalous, clean, mask).items():
            totals[key] += value
    afs.choose(totals)
    for key, selection in afs.selections().items():
        golden.assert_close(totals[key], case.outputs[f"loss_{selection.level.name}"])
        chosen = case.outputs[f"index_{selection.level.name}"]
        np.testing.assert_array_equal(golden.as_array(select_channels(totals[key], selection.num_channels)), chosen)
        np.testing.assert_array_equal(golden.as_array(afs.indexes.get_buffer(key)), chosen)


FULL_SIZE = {
    "realnet_wrn50": {},
    "realnet_wrn50_architecture_c": {
        "blocks": {
            "block1": {"levels": {"layer1": 256, "layer2": 512}, "stride": 4},
            "block2": {"levels": {"layer3": 512, "layer4": 256}, "stride": 16},
        }
    },
}


@pytest.mark.parametrize("name", FULL_SIZE)
def test_the_full_size_detector_has_the_published_keys_and_shapes(name):
    path = golden.folder() / "state_dicts" / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"{path} does not exist")
    with torch.device("meta"):
        model = build_detector(RealNetConfig(**FULL_SIZE[name]), backbone_weights="none")
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == json.loads(path.read_text())
