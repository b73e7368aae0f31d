import json

import pytest

from realnet.data import groups, index
from realnet.data.folders import natural_key
from realnet.data.index import ClassIndex, Entry
from realnet.errors import UserError
from tests import golden

PROTOCOLS = golden.folder().parent / "protocols"


def touch(root, *names):
    for folder in {(root / name).parent for name in names}:
        folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / name).touch()


def published():
    found = sorted(path for path in PROTOCOLS.glob("*") if path.is_dir())
    skipped = pytest.param(None, marks=pytest.mark.skip(reason=f"no protocols under {PROTOCOLS}"))
    return [pytest.param(path, id=path.name) for path in found] or [skipped]


@pytest.mark.parametrize("protocols", published())
def test_published_datasets_are_indexed_as_their_protocols(tmp_path, protocols):
    classes = {path.stem.removeprefix("train_") for path in protocols.glob("train_*.json")}
    wanted = {name: index.read_index(protocols, name) for name in classes}
    for splits in wanted.values():
        entries = splits.train + splits.test
        touch(tmp_path, *(name for entry in entries for name in (entry.filename, entry.maskname) if name))
    assert set(index.discover_classes(tmp_path)) == classes
    for name, splits in wanted.items():
        found = index.build_index(tmp_path, name)
        assert sorted(map(repr, found.train)) == sorted(map(repr, splits.train))
        assert sorted(map(repr, found.test)) == sorted(map(repr, splits.test))


def test_layout_of_mvtec(tmp_path):
    touch(tmp_path, *(f"nut/train/good/{name}.png" for name in ("10", "2", "1")), "nut/train/good/notes.txt")
    touch(tmp_path, "nut/test/good/000.png", "nut/test/bent/000.png", "nut/test/bent/001.png", "nut/test/bent/.hid.png")
    touch(tmp_path, "nut/ground_truth/bent/000_mask.png", "nut/ground_truth/bent/.001_mask.png")
    found = index.build_index(tmp_path, "nut")
    assert [entry.filename for entry in found.train] == [f"nut/train/good/{name}.png" for name in ("1", "2", "10")]
    bent = Entry("nut/test/bent/000.png", 1, "defective", "nut", "nut/ground_truth/bent/000_mask.png")
    assert found.test[0] == bent
    assert found.test[1].maskname is None
    assert found.test[2] == Entry("nut/test/good/000.png", 0, "good", "nut")
    assert [entry.kind for entry in found.test] == ["bent", "bent", "good"]


def test_names_with_digits_of_any_kind_are_sorted():
    names = ["10²", "9", "²", "٣", "a10", "a9"]
    assert sorted(names, key=natural_key) == ["٣", "9", "10²", "a9", "a10", "²"]


def test_ok_and_ko_with_masks_of_the_same_name(tmp_path):
    touch(tmp_path, "01/train/ok/0000.bmp", "01/train/ko/0001.bmp", "01/test/ok/0000.bmp", "01/test/ko/0000.bmp")
    touch(tmp_path, "01/ground_truth/ko/0000.png", "01/ground_truth/ok/0000.png")
    found = index.build_index(tmp_path, "01")
    assert [entry.filename for entry in found.train] == ["01/train/ok/0000.bmp"]
    assert {(entry.kind, entry.maskname) for entry in found.test} == {
        ("ko", "01/ground_truth/ko/0000.png"),
        ("good", None),
    }


@pytest.mark.parametrize("folder", ["own", "own/train", "own/train/normal", "own/train/Good"])
def test_folders_of_normal_images_are_enough(tmp_path, folder):
    touch(tmp_path, f"{folder}/a.JPG", f"{folder}/b.tif")
    assert index.discover_classes(tmp_path) == ["own"]
    found = index.build_index(tmp_path, "own")
    assert [entry.filename for entry in found.train] == [f"{folder}/a.JPG", f"{folder}/b.tif"]
    assert found.test == ()


def test_sorted_folders_hold_out_a_fifth_of_the_normal_images(tmp_path):
    good = [f"nut/good/{number}.png" for number in range(10)]
    touch(tmp_path, *good, "nut/bent/a.png", "nut/cut/b.png", "nut/ground_truth/bent/a.png")
    found = index.build_index(tmp_path, "nut")
    test = {entry.filename for entry in found.test if not entry.label}
    assert len(found.train) == 8
    assert test | {entry.filename for entry in found.train} == set(good)
    assert [(entry.kind, entry.maskname) for entry in found.test if entry.label] == [
        ("bent", "nut/ground_truth/bent/a.png"),
        ("cut", None),
    ]
    assert index.discover_classes(tmp_path) == ["nut"]
    assert index.build_index(tmp_path, "nut") == found


