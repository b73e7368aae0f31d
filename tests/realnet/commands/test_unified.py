"""--class_name unified: one detector for all classes of a dataset."""

import csv
import json
import re
import shutil
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import tiny_detector
import torch
from alone import ALONE
from conftest import load_script

from realnet.anomalies.items import DetectorTrainDataset
from realnet.config import RealNetConfig, load
from realnet.data.images import read_image
from realnet.data.registry import open_dataset
from realnet.detection.calibration import calibrate
from realnet.detection.detector import Detector
from realnet.detection.examples import join_examples
from realnet.errors import UserError
from realnet.evaluation.results import read_class
from realnet.models import checkpoint
from realnet.runtime import placement
from realnet.training.detector_data import detector_data

CHECKPOINTS, VIS = Path("experiments/tiny/realnet_checkpoints"), Path("experiments/tiny/realnet_vis")
UNIFIED = CHECKPOINTS / "unified/ckpt_last.pth"
BY_CLASS = {
    name: replace(tiny_detector.CALIBRATION, image_threshold=t) for name, t in (("weave", 0.6), ("widget", 0.7))
}
PHOTO = "data/tiny/images/weave/test/good/000.png"


def evaluate(*arguments: str) -> int:
    return load_script("evaluation_realnet").main(["--dataset", "tiny", "--device", "cpu", *arguments])


def train(*arguments: str) -> None:
    command = ["--dataset", "tiny", "--device", "cpu", "--class_name", "unified", "--set", "train.num_steps=1"]
    load_script("train_realnet").main([*command, *arguments])


@pytest.fixture
def unified(tiny):
    """There is a detector of all classes, and one of each."""
    tiny_detector.save("unified", seed=2, by_class=BY_CLASS)
    tiny_detector.save("weave")
    tiny_detector.save("widget", seed=1)


def auroc(folder: str) -> float:
    return read_class(VIS / folder).of("last").metrics["pixel_auroc"].value


def test_training_joins_the_classes_and_calibrates_for_each_and_for_any(tiny, monkeypatch):
    monkeypatch.setattr(placement, "pack_convolutions", lambda network: None)  # which rounds otherwise than training
    train("--set", "calibration.holdout_fraction=0.2")
    stored = checkpoint.load(UNIFIED, kind="realnet", dataset="tiny", class_name="widget")
    assert (stored.class_name, stored.classes) == ("unified", ("weave", "widget"))
    assert stored.facts["data"] == {"train": 10, "held_out": 2, "test": 10}
    detector = Detector.load(UNIFIED, device="cpu")
    data = detector_data(open_dataset("tiny"), "unified", detector.config)
    examples = [part.draw_examples(part.held_out, detector.config) for part in data.by_class()]
    for one, found in zip(
        [*examples, join_examples(examples)],
        [*stored.facts["calibrations"].values(), stored.facts["calibration"]],
        strict=True,
    ):
        made = calibrate(detector.model, one, config=detector.config, world=ALONE, held_out=True)
        thresholds = [found[name] for name in ("image_threshold", "pixel_threshold", "display_scale")]
        assert [made.image_threshold, made.pixel_threshold, made.display_scale] == pytest.approx(thresholds, rel=1e-4)
    numbers = [one["num_images"] for one in (*stored.facts["calibrations"].values(), stored.facts["calibration"])]
    assert numbers == [1, 1, 2]
    assert (CHECKPOINTS / "unified/ckpt_best.pth").is_file() and not (CHECKPOINTS / "weave").exists()
    with pytest.raises(UserError, match="'unified', but 'gear' is needed"):
        checkpoint.load(UNIFIED, kind="realnet", class_name="gear")


