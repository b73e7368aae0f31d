"""predict_realnet.py, as users call it."""

import io
import json
import os
import shutil
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_detector
from conftest import load_script
from prediction import OUTPUT, TEST, predict, rows

from realnet.config import paths
from realnet.data.images import read_image, write_image
from realnet.detection.detector import Detector
from realnet.detection.export import export_bundle
from realnet.drawing import panels
from realnet.errors import UserError
from realnet.models import checkpoint
from realnet.prediction import run
from realnet.prediction.inputs import find_images
from realnet.prediction.run import predict_files
from realnet.runtime.distributed import join_world
from realnet.runtime.lock import locked
from realnet.serving.uploads import decode


@pytest.fixture(autouse=True)
def trained(tiny):
    tiny_detector.save("weave")


def results(output: Path) -> dict[str, tuple]:
    """Everything about each file but the seconds."""
    return {
        name: (row["image_score"], row["threshold"], row["verdict"], (output / name).read_bytes())
        for name, row in rows(output).items()
    }


def test_a_folder_gives_verdicts_and_heatmaps_in_its_own_tree(capsys):
    tiny_detector.save("weave", seed=1)  # whose scores lie on both sides of the threshold
    assert predict("--input", TEST) == 0
    found = rows()
    assert list(found) == ["fibre/000.png", "good/000.png", "good/001.png", "hole/000.png", "stain/000.png"]
    threshold = tiny_detector.CALIBRATION.image_threshold
    for row in found.values():
        assert float(row["threshold"]) == threshold and float(row["seconds"]) > 0
        assert row["verdict"] == ("defect" if float(row["image_score"]) >= threshold else "normal")
    assert {row["verdict"] for row in found.values()} == {"defect", "normal"}
    assert sorted(path.relative_to(OUTPUT).as_posix() for path in OUTPUT.rglob("*.png")) == sorted(found)
    printed = capsys.readouterr().out
    assert str(OUTPUT / "predictions.csv") in printed and "ckpt_last.pth" in printed
    assert "defect" in printed and "normal" in printed and "\nthreshold  0.65 (calibrated)\n" in printed


def test_a_file_of_12_bits_gets_the_same_score_from_a_bundle_and_a_server():
    path = tiny_detector.save("weave")
    stored = checkpoint.load(path, kind="realnet")
    checkpoint.save(path, replace(stored, facts={**stored.facts, "image_bits": 12}))
    pixels = read_image(TEST / "hole/000.png")
    detector = Detector.load(path, device="cpu")
    cv2.imwrite("deep.png", pixels[..., ::-1].astype(np.uint16) * 16 + 7)
    export_bundle(detector, Path("a.realnet"), with_backbone=False)
    load_script("predict_realnet").main(["--detector", "a.realnet", "--input", "deep.png", "--output", "out"])
    assert float(rows(Path("out"))["deep.png"]["image_score"]) == detector.predict(pixels).image_score
    served = decode(Path("deep.png").read_bytes(), 10_000, bits=Detector.load("a.realnet").image_bits)
    np.testing.assert_array_equal(served, pixels)


def test_alone_in_a_batch_and_among_others_all_bits_are_equal():
    predict("--input", TEST, "--output", "whole")
    predict("--input", TEST, "--output", "one_by_one", "--batch_size", 1)
    predict("--input", TEST, "--output", "odd", "--batch_size", 3)
    predict("--input", TEST / "good", "--output", "part")
    whole = results(Path("whole"))
    assert len({score for score, *_ in whole.values()}) == 5
    assert results(Path("one_by_one")) == results(Path("odd")) == whole
    assert results(Path("part")) == {name: whole[f"good/{name}"] for name in ("000.png", "001.png")}
    predict("--input", TEST / "hole/000.png", "--output", "alone")
    assert results(Path("alone")) == {"000.png": whole["hole/000.png"]}


