"""Model cards, from training over evaluation and calibration into the bundle."""

import json
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import tiny_detector
from conftest import load_script

from realnet.config import paths
from realnet.detection.card import Card, Results, make_card
from realnet.detection.loading import read_stored

FOLDER = Path("experiments/tiny/realnet_checkpoints/weave")


def card() -> dict:
    return json.loads((FOLDER / "card.json").read_text())


def test_training_evaluation_and_export_write_what_they_know(tiny, run_script, monkeypatch):
    training = ("train_realnet", "--dataset", "tiny", "--class_name", "weave", "--device", "cpu", "--set", "seed=7")
    with monkeypatch.context() as patched, pytest.raises(TypeError):
        patched.setattr(Card, "write", None)
        run_script(*training)
    run_script(*training)  # writes the cards that the first run could not
    trained = card()
    assert trained["title"] == "RealNet detector of weave (tiny)"
    assert trained["Data"]["images"] == "6 train, 0 held out, 5 test" and trained["Training"]["seed"] == 7
    assert trained["Training"]["step"] == 4 and "torch 2" in trained["Training"]["versions"]
    assert trained["Backbone"]["model"] == "test_resnet" and trained["Backbone"]["licence"].startswith("none needed")
    assert trained["Calibration"]["set on"].startswith("6 training images") and "thresholds" in trained["Limits"]
    assert "not evaluated" in trained["Results"]
    assert "# RealNet detector of weave (tiny)\n" in (FOLDER / "card.md").read_text()

    run_script("evaluation_realnet", "--dataset", "tiny", "--class_name", "weave", "--device", "cpu")
    evaluated = card()
    assert evaluated["Results"]["images"] == "2 good, 3 defects"
    assert "(95 % interval " in evaluated["Results"]["image_auroc"]
    assert "of 2 (" in evaluated["Results"]["false alarms"] and "of 3 (" in evaluated["Results"]["defects missed"]
    assert "2 good test images cannot show fewer false alarms than 84.2 %" in evaluated["Limits"]["certainty"]
    assert (FOLDER / "ckpt_best.card.json").is_file()
    page = (paths.output("tiny", "realnet", "vis", "weave") / "report.html").read_text()
    assert "<summary>Model card</summary>" in page and "<dd>test_resnet</dd>" in page

    run_script("export_realnet", "--dataset", "tiny", "--class_name", "weave", "--output", "weave.realnet")
    with zipfile.ZipFile("weave.realnet") as file:
        assert json.loads(file.read("card.json")) == evaluated
        assert file.read("card.md").decode() == (FOLDER / "card.md").read_text()

    pool = ("--set", "evaluation.score_pool=4")
    run_script("export_realnet", "--dataset", "tiny", "--class_name", "weave", "--output", "four.realnet", *pool)
    with zipfile.ZipFile("four.realnet") as file:
        other = json.loads(file.read("card.json"))
    assert "not evaluated" in other["Results"] and "none" in other["Calibration"]
    assert other["Training"]["score pool"] == 4

    good = "data/tiny/images/weave/test/good"
    load_script("calibrate_realnet").main(["--detector", "weave.realnet", "--good", good, "--device", "cpu"])
    with zipfile.ZipFile("weave.realnet") as file:
        assert "0 of 2 (0 %" in json.loads(file.read("card.json"))["Calibration"]["set on"]


def test_a_file_that_says_little_has_a_card_that_says_so(tiny):
    path = tiny_detector.save("weave", calibration=None)
    sections = make_card(read_stored(path), path).sections
    assert sections["Data"]["images"] == "not recorded" and sections["Backbone"]["licence"] == "not recorded"
    assert "none" in sections["Calibration"]
    few = replace(read_stored(path), facts={"calibration": asdict(tiny_detector.CALIBRATION)})
    assert (
        "set on 3 normal images: a new one scores above them all with a probability of 25 %"
        in (make_card(few, path).sections["Limits"]["thresholds"])
    )
    published = tiny_detector.save_published(tiny / "published.pth.tar")
    assert make_card(read_stored(published), published) is None


def test_rates_have_intervals_where_there_are_images():
    rows = Results("today", 0, 20, {"image_auroc": 0.9}, missed=0, false_alarms=2).rows()
    assert rows["image_auroc"] == "0.9000" and "defects missed" not in rows
    assert rows["false alarms"] == "2 of 20 (10 %; 95 % interval 1.23 % to 31.7 %)"


@pytest.mark.parametrize("name", ["ckpt_last.pth", "ckpt_best.pth"])
def test_the_cards_of_two_checkpoints_lie_side_by_side(tiny, name):
    path = tiny_detector.save("weave", name)
    make_card(read_stored(path), path).write(path)
    prefix = "" if name == "ckpt_last.pth" else "ckpt_best."
    assert sorted(file.name for file in FOLDER.glob("*card*")) == [f"{prefix}card.json", f"{prefix}card.md"]