def test_each_image_gets_its_own_classs_anomalies_and_batches_are_balanced(tiny):
    Path("experiments/tiny/dataset.yaml").write_text(
        "image_root: data/tiny/images\nforeground: {weave: full, widget: {polarity: dark}}\n"
    )
    for number in range(3):
        (Path("data/tiny/images/widget/train/good") / f"00{number}.png").unlink()
    data = detector_data(open_dataset("tiny"), "unified", tiny_detector.config())
    parts = {part.class_name: part for part in data.by_class()}
    assert [len(parts[name].train) for name in ("weave", "widget")] == [6, 3]
    assert "full, channel='grey'" in data.subject(tiny_detector.config(), "")["foreground in dataset.yaml"]
    options = {"image_size": (32, 32), "seed": 0}
    whole = DetectorTrainDataset(data.train, data.image_root, synthesizer=data.synthesizer, **options)
    assert whole.groups == [[0, 1, 2, 3, 4, 5], [6, 7, 8]]
    alone = AlwaysThisIndex(parts["widget"].train, data.image_root, synthesizer=parts["widget"].synthesizer, **options)
    assert alone.groups is None
    for epoch in range(4):
        torch.testing.assert_close(whole[epoch, 7]["image"], alone[epoch, 7]["image"])


class AlwaysThisIndex(DetectorTrainDataset):
    """A class's items with the numbers that they have among all classes', which seed their draws."""

    def __init__(self, entries, *arguments, **options):
        super().__init__([*[entries[0]] * 6, *entries], *arguments, **options)


def test_the_table_shows_the_mean_beside_the_separate_detectors(unified, capsys):
    assert evaluate() == 0
    assert "one detector of all classes beside" not in capsys.readouterr().out
    assert evaluate("--class_name", "unified") == 0
    printed = capsys.readouterr().out
    assert "tiny, unified, one detector of all classes, last step: no test data used" in printed
    mean = 50 * (auroc("unified/weave") + auroc("unified/widget"))
    separate = 50 * (auroc("weave") + auroc("widget"))
    beside = printed[printed.index("one detector of all classes beside one for each (mean over 2 classes)") :]
    rows = dict(re.findall(r"\n(\w[^\n]*?) {2,}\S+ +(\S+)", beside))
    assert (
        rows["unified, last step"] == f"{mean:.2f}"
        and rows["a detector for each class, last step"] == f"{separate:.2f}"
    )
    assert "widget (unified), last: threshold 0.7 (calibrated)" in printed
    assert "weave (unified): of unknown class (threshold 0.65): " in printed
    assert (VIS / "unified/widget/last/test/good/000.png").is_file()
    lines = list(csv.DictReader((VIS / "metrics.csv").open()))
    names = [line["class"] for line in lines]
    assert names == ["weave", "widget", "mean", "unified/weave", "unified/widget", "unified/mean"]
    stored = json.loads((VIS / "metrics.json").read_text())
    assert stored["unified"]["mean"]["last"]["pixel_auroc"]["value"] == pytest.approx(mean / 100)
    page = (VIS / "report.html").read_text()
    assert 'href="unified/weave/report.html"' in page and f"{mean:.2f}" in page
    card = (CHECKPOINTS / "unified/card.md").read_text()
    assert (
        "**class widget:** image threshold 0.7" in card
        and "**class weave:** image_auroc" in card
        and "6 defects" in card
        and "95 % interval 0" not in card.split("missed")[0]
    )
    capsys.readouterr()
    assert evaluate("--class_name", "unified") == 0 and capsys.readouterr().out.count("kept") == 2


def test_detectors_of_all_classes_have_seeds_too(unified, capsys):
    for seed in (0, 1):
        tiny_detector.save("unified", seed=seed, by_class=BY_CLASS, of_seed=seed)
        tiny_detector.save("weave", seed=seed + 3, of_seed=seed)
        tiny_detector.save("widget", seed=seed + 5, of_seed=seed)
    assert evaluate("--class_name", "all", "unified", "--seeds", "0", "1") == 0
    printed = capsys.readouterr().out
    beside = printed[printed.index("one detector of all classes beside") :]
    assert re.search(r"\nunified, last step +\S+ ± ", beside) and re.search(r"\na detector for each .* ± ", beside)
    assert (VIS / "unified/weave/seed_1/report.html").is_file()
    assert "of seeds 0, 1" in (CHECKPOINTS / "unified/seed_0/card.md").read_text()