def test_unreadable_files_are_listed_and_do_not_stop_the_rest(capsys):
    folder = Path("photos")
    shutil.copytree(TEST, folder)
    (folder / "good/broken.png").write_bytes(b"no image")
    (folder / "hole/cut.png").write_bytes((folder / "hole/000.png").read_bytes()[:200])
    (folder / "notes.txt").write_text("no image, and not named as one")
    assert predict("--input", folder) == 1
    assert len(rows()) == 5
    printed = capsys.readouterr().out
    assert "2 left out\n" in printed and "good/broken.png" in printed and "hole/cut.png" in printed


def test_nothing_is_passed_over_in_silence(tiny, capsys, monkeypatch):
    folder = Path("photos")
    shutil.copytree(TEST, folder / "day")
    shutil.copytree(TEST / "good", "elsewhere/good")
    (folder / "a_link").symlink_to(tiny / "elsewhere", target_is_directory=True)
    (folder / "day/up").symlink_to(tiny / "photos", target_is_directory=True)  # in a circle
    (folder / "also_day").symlink_to(tiny / "photos/day", target_is_directory=True)
    for name in ("a.heic", "b.HEIC", "c.gif", "no_ending", ".DS_Store", ".hidden.png"):
        (folder / name).write_bytes(b"")
    assert predict("--input", folder) == 0
    assert "4 passed over, not images: 1 without one, 1 .gif, 2 .heic\n" in capsys.readouterr().out
    assert [name for name in rows() if not name.startswith("day/")] == ["a_link/good/000.png", "a_link/good/001.png"]
    assert len(rows()) == 7

    def iterdir(path: Path, whole_iterdir=Path.iterdir):
        if path.name == "hole":
            raise PermissionError(13, "Permission denied")
        return whole_iterdir(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert predict("--input", folder) == 1
    assert "1 left out\ncannot read the folder photos/day/hole: Permission denied\n" in capsys.readouterr().out
    assert len(rows()) == 6
    with pytest.raises(UserError, match=r"(?s)hole holds no images.*cannot read the folder .*hole: Permission"):
        predict("--input", TEST / "hole")


def test_names_of_any_kind_get_a_verdict_or_are_listed(capsys, monkeypatch):
    odd, long = os.fsdecode(b"001_Stra\xdfe.png"), f"{'n' * 251}.jpg"
    Path("photos").mkdir()
    for name in ("000.png", odd, long):
        shutil.copy(TEST / "good/000.png", f"photos/{name}")
    shutil.copy(__file__, f"photos/{os.fsdecode(b'Stra' + bytes([0xDF]))}.png")
    assert predict("--input", "photos") == 1
    assert list(rows()) == ["000.png", "001_Stra\\udcdfe.png", long] and (OUTPUT / odd).is_file()
    printed = capsys.readouterr().out
    assert "1 left out\n" in printed and "Stra\\udcdf.png" in printed
    monkeypatch.setattr(panels, "LONGEST_NAME", 1000)  # as on a file system that takes less
    assert predict("--input", "photos") == 1
    assert f"{long}.png: File name too long" in capsys.readouterr().out and len(rows()) == 2


def test_the_threshold_can_be_given(capsys):
    assert predict("--input", TEST, "--threshold", 0) == 0
    assert "\nthreshold  0 (given)\n" in capsys.readouterr().out
    assert {row["verdict"] for row in rows().values()} == {"defect"}
    assert {row["threshold"] for row in rows().values()} == {"0.0"}
    assert predict("--input", TEST, "--threshold", 1) == 0
    assert {row["verdict"] for row in rows().values()} == {"normal"}
    with pytest.raises(UserError, match=r"--threshold 1\.5 must be"):
        predict("--input", TEST, "--threshold", 1.5)


def test_without_calibration_there_is_no_verdict_but_a_score(capsys):
    tiny_detector.save("weave", calibration=None)
    assert predict("--input", TEST) == 0
    assert {(row["threshold"], row["verdict"]) for row in rows().values()} == {("", "")}
    printed = capsys.readouterr().out
    assert "5 without a verdict" in printed and "\nthreshold" not in printed


def test_results_inside_the_input_folder_are_no_input():
    folder = Path("photos")
    shutil.copytree(TEST, folder)
    for _ in range(2):
        assert predict("--input", folder, "--output", folder / "found") == 0
        assert len(rows(folder / "found")) == 5


@pytest.mark.parametrize(
    ("source", "output", "reason"),
    [
        ("photos", "photos", "the folder of the images"),
        ("photos/000.png", "photos", "the folder of the images"),
        ("photos", "photos/../photos", "the folder of the images"),
        ("photos/stain", "photos", "would replace 1 files"),  # photos/000.png is no heatmap
        ("new", "photos", "would replace 1 files"),
        ("linked", "found", "would replace 1 files"),
    ],
)
def test_a_photograph_is_never_replaced(tiny, source, output, reason):
    for folder in ("photos", "photos/stain", "new", "found", "linked"):
        Path(folder).mkdir()
        shutil.copy(TEST / "hole/000.png", folder)
    Path("found/predictions.csv").write_text("file,image_score,threshold,verdict,seconds\n")
    Path("linked/000.png").unlink()
    Path("linked/000.png").symlink_to(tiny / "found/000.png")
    before = {path: path.read_bytes() for path in tiny.rglob("*.*") if path.is_file()}
    with pytest.raises(UserError, match=reason):
        predict("--input", source, "--output", output)
    assert {path: path.read_bytes() for path in tiny.rglob("*.*") if path.is_file()} == before


def test_two_predictions_never_write_the_same_folder():
    with locked(OUTPUT), pytest.raises(UserError, match=r"realnet_vis/weave/predictions belongs to another run"):
        predict("--input", TEST)
    assert not OUTPUT.exists()
    assert predict("--input", TEST) == 0


def test_a_network_that_gives_nan_gives_no_verdict():
    tiny_detector.save("weave", diverged=True)
    with pytest.raises(
        UserError, match=r"fibre/000\.png: the detector gives NaN: its weights diverged, or try runtime"
    ):
        predict("--input", TEST)
    assert not rows()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk_is_said():
    Path("found").mkdir()
    Path("found/predictions.csv").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"cannot write found/predictions\.csv: No space left on device; free space"):
        predict("--input", TEST, "--output", "found")


