"""calibrate_realnet.py, as users call it."""

import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_detector
import torch
from conftest import load_script

from realnet import Detector, UserError
from realnet.data.registry import open_dataset
from realnet.detection.calibration import Calibration, pixel_threshold
from realnet.detection.recalibration import calibration_at, choose_threshold
from realnet.models import checkpoint
from realnet.runtime import distributed
from realnet.runtime.distributed import World
from realnet.runtime.lock import locked
from realnet.runtime.precision import Precision
from realnet.training.detector_data import detector_data

TEST = Path("data/tiny/images/weave/test")


@pytest.fixture
def path(tiny):
    return tiny_detector.save("weave")


def calibrate(*arguments: object) -> None:
    load_script("calibrate_realnet").main([*map(str, arguments), "--device", "cpu"])


def scores(*values: float) -> np.ndarray:
    return np.array(values)


def test_as_many_good_images_alarm_as_may():
    good = np.linspace(0.1, 0.9, 100)
    for rate, alarms in ((0.0, 0), (0.01, 1), (0.05, 5), (0.29, 29), (1.0, 99)):
        chosen = choose_threshold(good, max_false_alarm=rate)
        assert chosen.false_alarms.count == alarms == (good >= chosen.threshold).sum()
    tied = choose_threshold(scores(0.5, 0.5, 0.5, 0.1), max_false_alarm=0.25)
    assert tied.false_alarms.count == 0 and tied.threshold > 0.5


def test_as_many_defects_are_found_as_asked():
    good, defects = scores(0.1, 0.2, 0.65), scores(0.3, 0.6, 0.7, 0.9)
    chosen = choose_threshold(good, defects, min_recall=0.75)
    assert chosen.threshold == 0.6 and chosen.recall.count == 3 and chosen.false_alarms.count == 1
    assert choose_threshold(good, defects, min_recall=1.0).threshold == 0.3
    with pytest.raises(UserError, match="--min_recall needs photographs of defects"):
        choose_threshold(good, min_recall=0.9)


def test_what_few_photographs_cannot_promise_is_told():
    assert choose_threshold(np.linspace(0, 1, 20), max_false_alarm=0.01).missing == 368
    assert choose_threshold(np.linspace(0, 1, 368), max_false_alarm=0.01).missing == 368  # 3 of them may alarm
    assert choose_threshold(np.linspace(0, 1, 20), max_false_alarm=0.0).missing == 0


def test_pixels_move_with_the_image_threshold_or_lie_above_what_is_normal():
    chosen = choose_threshold(scores(0.2, 0.4), max_false_alarm=0.0)
    earlier = Calibration(0.8, 0.6, 0.9, held_out=False, num_images=1, num_anomalies=1)
    moved = calibration_at(chosen, earlier, [0.3, 0.5], scores(0.2, 0.4))
    assert moved.pixel_threshold == pytest.approx(0.3) and moved.display_scale == 0.9
    fresh = calibration_at(chosen, None, [0.3, 0.5], scores(0.2, 0.4))
    assert 0.5 < fresh.pixel_threshold < 0.5001 and fresh.held_out and fresh.num_images == 2


def test_pixels_move_with_a_threshold_that_no_score_reaches():
    for middle in (1.0, 0.9):
        earlier = Calibration(middle, 0.6, 0.9, held_out=False, num_images=1, num_anomalies=1)
        assert pixel_threshold(middle, earlier) == 0.6
        assert pixel_threshold(float(np.nextafter(1, 2)), earlier) == 1.0
    unreachable = choose_threshold(scores(1.0, 0.2), max_false_alarm=0.0)
    assert calibration_at(unreachable, earlier, [1.0], scores(1.0, 0.2)).pixel_threshold == 1.0


def test_a_checkpoint_gets_new_thresholds_and_keeps_all_else(path, capsys):
    before = checkpoint.load(path, kind="realnet")
    calibrate("--detector", path, "--good", TEST / "good", "--defects", TEST / "hole", TEST / "stain/000.png")
    printed = capsys.readouterr().out
    assert "(was 0.65); of pixels" in printed and f"written    {path}" in printed
    assert "NOT certain with 2 good photographs: it takes 368 without a false alarm" in printed
    assert "good       called defects: 0 of 2 (0 %; 95 % interval 0 % to 84.2 %)" in printed
    after = checkpoint.load(path, kind="realnet")
    assert all(np.array_equal(after.state_dict[key], value) for key, value in before.state_dict.items())
    assert after.config == before.config and after.facts["backbone"] == before.facts["backbone"]
    detector = Detector.load(path, device="cpu")
    highest = max(detector.predict(file).image_score for file in (TEST / "good").iterdir())
    assert detector.calibration.image_threshold == np.nextafter(highest, 1)
    assert {detector.predict(file).verdict for file in (TEST / "good").iterdir()} == {"normal"}
    assert "0 of 2" in str(detector.calibration)


def test_a_detector_of_an_earlier_version_cannot_tell_its_images(path, capsys):
    calibrate("--detector", path, "--good", TEST / "good", "--dry-run")
    assert "the detector does not say which images it was trained on" in capsys.readouterr().out