def test_a_known_class_judges_by_its_thresholds_also_in_other_files(unified):
    thresholds = {"weave": 0.6, "widget": 0.7, None: 0.65, "unified": 0.65}
    load_script("export_realnet").main(["--detector", str(UNIFIED), "--class_name", "widget", "--output", "a.realnet"])
    load_script("export_realnet").main(["--dataset", "tiny", "--class_name", "unified", "--output", "b.realnet"])
    for file in (UNIFIED, "a.realnet", "b.realnet"):
        for name, threshold in thresholds.items():
            assert Detector.load(file, device="cpu", class_name=name).predict(PHOTO).threshold == threshold
        with pytest.raises(UserError, match="of class 'unified', but 'gear' is needed"):
            Detector.load(file, device="cpu", class_name="gear")
    for more, threshold in ((["--class_name", "weave"], "0.6"), ([], "0.65")):
        flags = ["--detector", "b.realnet", "--input", PHOTO, "--output", "out", "--save", "page", *more]
        assert load_script("predict_realnet").main(flags) == 0
        assert f",{threshold}," in Path("out/predictions.csv").read_text()
    assert zipfile.ZipFile("b.realnet").testzip() is None


def test_thresholds_are_set_anew_for_a_class_or_for_any(unified):
    good = ["--good", "data/tiny/images/weave/test/good", "--device", "cpu"]
    run = load_script("calibrate_realnet").main
    run(["--detector", str(UNIFIED), "--class_name", "weave", *good])
    facts = checkpoint.load(UNIFIED, kind="realnet").facts
    assert facts["calibrations"]["weave"]["note"] and facts["calibrations"]["widget"] == asdict(BY_CLASS["widget"])
    assert facts["calibration"] == asdict(tiny_detector.CALIBRATION)
    run(["--dataset", "tiny", "--class_name", "unified", *good])
    again = checkpoint.load(UNIFIED, kind="realnet").facts
    assert again["calibration"]["note"] and again["calibrations"] == facts["calibrations"]
    with pytest.raises(UserError, match=r"score_pool 4: the detector has thresholds for weave, widget, all by \d+"):
        run(["--detector", str(UNIFIED), "--class_name", "weave", *good, "--set", "evaluation.score_pool=4"])


def test_features_measured_by_channel_and_joined_maps_serve_all_classes(tiny):
    settings = (
        "features.normalise=channel",
        "features.folds=2",
        "detector.fuse.position=true",
        "evaluation.score_pool=auto",
    )
    train("--set", "calibration.holdout_fraction=0.2", *(part for one in settings for part in ("--set", one)))
    detector = Detector.load(UNIFIED, device="cpu", class_name="widget")
    assert detector.calibration is not None and detector.model.fusion is not None
    assert detector.predict(PHOTO).verdict is not None


MEASURED = [
    word
    for one in ("calibration.holdout_fraction=0.2", "features.folds=2", "detector.fuse.position=true")
    for word in ("--set", one)
]


@pytest.fixture
def measured(tiny):
    """There is a detector of all classes, each measured by statistics of its own."""
    train(*MEASURED, "--set", "features.normalise=auto")