def test_large_images_keep_their_proportions():
    picture = np.random.default_rng(0).integers(0, 256, (1100, 2200, 3)).astype(np.uint8)
    write_image(Path("photo.jpg"), picture)
    assert predict("--input", "photo.jpg") == 0
    height, width = read_image(OUTPUT / "photo.jpg.png").shape[:2]
    assert 2 * 1024 < width < 2 * 1024 + 50 and 512 < height < 620


def test_the_checkpoint_is_the_last_then_the_best_then_the_one_given(capsys):
    folder = paths.output("tiny", "realnet", "checkpoints", "weave")
    (folder / paths.LAST).rename(folder / paths.BEST)
    assert predict("--input", TEST) == 0 and "ckpt_best.pth" in capsys.readouterr().out
    published = tiny_detector.save_published(Path("published.pth.tar"))
    scores = {name: row["image_score"] for name, row in rows().items()}
    assert predict("--input", TEST, "--checkpoint", published) == 0 and "published" in capsys.readouterr().out
    assert {name: row["image_score"] for name, row in rows().items()} == scores


def test_what_cannot_be_predicted_is_said():
    Path("empty").mkdir()
    for arguments, message in [
        (("--input", "absent"), "absent does not exist"),
        (("--input", "empty"), "empty holds no images"),
        (("--input", TEST, "--batch_size", 0), "--batch_size 0 must be at least 1"),
        (("--input", TEST, "--class_name", "widget"), "--dataset tiny --class_name widget"),
        (("--input", TEST, "--class_name", "weave", "widget"), r"the detector of one class.*\(trained: weave\)"),
    ]:
        with pytest.raises(UserError, match=message):
            predict(*arguments)
    assert predict("--input", TEST, "--class_name", "all") == 0  # the only one that is trained


