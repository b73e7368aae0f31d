"""Folders as people have them: nothing but good training images is trained on, or the folder is refused."""

import unicodedata

import cv2
import numpy as np
import pytest

from realnet.commands.cli import choose_classes
from realnet.data.index import read_index
from realnet.data.layout_file import read_layout
from realnet.data.registry import open_dataset
from realnet.errors import UserError
from realnet.preparation.preparation import add_dataset

GOOD = [f"{number:03d}" for number in range(10)]
BAD = [f"{number:03d}" for number in range(20, 25)]


def draw(root, what, folder, names, pattern="{}.png"):
    for number, name in enumerate(names):
        rng = np.random.default_rng([number, *folder.encode(), *what.encode()])
        pixels = rng.integers(20, 230, (16, 16, 3)).astype(np.uint8)
        if what in {"mask", "black"}:
            pixels[:] = 0
        if what == "mask":
            pixels[4 : 8 + number % 4, 5:9] = 255
        path = root / folder / pattern.format(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        coded = ".jpg" if path.suffix.lower() == ".jpg" else ".png"
        path.write_bytes(cv2.imencode(coded, pixels)[1].tobytes())


# each line: (what is drawn, folder, names, pattern); only what is called "good" may be trained on
CLASSIC = [("good", "train/good", GOOD), ("held", "test/good", GOOD[:3]), ("bad", "test/bent", BAD)]
FOLDERS = {
    "mvtec": [*CLASSIC, ("mask", "ground_truth/bent", BAD, "{}_mask.png")],
    "upper case": [
        ("good", "Train/Good", GOOD),
        ("held", "Test/Good", GOOD[:3]),
        ("bad", "Test/Bent", BAD),
        ("mask", "Ground_Truth/Bent", BAD, "{}_MASK.PNG"),
    ],
    "training, testing, val": [
        ("good", "training/good", GOOD),
        ("held", "val/good", GOOD[:3]),
        ("bad", "testing/bent", BAD),
        ("mask", "GroundTruth/bent", BAD),
    ],
    "masks beside the images": [*CLASSIC, ("mask", "test/bent", BAD, "{}_mask.png")],
    "black masks beside the good images": [
        *CLASSIC,
        ("mask", "test/bent", BAD, "{}_gt.png"),
        ("black", "train/good", GOOD, "{}_gt.png"),
    ],
    "masks inside the kind": [*CLASSIC, ("mask", "test/bent/masks", BAD)],
    "MASK beside train": [*CLASSIC, ("mask", "MASK/bent", BAD), ("black", "MASK/good", GOOD)],
    "gt": [*CLASSIC, ("mask", "gt/bent", BAD)],
    "flat ground truth": [*CLASSIC, ("mask", "ground_truth", BAD)],
    "masks in a folder of no known name": [*CLASSIC, ("mask", "zxq", BAD)],
    "masks of no known name among the good": [
        ("good", "good", GOOD),
        ("bad", "NG", BAD),
        ("mask", "zxq", BAD),
    ],
    "black masks for normal images": [
        *CLASSIC,
        ("mask", "ground_truth/bent", BAD),
        ("black", "ground_truth/good", GOOD),
    ],
    "train_good, test_good": [
        ("good", "train_good", GOOD),
        ("held", "test_good", GOOD[:3]),
        ("bad", "test/bent", BAD),
        ("mask", "test_masks/bent", BAD),
    ],
    "one level deeper": [
        ("good", "train/good/lot1", GOOD[:5]),
        ("good", "train/good/lot2", GOOD[5:]),
        ("bad", "test/bent/lot1", BAD),
        ("mask", "ground_truth/bent/lot1", BAD, "{}_mask.png"),
    ],
    "OK and NG": [("good", "OK", GOOD), ("bad", "NG", BAD), ("mask", "masks/NG", BAD)],
    "pass and fail": [("good", "pass", GOOD), ("bad", "fail", BAD), ("mask", "fail_mask", BAD)],
    "normal and abnormal": [("good", "normal", GOOD), ("bad", "abnormal", BAD), ("mask", "label", BAD)],
    "German": [("good", "Gutteile", GOOD), ("bad", "Kratzer", BAD), ("mask", "Masken/Kratzer", BAD)],
    "French": [
        ("good", "bon", GOOD),
        ("bad", unicodedata.normalize("NFD", "défaut"), BAD),
        ("mask", "masque/défaut", BAD),
    ],
    "Chinese": [("good", "良品", GOOD), ("bad", "划痕", BAD), ("mask", "掩码/划痕", BAD)],
    "Korean": [
        ("good", unicodedata.normalize("NFD", "양품"), GOOD),
        ("bad", "불량", BAD),
        ("mask", "마스크/불량", BAD),
    ],
    "Russian": [("good", "хорошие", GOOD), ("bad", "брак", BAD), ("mask", "маски/брак", BAD)],
    "VisA as published": [
        ("good", "Data/Images/Normal", GOOD, "{}.JPG"),
        ("bad", "Data/Images/Anomaly", BAD, "{}.JPG"),
        ("mask", "Data/Masks/Anomaly", BAD),
    ],
    "masks as PNG beside JPEGs": [
        ("good", "good", GOOD, "{}.jpg"),
        ("bad", "crack", BAD, "{}.jpg"),
        ("mask", "crack", BAD),
    ],
    "flat with masks": [("good", "images", GOOD), ("bad", "images", BAD), ("mask", "masks", BAD)],
    "defects among the training images": [*CLASSIC, ("bad", "train/bad", BAD), ("mask", "ground_truth/bent", BAD)],
    "endings that say nothing": [
        ("good", "train/good", GOOD, "{}.jpe"),
        ("bad", "test/bent", BAD, "{}"),
        ("mask", "ground_truth/bent", BAD),
    ],
    "heatmaps among the images": [("good", "good", GOOD), ("bad", "bent", BAD), ("held", "good/overlays", GOOD)],
    "overlays beside the images": [*CLASSIC, ("unused", "test/bent", BAD, "{}_overlay.png")],
    "images kept twice or not sorted": [
        *CLASSIC,
        ("unused", "backup/train/good", BAD),
        ("unused", "test/unlabelled", BAD),
        ("unused", "train/good - Copy", BAD),
    ],
    "Hindi": [("good", "अच्छा", GOOD), ("bad", "खराब", BAD)],
}


def make(root, lines):
    for line in lines:
        draw(root, *line)


def truth_of(root, lines):
    return {
        f"{root.name}/{folder}/{(pattern[0] if pattern else '{}.png').format(name)}": what
        for what, folder, names, *pattern in lines
        for name in names
    }


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


@pytest.mark.parametrize("lines", FOLDERS.values(), ids=FOLDERS)
def test_masks_and_test_images_are_never_trained_on(photos, lines, capsys):
    make(photos, lines)
    truth = truth_of(photos, lines)
    add_dataset("mine", photos.relative_to(photos.parent))
    index = open_dataset("mine").index("photos")
    trained, tested = ({entry.filename for entry in half} for half in (index.train, index.test))
    assert trained and {truth[name] for name in trained} == {"good"}
    assert {truth[name] for name in tested} <= {"good", "held", "bad"}
    bad = [entry for entry in index.test if entry.label]
    assert {truth[entry.filename] for entry in bad} == {"bad"} and len(bad) == len(BAD)
    has_masks = "mask" in truth.values()
    for entry in bad:
        assert (entry.maskname is not None) == has_masks
        assert not has_masks or truth[entry.maskname] == "mask"
    listed = (photos.parent / "data/mine/account.csv").read_text().splitlines()
    assert len(listed) == 1 + len(truth)
    assert not photos.parent.joinpath("data/mine/samples").joinpath("absent").exists()
    assert sum(name in line for name in truth for line in listed[1:] if line.startswith(name)) == len(truth)
    open_dataset("mine").reindex(["photos"])
    assert read_index(photos.parent / "data/mine/samples", "photos") == index


REFUSED = {
    "masks among the good images": ([*CLASSIC, ("mask", "train/good", BAD, "m{}.png")], "look like masks"),
    "black masks among the good": ([*CLASSIC, ("black", "train/good", BAD, "x{}.png")], "look like masks"),
    "a kind without images": ([*CLASSIC, ("mask", "ground_truth/cut", BAD)], "masks whose image is unknown"),
    "good images with a defect's mask": ([*CLASSIC, ("mask", "gt/good", GOOD)], "good images whose mask shows"),
    "defects by name in a flat folder": ([("good", "", GOOD), ("bad", "", BAD, "ng_{}.png")], "names leave open"),
    "kinds beside each other in train": (
        [("bad", "train/zxq", BAD), ("good", "train/zxw", GOOD), ("bad", "test/zxq", BAD)],
        "names leave open",
    ),
    "kinds as classes": ([("good", "part", GOOD), ("bad", "crack", BAD)], "classes named for defects"),
    "numbers that may be classes or good and bad": (
        [("good", "0", GOOD), ("bad", "1", BAD)],
        "may be classes, or good and bad products: 2\n  0\n  1\n",
    ),
    "words that may mean good or bad": (
        [("good", "negative", GOOD), ("bad", "positive", BAD)],
        "may be classes, or good and bad products",
    ),
    "numbers in training and in test": (
        [(what, f"{half}/{n}", GOOD) for half in ("train", "test") for n, what in enumerate(("good", "bad"))],
        r"photos/test/0/000\.png \(unclear: its folder 0 does not say whether it is good\)",
    ),
    "a mask that fits several images of a flat folder": (
        [("good", "0", GOOD), ("bad", "1", BAD), ("bad", "0", BAD), ("mask", "masks", BAD)],
        "several for one image",
    ),
    "several masks of one image": (
        [*CLASSIC, ("mask", "gt/bent", BAD, "{}_mask1.png"), ("mask", "gt/bent", BAD, "{}_mask2.png")],
        "several for one image",
    ),
}


@pytest.mark.parametrize(("lines", "reason"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("dry_run", [False, True])
def test_what_cannot_be_told_is_refused_and_nothing_written(photos, lines, reason, dry_run):
    make(photos, lines)
    with pytest.raises(UserError, match=f"(?s){reason}.*--layout FILE"):
        add_dataset("mine", photos, dry_run=dry_run)
    assert [path.name for path in photos.parent.iterdir()] == ["photos"]


def test_a_test_kind_without_images_is_refused(photos):
    make(photos, CLASSIC)
    (photos / "test/cut").mkdir()
    with pytest.raises(UserError, match=r"folders of test images that hold none: 1\n  photos/test/cut"):
        add_dataset("mine", photos)


def test_a_folder_of_anything_beside_classes_is_no_class_until_it_is_said(photos):
    make(photos, [(what, f"{name}/{folder}", *rest) for name in "ab" for what, folder, *rest in CLASSIC])
    make(photos, [("bad", "misc", BAD)])
    with pytest.raises(UserError, match=r"no training folder as the others have: 1\n  misc\n"):
        add_dataset("mine", photos)
    layout = photos.parent / "layout.yaml"
    layout.write_text("misc/**: unused")
    add_dataset("mine", photos, layout=str(layout))
    assert open_dataset("mine").classes == ("a", "b")
    layout.write_text("misc/**: train")
    add_dataset("mine", photos, layout=str(layout), force=True)
    assert open_dataset("mine").classes == ("a", "b", "misc")


def test_a_layout_file_settles_what_names_leave_open(photos, capsys):
    make(photos, [("good", "a", GOOD), ("bad", "b/hairline", BAD), ("mask", "b/zz", BAD, "{}_x.png")])
    (photos / "b/notes.txt").touch()
    layout = photos.parent / "layout.yaml"
    layout.write_text('﻿"a/*": normal\n"b/zz/*": mask\n"b/<kind>/*": test <kind>\n', encoding="utf-8")
    with pytest.raises(UserError, match="masks whose image is unknown"):
        add_dataset("mine", photos, layout=str(layout))
    for path in (photos / "b/zz").iterdir():
        path.rename(path.with_name(path.name.replace("_x", "")))
    add_dataset("mine", photos, layout=str(layout))
    printed = capsys.readouterr().out
    assert (
        "5 test hairline: photos/b/hairline/020.png, photos/b/hairline/021.png, photos/b/hairline/022.png, …" in printed
    )
    assert "5 mask: photos/b/zz/020.png of photos/b/hairline/020.png" in printed and "no images: 1 .txt" in printed
    index = open_dataset("mine").index("photos")
    assert (len(index.train), len(index.test)) == (8, 2 + 5)
    assert {entry.kind for entry in index.test} == {"good", "hairline"}
    assert open_dataset("mine").reindex(["photos"])["photos"] == index


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "must hold lines"),
        ("a: tain\n", "'a': 'tain' is not a glob and its role; roles: train, normal"),
        ("a: test <kind>\n", "is not a glob and its role"),
        ("group: x\n", "mark the name of the part"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_a_wrong_layout_file_is_named(tmp_path, text, message):
    path = tmp_path / "layout.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_layout(path)
    with pytest.raises(UserError, match=r"layout .*absent\.yaml: No such file.*auto, class"):
        read_layout(tmp_path / "absent.yaml")


def test_views_of_one_part_stay_on_one_side(photos, capsys):
    names = [f"p{number:02d}_cam{view}" for number in range(10) for view in (1, 2, 3)]
    make(photos, [("good", "good", names), ("bad", "NG", BAD)])
    add_dataset("mine", photos)
    assert (
        "10 parts with several images each stay together, such as photos/good/p00_cam1.png" in capsys.readouterr().out
    )
    index = open_dataset("mine").index("photos")
    parts = [{entry.filename[:-9] for entry in half if not entry.label} for half in (index.train, index.test)]
    assert not parts[0] & parts[1] and len(index.train) == 24


def test_a_class_is_known_by_both_spellings_of_its_name():
    composed, decomposed = (unicodedata.normalize(form, "Dübel") for form in ("NFC", "NFD"))
    assert choose_classes([composed, decomposed], ["Nut", decomposed], "mine") == [decomposed]


def test_what_a_full_disk_cut_off_can_be_done_again(photos, monkeypatch):
    make(photos, CLASSIC)

    def refuse(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full, pytest.raises(UserError, match="No space left"):
        full.setattr("pathlib.Path.replace", refuse)
        add_dataset("mine", photos)
    assert not (photos.parent / "experiments/mine/dataset.yaml").exists()
    add_dataset("mine", photos)


def test_masks_in_jpeg_are_known_by_their_pixels(photos):
    make(photos, CLASSIC)
    (photos / "zxq").mkdir()
    for name in BAD:
        mask = np.zeros((64, 64), np.uint8)
        mask[20:40, 10:50] = 255
        cv2.imwrite(str(photos / f"zxq/{name}.jpg"), mask)
    add_dataset("mine", photos)
    assert all(entry.maskname for entry in open_dataset("mine").index("photos").test if entry.label)
