"""A detector with tiles, from training to files, as users make it."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import load_script

from realnet import Detector, UserError
from realnet.config import RealNetConfig, load
from realnet.data.images import read_image, read_mask, write_image
from realnet.models import checkpoint

DETECTOR = Path("experiments/tiny/realnet_checkpoints/weave/ckpt_last.pth")
FLAGS = ("--dataset", "tiny", "--class_name", "weave", "--device", "cpu")
SETTINGS = {
    "image_size": "[48, 72]",
    "tiles": "{size: 32, context: true}",
    "features.normalise": "auto",
    "features.folds": "2",
    "calibration.holdout_fraction": "0.2",
    "calibration.num_anomalies": "3",
    "detector.fuse.position": "true",
    "evaluation.score_pool": "auto",
    "train.augment": "true",
    "train.num_steps": "2",
}
SET = tuple(word for setting in SETTINGS.items() for word in ("--set", "=".join(setting)))


def test_a_detector_with_tiles_from_training_to_a_bundle(tiny, run_script):
    plan = run_script("train_realnet", *FLAGS, *SET, "--dry-run")
    assert "6 of 32x32 for a photograph of 48x72 and one of all of it, 16 at once" in plan
    assert " s a photograph, by" in plan
    run_script("train_realnet", *FLAGS, *SET)
    stored = checkpoint.load(DETECTOR, kind="realnet")
    assert stored.config["tiles"] == {"size": [32, 32], "overlap": 0.25, "context": True}
    assert stored.config["features"]["normalise"] == "pooled"  # what auto is with tiles
    assert stored.facts["calibration"]["num_images"] == 1
    assert stored.state_dict["fusion.centres"].shape == (4, 32, 32)  # of tiles
    assert stored.state_dict["context.slopes"].min() > 0 and stored.state_dict["context.offsets"].min() > -100
    assert "6 of 32x32" in run_script("evaluation_realnet", *FLAGS, "--dry-run")
    assert "weave" in run_script("evaluation_realnet", *FLAGS)
    metrics = json.loads(Path("experiments/tiny/realnet_vis/weave/metrics.json").read_text())
    assert {len(one["images"]) for one in metrics["checkpoints"]} == {5}
    run_script("export_realnet", *FLAGS[:4], "--output", "weave.realnet")
    photograph = np.random.default_rng(0).integers(0, 256, (48, 72, 3)).astype(np.uint8)
    first, second = (Detector.load(path, device="cpu").predict(photograph) for path in (DETECTOR, "weave.realnet"))
    assert first.image_score == pytest.approx(second.image_score, abs=1e-6)
    write_image(Path("photos/a.png"), photograph)
    plan = run_script("predict_realnet", "--detector", "weave.realnet", "--input", "photos", "--dry-run")
    assert " s a photograph, by the time of some tiles, in " in plan
    run_script(
        "predict_realnet", "--detector", "weave.realnet", "--input", "photos", "--output", "out", "--device", "cpu"
    )
    with Path("out/predictions.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["image_score"]) == pytest.approx(first.image_score, abs=1e-5)


def test_anomalies_are_written_and_shown_on_tiles(tiny, run_script):
    tiles = ("--set", "image_size=[48, 72]", "--set", "tiles.size=32")
    run_script("synthesize", *FLAGS[:4], *tiles, "--num_samples", "3", "--output", "anomalies")
    for folder in ("image", "source", "mask"):
        assert [read_image(path).shape[:2] for path in sorted(Path("anomalies", folder).iterdir())] == [(32, 32)] * 3
    for name in ("00000.png", "00001.png", "00002.png"):
        image, source = (read_image(Path("anomalies", folder, name)) for folder in ("image", "source"))
        outside = ~read_mask(Path("anomalies/mask", name))
        assert (image[outside] == source[outside]).all()
    run_script("prepare_data", "preview", *FLAGS[:4], *tiles, "--num_images", "2", "--output", "sheets")
    height, width = read_image(Path("sheets/weave.png")).shape[:2]
    assert 2 * 32 < height < 2 * 48 + 80 and 4 * 32 < width < 4 * 72  # rows and columns of tiles


def test_references_take_no_detector_with_tiles(tiny):
    with pytest.raises(UserError, match="--references see photographs whole"):
        load_script("evaluation_realnet").main([*FLAGS, *SET, "--references", "only"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tiles.size": "64"}, r"tiles\.size 64x64 is more than image_size 32x32"),
        ({"tiles.size": "16", "tiles.overlap": "1"}, r"tiles\.overlap: .*less than 1"),
        ({"tiles.sise": "16"}, r"tiles\.sise: unknown key .* did you mean tiles\.size"),
        (
            {"tiles.size": "32", "features.normalise": "position", "calibration.holdout_fraction": "0.1"},
            "tiles lie anywhere; set it to pooled",
        ),
        ({"tiles": "{size: 16, context: true}"}, r"tiles\.context needs calibration\.holdout_fraction above 0"),
        ({"tiles.size": "16", "evaluation.score_pool": "20"}, r"score_pool 20 is more than tiles\.size 16x16"),
        ({"image_size": "100", "tiles.size": "30"}, r"tiles\.size 30x30: both sides must be multiples of \d+"),
    ],
)
def test_tiles_that_do_not_fit_are_refused_by_name(tiny, given, message):
    settings = [word for setting in given.items() for word in ("--set", "=".join(setting))]
    with pytest.raises(UserError, match=message):
        load_script("train_realnet").main([*FLAGS, *settings, "--dry-run"])


def test_a_photograph_may_be_lower_than_a_tile(tiny):
    values = {"image_size": [32, 200], "tiles": {"size": 64}}
    assert RealNetConfig.model_validate(values).input_size == (64, 64)
    assert load(RealNetConfig, None, ["image_size=512", "tiles.overlap=0.5"]).input_size == (256, 256)