def test_dry_run_touches_nothing(tiny, capsys):
    before = sorted(tiny.rglob("*"))
    assert predict("--input", TEST, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "ckpt_last.pth" in printed and "calibrated on 3 held-out images" in printed
    assert sorted(tiny.rglob("*")) == before


def test_memory_does_not_grow_with_the_images(tiny):
    picture = np.random.default_rng(0).integers(0, 256, (300, 300, 3)).astype(np.uint8)
    for index in range(24):
        write_image(Path(f"many/{index}.png"), picture)
    detector = Detector.load(paths.output("tiny", "realnet", "checkpoints", "weave") / paths.LAST, device="cpu")

    def peak(count: int) -> int:
        files = [f"{index}.png" for index in range(count)]
        with join_world("cpu") as world:
            tracemalloc.start()
            for _ in predict_files(detector, files, Path("many"), Path("out"), batch_size=1, world=world):
                pass
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak_bytes

    peak(2)
    few = peak(4)
    assert peak(24) < 1.2 * few


def test_the_next_images_are_read_while_one_is_scored(tiny, monkeypatch):
    detector = Detector.load(paths.output("tiny", "realnet", "checkpoints", "weave") / paths.LAST, device="cpu")
    third_is_read, whole_read, whole_predict = threading.Event(), run.read_image, Detector.predict
    files = ["good/000.png", "good/001.png", "hole/000.png", "stain/000.png"]

    def read(path, bits):
        if path.parent.name == "hole":
            third_is_read.set()
        return whole_read(path, bits)

    def score(self, image, **how):
        waited.append(third_is_read.wait(5))
        return whole_predict(self, image, **how)

    waited: list[bool] = []
    monkeypatch.setattr(run, "read_image", read)
    monkeypatch.setattr(Detector, "predict", score)
    with join_world("cpu") as world:
        found = list(predict_files(detector, files, TEST, Path("out"), batch_size=2, world=world))
    assert [one.file for one in found] == files and waited == [True] * 4


def test_images_without_a_usual_ending_are_known_by_their_content(tiny):
    for name in ("one", "two.jpe", "three.PNG"):
        Path("photos").mkdir(exist_ok=True)
        shutil.copy(TEST / "good/000.png", Path("photos", name))
    Path("photos/notes.txt").write_text("PNG")
    found = find_images(Path("photos"), output=Path("out"))
    assert sorted(found.files) == ["one", "three.PNG", "two.jpe"] and dict(found.passed_over) == {".txt": 1}


def test_a_detectors_file_is_enough_where_there_is_no_dataset(tiny, tmp_path_factory, monkeypatch, capsys):
    bundle = tmp_path_factory.mktemp("elsewhere") / "weave.realnet"
    load_script("export_realnet").main(["--dataset", "tiny", "--class_name", "weave", "--output", str(bundle)])
    assert f"written    {bundle} (" in capsys.readouterr().out
    predict("--input", TEST, "--output", "here")
    expected = {name: (row["image_score"], row["verdict"]) for name, row in rows(Path("here")).items()}
    monkeypatch.chdir(bundle.parent)
    main = load_script("predict_realnet").main
    assert main(["--detector", "weave.realnet", "--input", str(tiny / TEST), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "detector   weave.realnet, in torch" in printed and "verdicts   predictions/predictions.csv" in printed
    assert {name: (row["image_score"], row["verdict"]) for name, row in rows(Path("predictions")).items()} == expected
    for flags, message in [
        ((), "name the detector: --detector FILE, or --dataset NAME"),
        (("--detector", "absent.pth"), "--detector absent.pth does not exist"),
        (("--detector", "weave.realnet", "--checkpoint", "x.pth"), "both name one; leave one out"),
        (("--detector", "weave.realnet", "--class_name", "widget"), "class 'weave', but 'widget' is needed"),
        (("--detector", "weave.realnet", "--runtime", "openvino"), "weave.realnet runs in torch"),
    ]:
        with pytest.raises(UserError, match=message):
            main([*flags, "--input", str(tiny / TEST), "--device", "cpu"])


def test_files_folders_and_patterns_may_be_mixed(tiny, monkeypatch):
    assert predict("--input", TEST / "good", TEST / "hole/000.png", TEST / "good/000.png") == 0
    assert list(rows()) == ["good/000.png", "good/001.png", "hole/000.png"]
    predict("--input", f"{TEST}/*/000.png", "--output", "pattern")
    assert list(rows(Path("pattern"))) == ["fibre/000.png", "good/000.png", "hole/000.png", "stain/000.png"]
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{TEST / 'hole/000.png'}\n\n{TEST / 'good'}\n"))
    predict("--input", "-", "--output", "listed")
    assert list(rows(Path("listed"))) == ["good/000.png", "good/001.png", "hole/000.png"]
    with pytest.raises(UserError, match=r"matches no images"):
        predict("--input", f"{TEST}/*/*.jpg")


def test_names_on_standard_input_need_not_be_utf8(tmp_path, monkeypatch):
    names = os.fsencode(tmp_path) + b"/Stra\xdfe.png\n"
    Path(os.fsdecode(names.strip())).touch()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(names), encoding="utf-8"))
    assert find_images(Path("-"), output=tmp_path / "out").files == [os.fsdecode(b"Stra\xdfe.png")]


def test_verdicts_regions_masks_and_maps_are_of_one_prediction():
    write_image(Path("photo.jpg"), np.random.default_rng(0).integers(0, 256, (50, 90, 3)).astype(np.uint8))
    assert predict("--input", "photo.jpg", "--output", "found", "--save", "masks", "maps", "overlays") == 0
    (line,) = map(json.loads, Path("found/predictions.jsonl").read_text().splitlines())
    anomaly_map, mask = np.load("found/maps/photo.jpg.npy"), read_image(Path("found/masks/photo.jpg.png"))[..., 0]
    assert anomaly_map.dtype == np.float32 and anomaly_map.shape == mask.shape == (50, 90)
    assert (line["width"], line["height"], line["pixel_threshold"]) == (
        90,
        50,
        tiny_detector.CALIBRATION.pixel_threshold,
    )
    np.testing.assert_array_equal(mask > 0, anomaly_map >= line["pixel_threshold"])
    assert read_image(Path("found/overlays/photo.jpg.png")).shape == (50, 90, 3)
    assert sum(region["area"] for region in line["regions"]) == (mask > 0).sum() > 0
    assert line["regions"][0]["peak"] == pytest.approx(anomaly_map.max())
    assert not Path("found/photo.jpg.png").exists()
    row = rows(Path("found"))["photo.jpg"]
    assert float(row["image_score"]) == line["image_score"] and row["verdict"] == line["verdict"]


def test_outlines_move_with_the_threshold():
    for threshold, pixels in ((0.325, 0.25), (0.65, 0.5), (0.825, 0.75), (1, 1)):
        predict("--input", TEST / "good", "--threshold", threshold)
        line = json.loads((OUTPUT / "predictions.jsonl").read_text().splitlines()[0])
        assert line["pixel_threshold"] == pytest.approx(pixels)


def test_pictures_of_two_photographs_never_share_a_file():
    for name in ("photos/1.png", "photos/masks/1.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(TEST / "hole/000.png", name)
    with pytest.raises(UserError, match=r"two pictures would be .*masks/1\.png"):
        predict("--input", "photos", "--save", "heatmaps", "masks")
