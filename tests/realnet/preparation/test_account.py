"""Folders as people have them: nothing but good training images is trained on, or the folder is refused."""

import re
import unicodedata
from collections import Counter
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import pytest
from hand_made import BAD, CLASSIC, FLAT, FOLDERS, GOOD, REFUSED, draw

from realnet.commands.cli import choose_classes
from realnet.data.folders import files_below
from realnet.data.index import read_index
from realnet.data.layout_file import read_layout
from realnet.data.registry import open_dataset
from realnet.errors import UserError
from realnet.inspection import findings as kinds
from realnet.inspection.check import inspect_class
from realnet.preparation.preparation import add_dataset
from realnet.runtime.lock import locked


def make(root, lines):
    for line in lines:
        draw(root, *line)


def truth_of(root, lines):
    return {
        PurePosixPath(root.name, folder, (pattern[0] if pattern else "{}.png").format(name)).as_posix(): what
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
    assert {name for name, what in truth.items() if what in {"held", "bad"}} <= tested
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


@pytest.mark.parametrize(("lines", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_told_is_refused_and_nothing_written(photos, lines, reason):
    make(photos, lines)
    for dry_run in (False, True):
        with pytest.raises(UserError, match="--layout FILE") as refusal:
            add_dataset("mine", photos, dry_run=dry_run)
        assert re.search(reason, str(refusal.value), re.DOTALL)
    assert [path.name for path in photos.parent.iterdir()] == ["photos"]


def test_a_layout_file_settles_flat_halves_and_names_label_files_that_are_not_read(photos):
    make(photos, FLAT)
    (photos / "annotations").mkdir()
    (photos / "annotations/instances.json").write_text("{}")
    with pytest.raises(UserError, match=r"\.json files are not read: a mask is an image"):
        add_dataset("mine", photos)
    layout = photos.parent / "layout.yaml"
    layout.write_text('"test/01*": test good\n"test/*": test bent\n')
    add_dataset("mine", photos, layout=str(layout))
    index = open_dataset("mine").index("photos")
    assert (len(index.train), [entry.kind for entry in index.test]) == (10, ["good"] * 3 + ["bent"] * 5)


def test_defects_to_train_on_are_in_no_split_and_need_masks(photos, capsys):
    make(photos, [*CLASSIC, ("mask", "ground_truth/bent", BAD[:4])])
    layout, samples = photos.parent / "layout.yaml", photos.parent / "data/mine/samples"
    layout.write_text('"test/<kind>/*0.png": train <kind>\n"test/<kind>/*1.png": train <kind>\n')
    add_dataset("mine", photos, layout=str(layout))
    index = read_index(samples, "photos")
    assert [(entry.filename, entry.kind, entry.maskname) for entry in index.real] == [
        (f"photos/test/bent/{name}.png", "bent", f"photos/ground_truth/bent/{name}.png") for name in BAD[:2]
    ]
    tested = [entry for entry in index.test if entry.label]
    assert len(tested) == 3 and len(index.train) == 10 + 2  # good images that the same lines name are trained on
    assert "2 train bent: photos/test/bent/020.png" in capsys.readouterr().out
    open_dataset("mine").reindex(["photos"])
    assert read_index(samples, "photos") == index
    layout.write_text('"test/bent/024.png": train bent\n')
    with pytest.raises(UserError, match=r"on without a mask: 1\n  photos/test/bent/024\.png \(train bent\)"):
        add_dataset("mine", photos, layout=str(layout), force=True)
    add_dataset("mine", photos, force=True)
    assert not read_index(samples, "photos").real and not (samples / "real_photos.json").exists()


def test_links_are_followed_and_those_that_lead_nowhere_count(photos):
    make(photos, CLASSIC)
    draw(photos.parent / "elsewhere", "mask", "bent", BAD)
    (photos / "masks").symlink_to(photos.parent / "elsewhere")
    (photos / "val").mkdir()
    (photos / "val/good").symlink_to(photos / "train/good")
    (photos / "test/bent/lost.png").symlink_to(photos / "nowhere.png")
    add_dataset("mine", photos)
    found = inspect_class(open_dataset("mine"), "photos")
    index = open_dataset("mine").index("photos")
    assert len(index.test) == 3 + 5 + 1 + 10 and sum(entry.maskname is not None for entry in index.test) == 5
    assert Counter(one.kind for one in found if one.kind.is_fatal) == {kinds.MISSING: 1, kinds.LEAK: 10}
    (photos / "test/good/again").symlink_to(photos)
    assert len(files_below(photos)) == 10 + 3 + 5 + 5 + 1 + 10


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


def test_a_glob_that_fits_no_file_is_named(photos):
    make(photos, CLASSIC)
    layout = photos.parent / "layout.yaml"
    layout.write_text('"train/*": train\n"TEST/**": test bent\n"photos/train/**": train\ngroup: "<group>_cam?.png"\n')
    with pytest.raises(
        UserError, match=r"photos fits 'train/\*', 'photos/train/\*\*', '<group>_cam\?\.png' of the layout"
    ):
        add_dataset("mine", photos, layout=str(layout))


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
    with pytest.raises(UserError, match=r"absent\.yaml: No such file.*layout is auto, class"):
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


@pytest.mark.parametrize("last", ["account.csv", "train_photos.json", "dataset.yaml"])
def test_what_a_full_disk_cut_off_can_be_done_again(photos, monkeypatch, last):
    make(photos, CLASSIC)
    whole = Path.replace

    def refuse(path, target):
        if Path(target).name == last:
            raise OSError(28, "No space left on device")
        return whole(path, target)

    with monkeypatch.context() as full, pytest.raises(UserError, match=f"{last}: No space left"):
        full.setattr(Path, "replace", refuse)
        add_dataset("mine", photos)
    assert not (photos.parent / "experiments/mine/dataset.yaml").exists()
    add_dataset("mine", photos)


def test_two_commands_do_not_add_the_same_dataset_at_once(photos):
    make(photos, CLASSIC)
    with locked(photos.parent / "experiments/mine"), pytest.raises(UserError, match="mine belongs to another run"):
        add_dataset("mine", photos)
    add_dataset("mine", photos)


def test_names_of_several_lines_are_known_to_a_layout_file(photos):
    draw(photos, "good", "a", GOOD, "x\n{}.png")
    draw(photos, "bad", "b/c", BAD, "x\n{}.png")
    layout = photos.parent / "layout.yaml"
    layout.write_text('"a/**": train\n"**": test bent\n')
    add_dataset("mine", photos, layout=str(layout))
    index = open_dataset("mine").index("photos")
    assert (len(index.train), len(index.test)) == (10, 5)


def test_masks_in_jpeg_are_known_by_their_pixels(photos):
    make(photos, CLASSIC)
    (photos / "zxq").mkdir()
    for name in BAD:
        mask = np.zeros((64, 64), np.uint8)
        mask[20:40, 10:50] = 255
        cv2.imwrite(str(photos / f"zxq/{name}.jpg"), mask)
    add_dataset("mine", photos)
    assert all(entry.maskname for entry in open_dataset("mine").index("photos").test if entry.label)