def test_each_class_is_measured_by_its_own_statistics_also_after_an_export(measured, capsys):
    photos = {name: f"data/tiny/images/{name}/test/good/000.png" for name in BY_CLASS}
    whole = Detector.load(UNIFIED, device="cpu")
    own = {name: Detector.load(UNIFIED, device="cpu", class_name=name) for name in BY_CLASS}
    load_script("export_realnet").main(["--detector", str(UNIFIED), "--class_name", "widget", "--output", "a.realnet"])
    load_script("export_realnet").main(["--dataset", "tiny", "--class_name", "unified", "--output", "b.realnet"])
    alone, bundle = Detector.load("a.realnet", device="cpu"), Detector.load("b.realnet", device="cpu")
    assert (alone.class_name, bundle.class_name) == ("widget", "unified")
    assert alone.config.features.normalise in {"position", "channel"}
    for name, photo in photos.items():
        expected = own[name].predict(photo)
        for detector in (whole, bundle):  # which see what the photograph is of
            np.testing.assert_allclose(detector.predict(photo).anomaly_map, expected.anomaly_map, atol=1e-5)
        other = own["weave" if name == "widget" else "widget"].predict(photo)
        assert np.abs(other.anomaly_map - expected.anomaly_map).max() > 0.05
        found = Detector.load("b.realnet", device="cpu", class_name=name).predict(photo)
        np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map, atol=1e-5)
        thresholds = [(one.threshold, one.pixel_threshold) for one in (found, expected, whole.predict(photo))]
        assert thresholds[0] == thresholds[1] != thresholds[2]
    np.testing.assert_allclose(
        alone.predict(photos["widget"]).anomaly_map, own["widget"].predict(photos["widget"]).anomaly_map, atol=1e-5
    )
    with pytest.raises(UserError, match="of class 'widget', but 'weave' is needed"):
        Detector.load("a.realnet", device="cpu", class_name="weave")
    assert evaluate("--class_name", "unified") == 0
    assert re.search(r"of unknown class \(threshold [\d.]+\): .* image AUROC", capsys.readouterr().out)
    load_script("export_realnet").main(["--detector", str(UNIFIED), "--class_name", "widget", "--output", "c.realnet"])
    with zipfile.ZipFile("c.realnet") as file:
        assert b"**image_auroc:**" in file.read("card.md") and b"(weave)" not in file.read("card.md")
    card = (CHECKPOINTS / "unified/card.md").read_text()
    assert re.search(r"normalised by (position|channel) \(weave\), (position|channel) \(widget\)", card)
    capsys.readouterr()
    train(*MEASURED, "--set", "features.normalise=position", "--no-resume", "--dry-run")
    assert "normal statistics" in capsys.readouterr().out
    assert evaluate("--class_name", "unified", "--dry-run") == 0


def test_a_run_in_two_parts_equals_a_run_in_one(measured):
    more = (*MEASURED, "--set", "features.normalise=auto", "--set", "train.num_steps=2")
    train(*more)
    parts = checkpoint.load(UNIFIED, kind="realnet")
    train(*more, "--no-resume")
    whole = checkpoint.load(UNIFIED, kind="realnet")
    assert parts.facts["statistics"] == whole.facts["statistics"] and set(whole.facts["statistics"]) == set(BY_CLASS)
    assert parts.state_dict.keys() == whole.state_dict.keys()
    for key, value in whole.state_dict.items():
        torch.testing.assert_close(parts.state_dict[key], value, atol=1e-5, rtol=1e-4, msg=key)


def test_what_one_class_lacks_is_refused_by_its_name(tiny):
    for number in range(4):
        (Path("data/tiny/images/widget/train/good") / f"00{number}.png").unlink()
    with pytest.raises(UserError, match=r"features\.folds, 2, and there are 1"):
        train(*MEASURED, "--set", "features.normalise=channel", "--dry-run")


def test_a_whole_pass_beside_tiles_is_one_classs(tiny):
    tiles = ("--set", "tiles={size: 16, context: true}", "--set", "calibration.holdout_fraction=0.2")
    with pytest.raises(UserError, match=r"tiles\.context .* set tiles\.context=false"):
        train(*tiles, "--dry-run")