def test_sorted_folders_without_defects_are_for_training_alone(tmp_path):
    touch(tmp_path, *(f"nut/ok/{number}.png" for number in range(10)))
    found = index.build_index(tmp_path, "nut")
    assert (len(found.train), found.test) == (10, ())


def test_normal_images_are_split_by_their_names_alone():
    names = [f"{number}.jpg" for number in range(952)]
    train, test = groups.split_normal(names)
    assert (len(train), len(test)) == (761, 191)
    assert train[:5] == ["0.jpg", "1.jpg", "2.jpg", "4.jpg", "5.jpg"]
    backwards = groups.split_normal(reversed(names))
    assert (set(backwards[0]), set(backwards[1])) == (set(train), set(test))
    assert groups.split_normal(["only.jpg"]) == (["only.jpg"], [])


def test_classes_are_folders_with_images_in_natural_order(tmp_path):
    touch(tmp_path, "part10/a.png", "part9/train/good/a.png", "docs/readme.txt", ".cache/a.png")
    assert index.discover_classes(tmp_path) == ["part9", "part10"]


def test_errors_say_what_to_do(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        index.discover_classes(tmp_path / "absent")
    touch(tmp_path, "nut/train/good/a.png", "bolt/train/bad/a.png", "empty/readme.txt")
    with pytest.raises(UserError, match="holds no class"):
        index.discover_classes(tmp_path / "empty")
    with pytest.raises(UserError, match=f"itself a class.*{tmp_path}$"):
        index.discover_classes(tmp_path / "nut")
    with pytest.raises(UserError, match=r"no class 'nit'.*bolt, empty, nut"):
        index.build_index(tmp_path, "nit")
    with pytest.raises(UserError, match=r"no training images.*train/good"):
        index.build_index(tmp_path, "bolt")


def test_an_index_survives_its_file(tmp_path):
    written = ClassIndex(
        train=(Entry("nüt/train/good/1.png", 0, "good", "nüt"),),
        test=(Entry("nüt/test/bent/1.png", 1, "defective", "nüt", "nüt/ground_truth/bent/1.png"),),
    )
    index.write_index(tmp_path, "nüt", written)
    assert index.read_index(tmp_path, "nüt") == written
    assert {path.name for path in tmp_path.iterdir()} == {"train_nüt.json", "test_nüt.json"}
    line = json.loads((tmp_path / "test_nüt.json").read_text())
    assert set(line) == {"filename", "label", "label_name", "clsname", "maskname"}
    for path in tmp_path.iterdir():
        path.write_text("\ufeff" + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert index.read_index(tmp_path, "nüt") == written


def test_a_kind_and_a_part_that_no_folder_names_are_stored(tmp_path):
    written = ClassIndex(
        train=(Entry("nut/a/1.png", 0, "good", "nut", group="a/1"),),
        test=(Entry("nut/b/lot1/1.png", 1, "defective", "nut", named_kind="bent"),),
    )
    index.write_index(tmp_path, "nut", written)
    assert index.read_index(tmp_path, "nut") == written and written.test[0].kind == "bent"


def test_a_missing_index_is_built_and_written_where_told(tmp_path):
    samples, images = tmp_path / "samples", tmp_path / "images"
    touch(images, "nut/train/good/a.png")
    assert len(index.load_index(samples, images, "nut", write=False).train) == 1
    assert not samples.exists()
    built = index.load_index(samples, images, "nut")
    touch(images, "nut/train/good/b.png")
    assert index.load_index(samples, images, "nut") == built


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "line 2: '{' is not an index entry"),
        ('{"label": 0}', "not an index entry"),
        ('["filename"]', "not an index entry"),
        ('{"filename": "a.png", "label": 2}', "label must be 0 .* got 2"),
        ('{"filename": "/a.png", "label": 0}', "inside the image root"),
        ('{"filename": "a.png", "label": 1, "maskname": "../a.png"}', "inside the image root"),
        ('{"filename": "C:\\\\a.png", "label": 0}', "inside the image root"),
        ('{"filename": "a.png", "label": 0, "clsname": "bolt"}', "clsname is 'bolt', but the file is of class 'nut'"),
    ],
)
def test_broken_lines_are_named(tmp_path, line, problem):
    (tmp_path / "train_nut.json").write_text(f'{{"filename": "a.png", "label": 0}}\n{line}\n')
    (tmp_path / "test_nut.json").touch()
    with pytest.raises(UserError, match=problem):
        index.read_index(tmp_path, "nut")


def test_an_index_that_is_no_text_is_named(tmp_path):
    (tmp_path / "train_nut.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(UserError, match=r"cannot read .*train_nut\.json: it is not UTF-8 text; build the index"):
        index.read_index(tmp_path, "nut")


def test_an_absent_index_names_its_command(tmp_path):
    with pytest.raises(UserError, match=r"prepare_data\.py index --dataset metal --class_name nut"):
        index.read_index(tmp_path / "metal" / "samples", "nut")
