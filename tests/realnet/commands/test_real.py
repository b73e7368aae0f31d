"""Photographs of real defects to train on: named in a layout file, guarded against the test split, on the card."""

import json
import shutil
from pathlib import Path

import pytest

from realnet.config import RealNetConfig, load
from realnet.data.images import read_image, write_image
from realnet.data.registry import open_dataset
from realnet.errors import UserError
from realnet.inspection import findings as kinds
from realnet.inspection.check import inspect_class
from realnet.models import checkpoint
from realnet.runtime.contents import marks
from realnet.training.detector_data import detector_data
from tests import tiny_detector

WEAVE = Path("data/tiny/images/weave")
ARGUMENTS = ("--dataset", "tiny", "--class_name", "weave")
REAL = ("--set", "anomalies.types={normal: 0.5, real: 0.5}")
ONE_STEP = ("--device", "cpu", "--set", "train.num_steps=1", "--set", "train.evaluation=false")


@pytest.fixture
def real(tiny, run_script):
    """The hole of the weave is to be trained on."""
    Path("experiments/tiny/layout.yaml").write_text('"weave/test/hole/*": train hole\n')
    run_script("prepare_data", "index", "--dataset", "tiny")


def test_a_detector_trains_on_them_and_says_so(real, run_script):
    assert "1 real defects" in run_script("train_realnet", *ARGUMENTS, *REAL, "--dry-run")
    run_script("train_realnet", *ARGUMENTS, *REAL, *ONE_STEP)
    card = json.loads(Path("experiments/tiny/realnet_checkpoints/weave/card.json").read_text())
    assert "1 real defects" in card["Data"]["images"] and "real 0.5" in card["Data"]["synthetic anomalies"]
    photograph = WEAVE / "test/hole/000.png"
    write_image(photograph, 255 - read_image(photograph))
    with pytest.raises(UserError, match="contents of the anomaly sources"):
        run_script("train_realnet", *ARGUMENTS, *REAL, *ONE_STEP)


def test_they_are_drawn_and_checked_like_other_sources(real, run_script):
    run_script("prepare_data", "preview", *ARGUMENTS, *REAL)
    assert "sound" in run_script("prepare_data", "check", *ARGUMENTS, *REAL)
    run_script("synthesize", *ARGUMENTS, *REAL, "--num_samples", "3", "--output", "out")
    assert Path("out/manifest.csv").read_text().count(",real,data/tiny/images/weave/test/hole/000.png,") == 3


def test_none_may_stand_in_the_test_split_not_even_stored_anew(real, run_script):
    copy = WEAVE / "test/fibre/copy.jpg"
    write_image(copy, read_image(WEAVE / "test/hole/000.png")[:, ::-1])
    run_script("prepare_data", "index", "--dataset", "tiny")
    assert any("copy.jpg" in entry.filename for entry in open_dataset("tiny").index("weave").test)
    for command in (
        ("train_realnet", *ARGUMENTS, *REAL, "--dry-run"),
        ("synthesize", *ARGUMENTS, *REAL, "--output", "out"),
    ):
        with pytest.raises(
            UserError, match=r"also in the training set[^\n]*\n.*copy\.jpg shows the defect of .*000\.png"
        ):
            run_script(*command)


def test_without_any_the_command_says_how_to_name_them(tiny, run_script):
    with pytest.raises(UserError, match=r"layout\.yaml and run: python prepare_data\.py index --dataset tiny"):
        run_script("train_realnet", *ARGUMENTS, *REAL, "--dry-run")


def test_none_may_be_a_normal_image_or_without_its_mask_a_test_image(real, run_script):
    for copy in ("train/good/copy.png", "test/fibre/copy.png"):
        shutil.copy(WEAVE / "test/hole/000.png", WEAVE / copy)
    shutil.rmtree(WEAVE / "ground_truth/hole")
    run_script("prepare_data", "index", "--dataset", "tiny")
    found = {one.kind: one.where for one in inspect_class(open_dataset("tiny"), "weave")}
    for kind, copy in ((kinds.NORMAL_AND_DEFECT, "train/good/copy.png"), (kinds.LEAK, "test/fibre/copy.png")):
        assert kind.is_fatal and found[kind].startswith(f"{WEAVE / copy} equals ")


def test_another_rule_of_the_masks_makes_another_run(real):
    def subject(**anomalies):
        config = load(RealNetConfig, tiny_detector.CONFIG, [f"anomalies.types={anomalies}"])
        return detector_data(open_dataset("tiny"), "weave", config).subject(config, "")

    before, without = subject(real=1), subject(self=1)
    described = Path("experiments/tiny/dataset.yaml")
    described.write_text(f"{described.read_text()}masks: {{above: 127}}\n")
    assert subject(real=1) != before and subject(self=1) == without


def test_a_detector_is_not_evaluated_on_what_it_was_trained_on(tiny, run_script):
    path, photograph = tiny_detector.save("weave"), WEAVE / "test/hole/000.png"
    stored = checkpoint.read(path)
    stored["facts"]["training_images"] = marks([photograph], Path())
    checkpoint.write(path, stored)
    with pytest.raises(UserError, match=r"ckpt_last\.pth was trained on 1 of the test images, such as .*hole/000\.png"):
        run_script("evaluation_realnet", *ARGUMENTS, "--device", "cpu")


def test_a_kind_that_means_good_is_no_defect(tiny, run_script):
    (WEAVE / "test/good").rename(WEAVE / "test/OK")
    Path("experiments/tiny/layout.yaml").write_text('"weave/test/<kind>/*": test <kind>\n')
    run_script("prepare_data", "index", "--dataset", "tiny")
    kept = {Path(entry.filename).parent.name: entry.label for entry in open_dataset("tiny").index("weave").test}
    assert kept["OK"] == 0 and kept["hole"] == 1


def test_another_photograph_of_the_same_part_in_the_test_split_is_said(tiny, run_script):
    for view in "ab":
        shutil.copy(WEAVE / f"test/{'hole' if view == 'a' else 'stain'}/000.png", WEAVE / f"test/hole/p1_{view}.png")
        shutil.copy(WEAVE / "ground_truth/hole/000_mask.png", WEAVE / f"ground_truth/hole/p1_{view}_mask.png")
    Path("experiments/tiny/layout.yaml").write_text('"weave/test/hole/p1_a.png": train hole\ngroup: <group>_?.png\n')
    run_script("prepare_data", "index", "--dataset", "tiny")
    found = {one.kind: one.where for one in inspect_class(open_dataset("tiny"), "weave")}
    assert found[kinds.VIEWS] == "weave: 1 test images, such as weave/test/hole/p1_b.png, weave/test/hole/p1_a.png"