def test_a_class_of_that_name_is_that_class(tiny, capsys):
    Path("data/tiny/images/weave").rename("data/tiny/images/unified")
    train("--dry-run")
    assert "unified (6 train, 5 test)" in capsys.readouterr().out
    Path("data/tiny/images/unified").rename("data/tiny/images/Unified")
    with pytest.raises(UserError, match="no class 'unified'; its classes: Unified, widget"):
        train("--dry-run")
    shutil.rmtree("data/tiny/images/Unified")
    with pytest.raises(UserError, match="unified is one detector of all classes, and tiny has one class: name widget"):
        train("--dry-run")


def test_a_class_of_that_name_that_comes_later_is_not_judged_by_the_detector_of_all(unified, capsys):
    shutil.copytree("data/tiny/images/weave", "data/tiny/images/unified")
    assert evaluate() == 1
    left_out = capsys.readouterr().out.split("left out")[1]
    assert re.search(
        r"^unified: .*unified/ckpt_last.pth is the detector of all classes, of before tiny", left_out, re.MULTILINE
    )
    with pytest.raises(UserError, match="is the detector of all classes, of before tiny had a class unified"):
        load_script("predict_realnet").main(["--dataset", "tiny", "--class_name", "unified", "--input", PHOTO])


def test_a_class_without_thresholds_is_judged_by_those_for_any(tiny):
    stored = checkpoint.read(tiny_detector.save("unified", by_class=BY_CLASS))
    stored["facts"]["calibrations"]["weave"] = None
    checkpoint.write(UNIFIED, stored)
    assert Detector.load(UNIFIED, device="cpu", class_name="weave").predict(PHOTO).threshold == 0.65


def test_an_export_is_checked_on_photographs_of_all_classes(unified, capsys):
    from realnet.commands.export import _images

    images = _images(None, Detector.load(UNIFIED, device="cpu"))
    assert "drawings" not in capsys.readouterr().out
    for name in BY_CLASS:
        own = [read_image(file) for file in Path("data/tiny/images", name).rglob("*.png")]
        assert any(np.array_equal(image, one) for image in images for one in own), name


def test_a_class_added_later_is_left_out(unified, capsys):
    shutil.copytree("data/tiny/images/weave", "data/tiny/images/gear")
    assert evaluate("--class_name", "unified") == 1
    assert re.search(
        r"left out\ngear \(unified\): .* is of class 'unified', but 'gear' is needed", capsys.readouterr().out
    )


def test_maps_do_not_depend_on_the_class(unified):
    one, other = (Detector.load(UNIFIED, device="cpu", class_name=name).predict(PHOTO) for name in ("weave", None))
    np.testing.assert_array_equal(one.anomaly_map, other.anomaly_map)


def with_types(types: str) -> RealNetConfig:
    return load(RealNetConfig, Path("experiments/tiny/realnet.yaml"), [f"anomalies.types={types}"])


def test_a_class_without_photographs_of_defects_does_without(tiny, run_script):
    types = "{normal: 0.5, self: 0.3, real: 0.2}"
    dataset = open_dataset("tiny")
    with pytest.raises(UserError, match=r"'weave'.*has none(?s:.)*'widget'.*has none"):
        detector_data(dataset, "unified", with_types(types))
    Path("experiments/tiny/layout.yaml").write_text('"weave/test/hole/*": train hole\n')
    run_script("prepare_data", "index", "--dataset", "tiny")
    dataset = open_dataset("tiny")
    synthesizer = detector_data(dataset, "unified", with_types(types)).synthesizer
    assert synthesizer.of("weave").all_types == {"normal": 0.5, "self": 0.3, "real": 0.2}
    assert synthesizer.of("widget").all_types == {"normal": 0.5, "self": 0.3}
    with pytest.raises(UserError, match=r"'widget' of tiny has none"):
        detector_data(dataset, "unified", with_types("{normal: 0.5, real: 0.5}"))
    with pytest.raises(UserError, match=r"'widget' of tiny has none"):
        detector_data(dataset, "widget", with_types(types))