def test_a_bundle_gets_them_too_or_a_copy_does(path, capsys):
    load_script("export_realnet").main(["--detector", str(path), "--storage", "bfloat16", "--output", "a.realnet"])
    kept = Path("a.realnet").read_bytes()
    calibrate("--detector", "a.realnet", "--good", TEST / "good", "--output", "b.realnet")
    assert Path("a.realnet").read_bytes() == kept
    a, b = (Detector.load(name, device="cpu") for name in ("a.realnet", "b.realnet"))
    file = TEST / "hole/000.png"
    assert a.predict(file).anomaly_map.tobytes() == b.predict(file).anomaly_map.tobytes()
    assert a.calibration != b.calibration
    assert abs(Path("b.realnet").stat().st_size - len(kept)) < 2000
    calibrate("--detector", "a.realnet", "--good", TEST / "good", "--dry-run")
    assert "would write a.realnet" in capsys.readouterr().out and Path("a.realnet").read_bytes() == kept


def test_a_link_to_a_detector_stays_one(path):
    link = Path("current.pth")
    link.symlink_to(path)
    calibrate("--detector", link, "--good", TEST / "good")
    assert link.is_symlink() and Detector.load(path, device="cpu").calibration.image_threshold != 0.65


def test_no_other_run_writes_the_folder_meanwhile(path):
    for output in (path, Path("elsewhere/c.pth")):
        with locked(output.parent), pytest.raises(UserError, match="belongs to another run"):
            calibrate("--detector", path, "--good", TEST / "good", "--output", output)


def test_of_a_folder_that_it_does_not_write_it_needs_nothing(path):
    with locked(path.parent):  # writing there would be refused, as in a folder without rights
        calibrate("--detector", path, "--good", TEST / "good", "--output", "elsewhere/c.pth")
    assert Path("elsewhere/c.pth").is_file() and Detector.load(path, device="cpu").calibration.image_threshold == 0.65


def test_thresholds_never_go_to_other_weights_than_those_that_scored(path, monkeypatch):
    load = Detector.load

    def replaced(*arguments, **settings):
        detector = load(*arguments, **settings)
        tiny_detector.save("weave", seed=1)
        return detector

    monkeypatch.setattr(Detector, "load", replaced)
    with pytest.raises(UserError, match=r"ckpt_last\.pth has just been replaced"):
        calibrate("--detector", path, "--good", TEST / "good", "--output", "elsewhere/c.pth")
    assert not Path("elsewhere").exists()


def test_the_stored_settings_score_as_the_thresholds_were_set(path):
    calibrate("--detector", path, "--good", TEST / "good", "--set", "evaluation.score_pool=4")
    detector = Detector.load(path, device="cpu")
    highest = max(detector.predict(file).image_score for file in (TEST / "good").iterdir())
    assert detector.config.evaluation.score_pool == 4
    assert detector.calibration.image_threshold == np.nextafter(highest, 1)


def test_of_several_processes_one_writes(path, monkeypatch, capsys):
    @contextmanager
    def second(*_):
        yield World(1, 2, Precision(torch.float32, torch.device("cpu")))

    before = path.read_bytes()
    monkeypatch.setattr(distributed, "join_world", second)
    calibrate("--detector", path, "--good", TEST / "good")
    assert path.read_bytes() == before and capsys.readouterr().out == ""


def test_images_of_the_training_are_refused_by_name_whatever_they_are_called(path, caplog):
    data = detector_data(open_dataset("tiny"), "weave", tiny_detector.config())
    stored = checkpoint.load(path, kind="realnet")
    checkpoint.save(path, replace(stored, facts={**stored.facts, **data.facts()}))
    before = path.read_bytes()
    good = Path("photographs")
    shutil.copytree(TEST / "good", good)
    calibrate("--detector", path, "--good", good, "--dry-run")
    assert "does not say" not in caplog.text
    shutil.copy("data/tiny/images/weave/train/good/002.png", good / "other.png")
    with pytest.raises(UserError, match=r"--good holds 1 photograph .* trained on: other\.png\. .*; leave it out"):
        calibrate("--detector", path, "--good", good)
    with pytest.raises(
        UserError, match=r"--good holds 6 photographs .* trained on: good/000\.png, .*, …\. .*; leave them out"
    ):
        calibrate("--detector", path, "--good", "data/tiny/images/weave/train")
    assert path.read_bytes() == before


def test_a_published_checkpoint_is_refused_before_the_photographs_are_scored(tiny, monkeypatch):
    monkeypatch.setattr(Detector, "predict", None)
    tiny_detector.save_published(Path("published.pth"))
    with pytest.raises(UserError, match=r"published\.pth is a published checkpoint, which stores no thresholds"):
        calibrate("--dataset", "tiny", "--detector", "published.pth", "--good", TEST / "good")


def test_what_cannot_be_calibrated_is_said(path):
    before = path.read_bytes()
    Path("exported.onnx").write_bytes(b"")
    good = ("--good", TEST / "good")
    broken = Path("broken")
    shutil.copytree(TEST / "good", broken)
    (broken / "cut.png").write_bytes(b"no image")
    for arguments, message in [
        (("--detector", "exported.onnx", *good), "calibrate the checkpoint or the bundle, and export it again"),
        (("--detector", path, *good, "--max_false_alarm", 1.5), r"--max_false_alarm 1\.5 must be a share"),
        (("--detector", path, *good, "--output", "x.realnet"), r"--output x\.realnet must end in \.pth"),
        (("--detector", path, *good, "--min_recall", 0.9), "--min_recall needs photographs of defects"),
        (("--detector", path, "--good", broken), r"broken/cut\.png .* is truncated, or not an image"),
    ]:
        with pytest.raises(UserError, match=message):
            calibrate(*arguments)
    assert path.read_bytes() == before
