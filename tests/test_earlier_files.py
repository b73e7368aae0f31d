"""Files that version 1.0.0 wrote still load, and mean the same (``stored/version_1_0``)."""

import csv
import shutil
from pathlib import Path

import pytest

from realnet import Detector
from realnet.config import paths
from realnet.evaluation.results import read_earlier
from realnet.models import checkpoint
from realnet.preparation.toy import make_toy_dataset

STORED = Path(__file__).parent / "stored/version_1_0"
DETECTOR = Path("experiments/old/realnet_checkpoints/weave/ckpt_last.pth")
TEST = Path("data/old/images/weave/test")


@pytest.fixture
def old(tmp_path, monkeypatch):
    """The workspace in which the files were written: dataset, configs and checkpoints."""
    monkeypatch.chdir(tmp_path)
    make_toy_dataset(Path("data/old/images"), image_size=(32, 32), num_train=6, num_good=2, num_defects=1)
    for name in ("dataset", "diffusion", "classifier", "sample", "realnet"):
        put(f"{name}.yaml", f"experiments/old/{name}.yaml")
    for kind in ("diffusion", "classifier"):
        put(f"{kind}.pth", f"experiments/old/{kind}_checkpoints/ckpt_last.pth")
    put("detector.pth", DETECTOR)


def put(name: str, target: str | Path) -> None:
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(STORED / name, target)


def test_a_detector_gives_the_scores_and_the_verdicts_that_it_gave(old):
    detector = Detector.load(DETECTOR, device="cpu")
    with (STORED / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    for row in rows:
        found = detector.predict(TEST / row["file"])
        assert found.image_score == pytest.approx(float(row["image_score"]), abs=2e-5), row["file"]
        assert found.threshold == pytest.approx(float(row["threshold"]), abs=1e-9)


def test_a_training_goes_on_from_its_state(old, run_script, caplog):
    put("detector.state.pth", DETECTOR.with_suffix(".state.pth"))
    command = ("train_realnet", "--dataset", "old", "--class_name", "weave", "--device", "cpu")
    assert "  at step 2" in run_script(*command, "--set", "train.num_steps=3", "--dry-run")
    assert "step 2 of 3" in run_script(*command, "--set", "train.num_steps=3")
    assert "ckpt_last.state.pth goes on as it was begun, with draws: 1" in caplog.text
    assert checkpoint.read(DETECTOR.with_suffix(".state.pth"))["identity"]["draws"] == 1
    assert checkpoint.read(DETECTOR)["config"]["draws"] == 1
    run_script(*command, "--set", "train.num_steps=3", "--no-resume")
    assert checkpoint.read(DETECTOR)["config"]["draws"] == 2


def test_sampling_goes_on_beside_the_images_that_were_sampled(old, run_script):
    folder = paths.sdas("old", "weave")
    put("sdas_settings.yaml", folder / "settings.yaml")
    shutil.copy(TEST / "good/000.png", folder / "00000.jpg")
    kept = (folder / "00000.jpg").read_bytes()
    command = ("sample", "--dataset", "old", "--classes", "weave", "--device", "cpu", "--force")
    assert "weave: 1 new images of 2" in run_script(*command)
    assert (folder / "00000.jpg").read_bytes() == kept
    rows, stored = (list(csv.DictReader(path.open())) for path in (folder / "manifest.csv", STORED / "manifest.csv"))
    assert [{name: row[name] for name in stored[0]} for row in rows] == stored  # scores have been added
    assert (folder / "settings.yaml").read_text() == (STORED / "sdas_settings.yaml").read_text()


def test_the_results_of_an_evaluation_are_read(old):
    put("metrics.json", "metrics.json")
    result = read_earlier(Path())
    assert result is not None and [one.protocol for one in result.checkpoints] == ["last", "best"]
    assert result.checkpoints[0].metrics["image_auroc"].value == pytest.approx(5 / 6)
