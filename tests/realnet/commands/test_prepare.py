import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, load_script

from realnet import Detector
from realnet.commands import cli
from realnet.config import load_dataset
from realnet.data.images import read_image, write_image
from realnet.data.index import read_index
from realnet.data.registry import open_dataset
from realnet.errors import UserError
from realnet.inspection import findings as kinds
from realnet.inspection.check import inspect_class
from realnet.preparation.toy import CLASSES


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A folder, entered, with the shipped configs of some datasets."""
    for name in ("VisA", "MTD", "toy"):
        (tmp_path / "experiments" / name).mkdir(parents=True)
        shipped = ROOT / "experiments" / name / "dataset.yaml"
        shutil.copy(shipped, tmp_path / "experiments" / name / "dataset.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def photographs(folder, count, *, side=24):
    for seed in range(count):
        pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8)
        write_image(folder / f"IMG {seed}.jpg", pixels)
    return folder


def test_index_lists_what_is_on_disk(tiny, run_script):
    printed = run_script("prepare_data", "index", "--dataset", "tiny", "--dry-run")
    assert not (tiny / "data/tiny/samples").exists()
    assert "fibre 1, hole 1, stain 1" in printed
    assert "32x32" in printed
    run_script("prepare_data", "index", "--dataset", "tiny", "--class_name", "weave")
    assert len(read_index(tiny / "data/tiny/samples", "weave").train) == 6
    photographs(tiny / "data/tiny/images/weave/train/good", 1)
    run_script("prepare_data", "index", "--dataset", "tiny")
    assert len(read_index(tiny / "data/tiny/samples", "weave").train) == 7
    shutil.rmtree(tiny / "data/tiny/images/weave/train/good")
    shutil.rmtree(tiny / "data/tiny/images/widget/train/good")
    with pytest.raises(UserError, match=r"(?s)weave holds no training images.*widget holds no training images"):
        run_script("prepare_data", "index", "--dataset", "tiny")


def deep_photographs(folder, count, *, bits=12):
    for path in sorted(photographs(folder, count).iterdir()):
        values = read_image(path).astype(np.uint16) << (bits - 8)
        path.unlink()
        cv2.imwrite(str(path.with_suffix(".png")), values)


def test_own_photographs_become_a_dataset_that_can_be_trained_on(tiny, run_script):
    deep_photographs(tiny / "my photos", 6)
    arguments = ("prepare_data", "add", "--name", "bolts", "--source", "my photos")
    assert "recognised folder: " in run_script(*arguments, "--dry-run")
    assert not (tiny / "experiments/bolts").exists()
    assert not (tiny / "data/bolts").exists()
    printed = run_script(*arguments)
    assert "depth      12 bits are used in 16-bit files" in printed
    assert "next       python prepare_data.py preview --dataset bolts" in printed
    assert {path.name for path in (tiny / "data/bolts/samples").iterdir()} == {
        "train_my photos.json",
        "test_my photos.json",
    }
    with pytest.raises(UserError, match="--force"):
        run_script(*arguments)
    run_script(*arguments, "--force", "--layout", "folder")
    small = str(tiny / "experiments/tiny/realnet.yaml")
    run_script("prepare_data", "preview", "--dataset", "bolts", "--config", small)
    run_script("train_realnet", "--dataset", "bolts", "--config", small, "--set", "calibration.holdout_fraction=0.1")
    path = tiny / "experiments/bolts/realnet_checkpoints/my photos/ckpt_last.pth"
    assert Detector.load(path, device="cpu").image_bits == load_dataset("bolts").image_bits == 12
    (tiny / "experiments/bolts/dataset.yaml").write_text("image_root: .\nclasses: [my photos]\n")
    found = inspect_class(open_dataset("bolts"), "my photos", decode=True)
    assert [(one.kind, one.where) for one in found] == [(kinds.DEPTH, "my photos: 12 bits are used, image_bits is 16")]


def test_nothing_is_written_for_images_that_cannot_be_used(tiny, run_script):
    photographs(tiny / "parts/a/train/good", 1)
    (tiny / "parts/b/train/good").mkdir(parents=True)
    with pytest.raises(UserError, match=r"parts/b holds no training images"):
        run_script("prepare_data", "add", "--name", "parts", "--source", "parts")
    assert not (tiny / "experiments/parts").exists()


def test_a_sheet_shows_every_configured_source(tiny, run_script, capsys):
    types = "anomalies.types={normal: 1, self: 1, sdas: 1, dtd: 0}"
    arguments = (
        "prepare_data",
        "preview",
        "--dataset",
        "tiny",
        "--set",
        types,
        "--set",
        "image_size=96",
        "--num_images",
        "2",
    )
    printed = run_script(*arguments, "--class_name", "widget")
    assert "left out of the preview: class 'widget' of tiny needs SDAS images" in printed
    few = read_image(tiny / "experiments/tiny/realnet_vis/widget/preview.png")
    photographs(tiny / "data/tiny/sdas/widget", 2)
    assert "left out" not in run_script(*arguments, "--class_name", "widget", "--output", "sheets")
    more = read_image(tiny / "sheets/widget.png")
    assert more.shape[0] == few.shape[0]
    assert more.shape[1] == few.shape[1] + 2 * 100  # two columns of 96 pixels and their gaps
    run_script(*arguments, "--class_name", "widget", "--output", "again")
    assert np.array_equal(more, read_image(tiny / "again/widget.png"))
    run_script(*arguments, "--class_name", "widget", "--output", "other", "--seed", "5")
    assert not np.array_equal(more, read_image(tiny / "other/widget.png"))


def test_check_reports_everything_and_ends_with_code_2(tiny, run_script, capsys):
    assert "sound      tiny: weave, widget" in run_script("prepare_data", "check", "--dataset", "tiny")
    images = tiny / "data/tiny/images"
    shutil.copy(images / "weave/train/good/000.png", images / "weave/test/good/leak.png")
    broken = images / "widget/train/good/000.png"
    broken.write_bytes(broken.read_bytes()[:-60])
    write_image(images / "widget/test/stray.png", np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(SystemExit) as end:
        cli.run(lambda _: load_script("prepare_data").main(["check", "--dataset", "tiny"]))
    printed = capsys.readouterr()
    assert end.value.code == 2
    assert "weave/test/good/leak.png equals data/tiny/images/weave/train/good/000.png" in printed.out
    assert "widget/train/good/000.png" in printed.out
    assert "widget/test: 1 unused" in printed.out
    assert "error: tiny has 2 fatal findings" in printed.err
    assert "Traceback" not in printed.err


def test_check_goes_on_past_a_class_without_images(tiny, run_script, capsys):
    (tiny / "experiments/tiny/dataset.yaml").write_text("image_root: data/tiny/images\nclasses: [weave, nothing]\n")
    with pytest.raises(UserError, match="1 fatal"):
        run_script("prepare_data", "check", "--dataset", "tiny")
    assert "there is no class 'nothing'" in capsys.readouterr().out


def test_published_archives_are_laid_out_and_indexed(workspace, run_script):
    for kind, count in (("Free", 5), ("Crack", 1)):
        photographs(workspace / f"MTD/MT_{kind}/Imgs", count)
    write_image(workspace / "MTD/MT_Crack/Imgs/IMG 0.png", np.ones((24, 24), bool))
    assert "7 files go to data/MTD/mtd" in run_script("prepare_data", "mtd", "--source", "MTD", "--dry-run")
    assert not (workspace / "data").exists()
    assert "index      data/MTD/samples" in run_script("prepare_data", "mtd", "--source", "MTD")
    found = open_dataset("MTD").index("tile")
    assert (len(found.train), [entry.kind for entry in found.test]) == (4, ["crack", "good"])

    photographs(workspace / "VisA/pcb1/Data/Images/Normal", 1)
    (workspace / "VisA/split_csv").mkdir()
    line = "object,split,label,image,mask\npcb1,train,normal,pcb1/Data/Images/Normal/IMG 0.jpg,\n"
    (workspace / "VisA/split_csv/1cls.csv").write_text(line)
    run_script("prepare_data", "visa", "--source", "VisA")
    assert [entry.filename for entry in open_dataset("VisA").index("pcb1").train] == ["pcb1/train/ok/IMG 0.jpg"]


def test_toy_images_are_drawn_once(workspace, run_script, monkeypatch):
    drawn = []
    monkeypatch.setattr("realnet.preparation.preparation.make_toy_dataset", drawn.append)
    assert "would draw data/toy/images" in run_script("prepare_data", "toy", "--dry-run")
    run_script("prepare_data", "toy")
    assert [str(root) for root in drawn] == ["data/toy/images"]
    for name, (_, damages) in CLASSES.items():
        counts = {"train/good": 60, "test/good": 12}
        counts |= {f"{part}/{kind}": 8 for kind in damages for part in ("test", "ground_truth")}
        for folder, count in counts.items():
            (workspace / f"data/toy/images/{name}/{folder}").mkdir(parents=True)
            for number in range(count):
                (workspace / f"data/toy/images/{name}/{folder}/{number}.png").touch()
    assert "complete" in run_script("prepare_data", "toy")
    (workspace / "data/toy/images/weave/ground_truth/hole/3.png").unlink()
    run_script("prepare_data", "toy")
    run_script("prepare_data", "toy", "--force")
    assert len(drawn) == 3


def test_solar_cells_come_from_the_package_or_a_folder(tmp_path, monkeypatch, run_script):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "experiments/solar", "experiments/solar", ignore=shutil.ignore_patterns("*_*"))
    package = tmp_path / "site/elpv_dataset"
    lines = []
    for kind in ("mono", "poly"):
        for index in range(12):
            name = f"images/{kind}{index:03d}.png"
            write_image(package / "data" / name, np.full((8, 8, 3), 10 * index, np.uint8))
            lines.append(f"{name} {'1.0' if index % 4 == 0 else '0.0'} {kind}")
    (package / "data/labels.csv").write_text("\n".join(lines))
    message = r"elpv-dataset is not installed; install it with: pip install elpv-dataset"
    with monkeypatch.context() as without, pytest.raises(UserError, match=message):
        without.setattr("importlib.util.find_spec", lambda name: None)
        run_script("prepare_data", "solar")
    (package / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    printed = run_script("prepare_data", "solar")
    assert "CC BY-NC-SA 4.0, not for commercial use" in printed and "24 files go to data/solar/images" in printed
    assert len(list(Path("data/solar/images/mono/test/defect").iterdir())) == 3
