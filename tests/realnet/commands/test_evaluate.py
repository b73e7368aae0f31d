"""evaluation_realnet.py, as users call it."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_detector
from conftest import load_script
from processes import run_script_together

from realnet.config import paths
from realnet.data.images import read_image, read_mask, write_image
from realnet.errors import UserError
from realnet.evaluation import run, scores
from realnet.evaluation.results import read_class
from realnet.runtime import contents

VIS = Path("experiments/tiny/realnet_vis")
TEST = Path("data/tiny/images/weave/test")


def evaluate(*arguments: str) -> int:
    return load_script("evaluation_realnet").main(["--dataset", "tiny", "--device", "cpu", *arguments])


def metrics_of(class_name: str, protocol: str = "last") -> dict:
    result = read_class(VIS / class_name)
    assert result is not None
    return {name: metric.value for name, metric in result.of(protocol).metrics.items()}


def images(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}


@pytest.fixture
def both_classes(tiny):
    """Both classes are trained; only one has a best checkpoint, of other weights."""
    tiny_detector.save("weave")
    tiny_detector.save("weave", paths.BEST, seed=1)
    tiny_detector.save("widget", seed=2)


def test_all_classes_give_table_heatmaps_and_report(both_classes, capsys):
    assert evaluate() == 0
    printed = capsys.readouterr().out
    assert printed.index("tiny, last step: no test data used") < printed.index("best on the test split, as published")
    assert printed.count("\nmean ") == 1  # of the last checkpoints: only one class has a best one
    assert printed.count("\nweave ") == 2 and printed.count("\nwidget ") == 1
    assert "experiments/tiny/realnet_vis/report.html (2 of 2 classes)" in printed
    for protocol in ("last", "best"):
        heatmaps = VIS / "weave" / protocol
        assert images(heatmaps) == {f"test/{name}" for name in images(TEST)}
    assert read_image(VIS / "weave/last/test/good/000.png").shape[1] > 3 * 256  # image, mask, anomaly map
    rows = list(csv.DictReader((VIS / "metrics.csv").open()))
    assert [(row["class"], row["protocol"]) for row in rows[:3]] == [
        ("weave", "last"),
        ("weave", "best"),
        ("widget", "last"),
    ]
    assert rows[0]["image_auroc"] != rows[1]["image_auroc"] or rows[0]["pixel_auroc"] != rows[1]["pixel_auroc"]
    assert float(rows[0]["image_auroc"]) == pytest.approx(metrics_of("weave")["image_auroc"], abs=1e-6)
    assert json.loads((VIS / "metrics.json").read_text())["classes"].keys() == {"weave", "widget"}
    page = (VIS / "weave/report.html").read_text()
    assert page.count("<article") == 5 and "calibrated on 3 held-out images" in page
    assert 'href="weave/report.html"' in (VIS / "report.html").read_text()


def test_a_threshold_from_the_test_labels_is_called_so(both_classes, capsys):
    tiny_detector.save("weave", paths.BEST, seed=1, calibration=None)
    Path("experiments/tiny/realnet_checkpoints/weave", paths.LAST).unlink()
    assert evaluate() == 0
    printed = capsys.readouterr().out
    assert re.search(r"\nweave, best: threshold \S+ \(picked on the test labels\): ", printed)
    assert re.search(r"\nwidget, last: threshold 0\.65 \(calibrated\): ", printed)
    assert printed.count("heatmaps   experiments/tiny/realnet_vis/<class>/") == 2
    rows = list(csv.DictReader((VIS / "metrics.csv").open()))
    assert [row["threshold_source"] for row in rows[:2]] == ["test labels", "calibrated"]
    page = (VIS / "report.html").read_text()
    weave = page[page.index("<h2>weave") : page.index("<h2>widget")]
    assert re.search(r"best on the test split.*weave/ckpt_best.*picked on the test labels", weave)


def test_classes_evaluated_one_by_one_come_together(both_classes, capsys):
    assert evaluate("--class_name", "weave") == 0
    assert "(1 of 2 classes)" in capsys.readouterr().out
    assert evaluate("--class_name", "widget") == 0
    printed = capsys.readouterr().out
    assert "(2 of 2 classes)" in printed and "\nweave " not in printed
    tiny_detector.save("weave", seed=3)  # trained anew: its old results are no longer its own
    assert evaluate("--class_name", "widget") == 0
    assert "(1 of 2 classes)" in capsys.readouterr().out


def test_results_are_kept_until_something_changes(tiny, capsys, monkeypatch):
    def is_kept(*arguments: str) -> bool:
        before = (VIS / "weave/report.html").stat().st_mtime_ns
        assert evaluate("--class_name", "weave", *arguments) == 0
        printed = capsys.readouterr().out
        assert "\nweave " in printed
        assert ("weave: results of" in printed) == ((VIS / "weave/report.html").stat().st_mtime_ns == before)
        return "kept" in printed

    weights, other = tiny_detector.save("weave"), tiny_detector.save("weave", "other.pth", seed=1)
    evaluate("--class_name", "weave")
    assert is_kept()
    assert not is_kept("--no-resume")
    assert not is_kept("--set", "evaluation.score_pool=2") and not is_kept()
    (VIS / "weave/last/test/hole/000.png").unlink()
    assert not is_kept() and is_kept()
    index = Path("data/tiny/samples/test_weave.json")
    index.write_text(index.read_text().replace('"label": 1, "label_name": "defective"', '"label": 0', 1))
    assert not is_kept() and is_kept()
    mask = next(Path("data/tiny/images/weave/ground_truth/hole").iterdir())
    mask.write_bytes(mask.read_bytes())
    assert is_kept()
    write_image(mask, ~read_mask(mask))
    assert not is_kept() and is_kept()
    with monkeypatch.context() as patched:
        patched.setattr(contents, "code", lambda: "another version")
        assert not is_kept() and is_kept()
    times = weights.stat()
    weights.write_bytes(other.read_bytes())
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert read_class(VIS / "weave") is None and not is_kept() and is_kept()
    (TEST / "stain/000.png").unlink()
    shutil.rmtree("data/tiny/samples", ignore_errors=True)
    next(Path("data/tiny/images/weave/ground_truth/stain").iterdir()).unlink()
    assert not is_kept() and is_kept()


def test_heatmaps_of_images_that_are_gone_go_too(both_classes):
    assert evaluate("--class_name", "weave") == 0
    ours, theirs = VIS / "weave/last/test/hole/000.png", VIS / "weave/last/test/hole/001.png"
    shutil.copy(ours, theirs)
    (TEST / "hole/000.png").rename(TEST / "hole/002.png")
    mask = next(Path("data/tiny/images/weave/ground_truth/hole").iterdir())
    mask.rename(mask.with_name(mask.name.replace("000", "002")))
    shutil.rmtree("data/tiny/samples")
    assert evaluate("--class_name", "weave") == 0
    for protocol in ("last", "best"):
        here = images(VIS / "weave" / protocol) - {"test/hole/001.png"}
        assert here == {f"test/{name}" for name in images(TEST)}
    assert theirs.is_file()


def test_a_network_that_gives_nan_gets_no_verdicts(tiny, capsys):
    tiny_detector.save("weave", diverged=True)
    assert evaluate("--class_name", "weave") == 0
    printed, why = capsys.readouterr().out, "the detector gives NaN for 5 of 5 images: its weights diverged, or try"
    assert f"image F1-max, pixel F1-max not computed: {why} runtime.precision=fp32\n" in printed
    assert "missed" not in printed and "false alarm" not in printed
    assert set(metrics_of("weave").values()) == {None} and read_class(VIS / "weave").of("last").verdicts is None
    page = (VIS / "weave/report.html").read_text()
    assert why in page and "so there are no verdicts" in page and ">false alarm" not in page


def test_names_that_are_odd_or_long_are_evaluated(both_classes, capsys):
    odd = TEST / "hole" / os.fsdecode(b"Stra\xdfe.png")
    shutil.copy(TEST / "good/000.png", TEST / "good" / f"{'n' * 251}.jpg")
    shutil.copy(TEST / "stain/000.png", odd)
    assert evaluate("--class_name", "weave") == 0
    assert "Stra\\udcdfe.png" in (VIS / "weave/report.html").read_text()
    assert [image.filename for image in read_class(VIS / "weave").of("last").images if "Stra" in image.filename] == [
        "weave/test/hole/Stra\\udcdfe.png"
    ]
    assert (VIS / "weave/last/test/hole" / odd.name).is_file() and len(images(VIS / "weave/last/test/good")) == 3
    capsys.readouterr()
    assert evaluate("--class_name", "weave") == 0 and "kept" in capsys.readouterr().out
    odd.write_bytes(b"no image")
    assert evaluate("--class_name", "weave", "widget") == 1 and "Stra\\udcdfe.png" in capsys.readouterr().out


def test_weights_written_during_the_evaluation_are_others(both_classes, monkeypatch, capsys):
    seeds = iter((3, 4))

    def score_split(*arguments, **keywords):
        tiny_detector.save("weave", seed=next(seeds))
        return scores.score_split(*arguments, **keywords)

    monkeypatch.setattr(run, "score_split", score_split)
    assert evaluate("--class_name", "weave") == 0
    assert "(1 of 2 classes)" in capsys.readouterr().out and "<h2>weave</h2>" in (VIS / "report.html").read_text()
    assert read_class(VIS / "weave") is None  # of the weights that are there now nothing is known


def test_a_page_that_cannot_be_written_is_said(both_classes):
    (VIS / "report.html").mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot write .*realnet_vis/report\.html"):
        evaluate()


def test_a_missing_checkpoint_names_the_command(tiny, capsys):
    with pytest.raises(UserError, match=r"python train_realnet\.py --dataset tiny --class_name weave$"):
        evaluate("--class_name", "weave")
    tiny_detector.save("widget")
    assert evaluate("--class_name", "all") == 1
    printed = capsys.readouterr().out
    assert re.search(r"\nleft out\nweave: .* make it with: python train_realnet.py .* --class_name weave\n", printed)
    assert "\nwidget " in printed and (VIS / "widget/report.html").is_file()


def test_a_class_that_fails_does_not_stop_the_others(both_classes, capsys):
    assert evaluate() == 0
    assert "without results" not in (VIS / "report.html").read_text()
    (TEST / "hole/000.png").write_bytes(b"no image")
    capsys.readouterr()
    assert evaluate() == 1
    printed = capsys.readouterr().out
    below_the_table = printed[printed.index("\nwidget ") :]
    assert re.search(r"\nleft out\nweave: .*\n.*hole/000\.png", below_the_table) and "Traceback" not in printed
    page = (VIS / "report.html").read_text()
    assert "without results: weave<" in page and "<h2>weave</h2>" not in page
    assert metrics_of("widget")["image_auroc"] is not None
    with pytest.raises(UserError, match=r"hole/000\.png"):
        evaluate("--class_name", "weave")
    (Path(str(TEST).replace("weave", "widget")) / "good/000.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"(?s)weave/test/hole/000\.png.*widget/test/good/000\.png"):
        evaluate()


def test_files_are_checked_before_anything_is_scored(both_classes):
    shutil.rmtree(TEST / "fibre")
    with pytest.raises(UserError, match="masks without an image"):
        evaluate("--class_name", "weave")
    assert not VIS.exists()


def test_without_masks_there_are_image_metrics(both_classes, capsys):
    shutil.rmtree("data/tiny/images/weave/ground_truth")
    assert evaluate("--class_name", "weave") == 0
    printed = capsys.readouterr().out
    assert "weave: pixel AUROC, AUPRO, pixel AP, pixel F1-max not computed: no defect image has a mask" in printed
    assert metrics_of("weave")["image_auroc"] is not None and metrics_of("weave")["aupro"] is None
    assert images(VIS / "weave/last") == {f"test/{name}" for name in images(TEST)}


def test_defects_too_small_for_the_networks_size_are_told(both_classes, capsys):
    for kind in ("hole", "stain"):
        picture = np.repeat(np.repeat(read_image(TEST / kind / "000.png"), 4, axis=0), 4, axis=1)
        write_image(TEST / kind / "000.png", picture)
        mask = next(Path("data/tiny/images/weave/ground_truth", kind).iterdir())
        write_image(mask, np.arange(128 * 128).reshape(128, 128) == 0)
    assert evaluate("--class_name", "weave") == 0
    note = "weave: 2 masks show no defect at 32x32 pixels, such as weave/ground_truth/hole/000"
    assert capsys.readouterr().out.count(note) == 1
    page = (VIS / "weave/report.html").read_text()
    assert page.count("2 masks show no defect") == 1 and page.count("the mask shows no defect at 32x32 pixels") == 2


@pytest.mark.parametrize(("removed", "reason"), [("fibre hole stain", "no defect image"), (".", "no images")])
def test_without_defects_or_test_images_it_says_so(both_classes, capsys, removed, reason):
    for name in removed.split():
        shutil.rmtree(TEST / name)
    shutil.rmtree("data/tiny/images/weave/ground_truth")
    assert evaluate("--class_name", "weave") == 0
    assert f"image F1-max, pixel F1-max not computed: {reason}\n" in capsys.readouterr().out
    assert set(metrics_of("weave").values()) == {None}
    assert images(VIS / "weave/last") == ({"test/good/000.png", "test/good/001.png"} if removed != "." else set())
    assert (VIS / "weave/report.html").is_file()


def test_a_published_checkpoint_scores_as_our_own(both_classes):
    assert evaluate("--class_name", "weave") == 0
    before = (VIS / "report.html").stat().st_mtime_ns
    published = tiny_detector.save_published(Path("published.pth.tar"))
    assert evaluate("--class_name", "weave", "--checkpoint", str(published)) == 0
    ours, theirs = read_class(VIS / "weave").of("last"), read_class(VIS / "weave/given").of("given")
    assert [image.score for image in ours.images] == [image.score for image in theirs.images]
    assert ours.metrics == theirs.metrics and ours.curves == theirs.curves
    assert theirs.calibration is None and "picked on the test labels" in theirs.threshold_note
    assert images(VIS / "weave/given") == {f"test/{name}" for name in images(TEST)}
    assert (VIS / "report.html").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="is for one class, got 2; give --class_name"):
        evaluate("--checkpoint", str(published))


def test_dry_run_checks_the_weights_and_touches_nothing(both_classes, tiny, capsys):
    before = sorted(tiny.rglob("*"))
    assert evaluate("--dry-run") == 0
    printed = capsys.readouterr().out
    assert "5 test images by experiments/tiny/realnet_checkpoints/weave/ckpt_last.pth" in printed
    assert sorted(tiny.rglob("*")) == before
    shutil.copy(
        "experiments/tiny/realnet_checkpoints/weave/ckpt_last.pth", "experiments/tiny/realnet_checkpoints/widget"
    )
    with pytest.raises(UserError, match="class 'weave', but 'widget' is needed"):
        evaluate("--dry-run")


def test_two_processes_give_the_numbers_of_one_and_a_class_that_fails_on_one_fails_on_both(both_classes):
    assert evaluate("--class_name", "widget") == 0
    alone = read_class(VIS / "widget").of("last")
    shutil.rmtree(VIS)
    (VIS / "weave").mkdir(parents=True)
    (VIS / "weave/best").write_text("the main process cannot write heatmaps here")
    ended = run_script_together("evaluation_realnet", "--dataset", "tiny", "--device", "cpu")
    assert [one.code for one in ended] == [1, 1], ended[0].err + ended[1].err
    assert "left out\nweave: cannot write " in ended[0].out and not ended[1].out
    assert ended[0].out.count("tiny, last step") == 1
    together = read_class(VIS / "widget").of("last")
    scores = [[image.score for image in result.images] for result in (alone, together)]
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5)
    assert alone.metrics == together.metrics


def test_references_stand_beside_the_detector(both_classes, capsys):
    assert evaluate("--references", "padim", "nearest") == 0
    printed = capsys.readouterr().out
    assert "detectors side by side (mean over 2 classes)" in printed and "RealNet, last step" in printed
    result = read_class(VIS / "weave")
    assert [one.protocol for one in result.checkpoints][-2:] == ["padim", "nearest"]
    assert not (VIS / "weave/padim").exists() and (VIS / "weave/last").is_dir()
    weave = ("--class_name", "weave")
    assert evaluate(*weave, "--references", "padim", "nearest") == 0 and "kept" in capsys.readouterr().out
    assert evaluate(*weave) == 0 and "kept" not in capsys.readouterr().out


def test_references_alone_need_no_checkpoint_and_leave_results_as_they_are(both_classes, capsys):
    evaluate("--class_name", "weave")
    before = (VIS / "weave/metrics.json").read_bytes()
    shutil.rmtree("experiments/tiny/realnet_checkpoints")
    assert evaluate("--class_name", "weave", "--references", "only", "--dry-run") == 0
    assert "PaDiM" in capsys.readouterr().out
    assert evaluate("--class_name", "weave", "--references", "only") == 0
    assert (VIS / "weave/metrics.json").read_bytes() == before
    found = read_class(VIS / "weave/references")
    assert [one.protocol for one in found.checkpoints] == ["padim", "nearest"]
    assert found.checkpoints[0].metrics["image_auroc"].value > 0.5
    assert (VIS / "weave/references/report.html").is_file() and (VIS / "weave/references/padim/test").is_dir()


def test_a_test_image_is_decoded_once_for_all_checkpoints_and_pictures(both_classes, monkeypatch):
    tiny_detector.save("weave", paths.BEST, seed=2)
    decodes, decode = [], cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *given: decodes.append(1) or decode(*given))
    assert evaluate("--class_name", "weave") == 0
    test = [path for path in TEST.rglob("*.png") if path.is_file()]
    masks = list(Path("data/tiny/images/weave/ground_truth").rglob("*.png"))
    assert len(decodes) == len(test) + len(masks) and len(test) == 5
    assert len(images(VIS / "weave/last")) == len(images(VIS / "weave/best")) == len(test)


def test_pixels_of_the_files_and_whole_regions_are_settings_of_an_evaluation(tiny):
    tiny_detector.save("weave")
    assert evaluate("--class_name", "weave") == 0
    usual, settings = metrics_of("weave"), read_class(VIS / "weave").settings
    assert not {"resolution", "mask_resize"} & set(settings)  # as earlier versions stored them
    chosen = {"resolution": "file", "mask_resize": "regions"}
    arguments = [text for key, value in chosen.items() for text in ("--set", f"evaluation.{key}={value}")]
    assert evaluate("--class_name", "weave", *arguments) == 0
    assert metrics_of("weave") == pytest.approx(usual)  # the files have the input's size
    assert read_class(VIS / "weave").settings == {**settings, **chosen}
