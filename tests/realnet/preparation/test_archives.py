from itertools import product

import numpy as np
import pytest

from realnet.data.images import read_image, read_mask, write_image
from realnet.data.index import build_index
from realnet.errors import UserError
from realnet.preparation.archives import copy_files, plan_mtd, plan_solar, plan_visa

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 10, 3)).astype(np.uint8)
IDS = np.zeros((8, 10), np.uint8)
IDS[2:4, 3:6] = 3


@pytest.fixture
def visa(tmp_path):
    source = tmp_path / "VisA"
    rows = ["object,split,label,image,mask"]
    for number in range(3):
        split = "test" if number == 2 else "train"
        rows.append(f"candle,{split},normal,candle/Data/Images/Normal/{number:04d}.JPG,")
    rows.append("candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png")
    for name in ("Normal/0000", "Normal/0001", "Normal/0002", "Anomaly/000"):
        write_image(source / f"candle/Data/Images/{name}.JPG", PIXELS)
    write_image(source / "candle/Data/Masks/Anomaly/000.png", np.repeat(IDS[..., None], 3, axis=2))
    (source / "split_csv").mkdir()
    (source / "split_csv/1cls.csv").write_text("\n".join(rows) + "\n")
    return source


def test_visa_gets_the_layout_of_its_protocols(visa, tmp_path):
    target = tmp_path / "visa"
    copy_files(plan_visa(visa, target), description="VisA")
    found = build_index(target, "candle")
    assert [entry.filename for entry in found.train] == ["candle/train/ok/0000.JPG", "candle/train/ok/0001.JPG"]
    assert [(e.filename, e.maskname) for e in found.test] == [
        ("candle/test/ko/000.JPG", "candle/ground_truth/ko/000.png"),
        ("candle/test/ok/0002.JPG", None),
    ]
    image = target / "candle/train/ok/0000.JPG"
    assert image.samefile(visa / "candle/Data/Images/Normal/0000.JPG")
    mask = read_image(target / "candle/ground_truth/ko/000.png")
    assert sorted(np.unique(mask)) == [0, 255]
    assert np.array_equal(mask[..., 0] > 0, IDS > 0)


def test_placing_again_changes_nothing_and_mends_what_was_cut_off(visa, tmp_path):
    target = tmp_path / "visa"
    copy_files(plan_visa(visa, target), description="VisA")
    image = target / "candle/train/ok/0000.JPG"
    before = image.stat()
    copy_files(plan_visa(visa, target), description="VisA")
    assert image.stat() == before
    image.unlink()
    image.write_bytes(b"cut off")
    copy_files(plan_visa(visa, target), description="VisA")
    assert read_image(image).shape == (8, 10, 3)


def test_files_are_copied_where_links_are_not_to_be_had(visa, tmp_path, monkeypatch):
    def refuse(self, target):
        raise OSError("no links here")

    monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)
    copy_files(plan_visa(visa, tmp_path / "visa"), description="VisA")
    image, original = tmp_path / "visa/candle/train/ok/0000.JPG", visa / "candle/Data/Images/Normal/0000.JPG"
    assert not image.samefile(original)
    assert image.read_bytes() == original.read_bytes()


@pytest.mark.parametrize(
    ("name", "value"),
    [("candle,test,anomaly", "../candle,test,anomaly"), (",test,anomaly", ",../../test,anomaly")]
    + [(f"candle/Data/{kind}/Anomaly", "../VisA") for kind in ("Images", "Masks")],
)
def test_a_split_file_names_nothing_outside(visa, tmp_path, name, value):
    table = visa / "split_csv/1cls.csv"
    table.write_text(table.read_text().replace(name, value))
    with pytest.raises(UserError, match=r"1cls\.csv names '.*\.\..*', outside the archive"):
        plan_visa(visa, tmp_path / "visa")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("Normal/0001.JPG", "Normal/0000.JPG", r"1 files would be written twice \(.*0000\.JPG\)"),
        ("candle,train", "candle,training", "1cls.csv has the split 'training'; expected train or test"),
    ],
)
def test_a_split_file_leaves_no_image_out(visa, tmp_path, name, value, message):
    table = visa / "split_csv/1cls.csv"
    table.write_text(table.read_text().replace(name, value, 1))
    with pytest.raises(UserError, match=message):
        plan_visa(visa, tmp_path / "visa")


def test_incomplete_archives_are_refused_by_name(visa, tmp_path):
    (visa / "candle/Data/Images/Normal/0001.JPG").unlink()
    with pytest.raises(UserError, match=r"1 files of the archive do not exist .*Normal/0001\.JPG"):
        plan_visa(visa, tmp_path / "visa")
    (visa / "split_csv/1cls.csv").write_text("object,split\ncandle,train\n")
    with pytest.raises(UserError, match="expected the columns object, split, label, image, mask"):
        plan_visa(visa, tmp_path / "visa")
    with pytest.raises(UserError, match=r"1cls\.csv does not exist; --source must be"):
        plan_visa(tmp_path, tmp_path / "visa")
    assert not (tmp_path / "visa").exists()


@pytest.fixture
def tiles(tmp_path):
    source = tmp_path / "MTD"
    for kind, count in (("Free", 10), ("Crack", 2), ("Blowhole", 1)):
        for number in range(count):
            write_image(source / f"MT_{kind}/Imgs/exp{number}.jpg", PIXELS)
            write_image(source / f"MT_{kind}/Imgs/exp{number}.png", IDS > 0 if kind != "Free" else IDS > 9)
    (source / "MT_Crack/Imgs/exp1.png").unlink()
    return source


def test_magnetic_tiles_are_split_by_name(tiles, tmp_path):
    copy_files(plan_mtd(tiles, tmp_path / "mtd/tile"), description="MTD")
    found = build_index(tmp_path / "mtd", "tile")
    assert len(found.train) == 8
    assert [(entry.kind, entry.maskname) for entry in found.test if entry.label] == [
        ("blowhole", "tile/ground_truth/blowhole/exp0.png"),
        ("crack", "tile/ground_truth/crack/exp0.png"),
        ("crack", None),
    ]
    assert sum(entry.label == 0 for entry in found.test) == 2
    assert np.array_equal(read_mask(tmp_path / "mtd/tile/ground_truth/crack/exp0.png"), IDS > 0)


def test_magnetic_tiles_follow_a_list(tiles, tmp_path):
    names = tmp_path / "train.txt"
    names.write_text("\ufeffexp3.jpg\nMT_Free/Imgs/exp5.jpg\n\nexp7\n", encoding="utf-8")  # as Windows' editors do
    copy_files(plan_mtd(tiles, tmp_path / "mtd/tile", train_list=names), description="MTD")
    found = build_index(tmp_path / "mtd", "tile")
    assert [entry.filename for entry in found.train] == [f"tile/train/good/exp{n}.jpg" for n in (3, 5, 7)]
    assert sum(entry.label == 0 for entry in found.test) == 7
    with pytest.raises(UserError, match=r"holds 7 other files .*; remove them first"):
        plan_mtd(tiles, tmp_path / "mtd/tile")  # another split beside this one would mix train and test


def test_lists_that_do_not_fit_are_refused(tiles, tmp_path):
    names = tmp_path / "train.txt"
    names.write_text("exp3.jpg\nexp99.jpg\n")
    with pytest.raises(UserError, match=r"1 of its 2 images are not in MT_Free/Imgs \(exp99\)"):
        plan_mtd(tiles, tmp_path / "mtd", train_list=names)
    with pytest.raises(UserError, match="cannot read --train-list"):
        plan_mtd(tiles, tmp_path / "mtd", train_list=tmp_path / "absent.txt")
    with pytest.raises(UserError, match="MT_Free/Imgs holds no"):
        plan_mtd(tmp_path, tmp_path / "mtd")


@pytest.fixture
def cells(tmp_path):
    """A dozen cells of each kind and probability, with their labels as the package has them."""
    lines = []
    for number, (kind, probability) in enumerate(product(("mono", "poly"), ("0.0", "0.3333333333333333", "1.0"))):
        for index in range(12):
            name = f"images/cell{number}{index:03d}.png"
            write_image(tmp_path / "elpv" / name, np.full((4, 4, 3), 12 * number + index, np.uint8))
            lines.append(f"{name}  {probability}                 {kind}")
    (tmp_path / "elpv/labels.csv").write_text("\n".join(lines))
    return tmp_path / "elpv"


def test_solar_cells_are_sorted_by_kind_and_probability(cells, tmp_path):
    target = tmp_path / "solar"
    copy_files(plan_solar(cells, target), description="solar")
    for kind in ("mono", "poly"):
        index = build_index(target, kind)
        good = [entry for entry in index.test if not entry.label]
        assert len(index.train) + len(good) == 12 and 4 <= len(index.train) <= 10
        assert {entry.kind for entry in index.test if entry.label} == {"defect"}
        assert sum(entry.label for entry in index.test) == 12
    assert plan_solar(cells, target) == plan_solar(cells, target)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("images/../../cell.png 0.0 mono", "line 1: .* is not: images/<file> <probability> mono|poly"),
        ("images/cell.png 0.0 round", "line 1"),
        ("images/absent.png 0.0 mono", r"1 files of the archive do not exist \(\S+absent\.png\)"),
        ("images/cell0000.png 0.5 mono", "lists no good and no defective cell"),
    ],
)
def test_odd_labels_of_solar_cells_are_refused(cells, tmp_path, line, reason):
    (cells / "labels.csv").write_text(line)
    with pytest.raises(UserError, match=reason):
        plan_solar(cells, tmp_path / "solar")


def test_solar_cells_without_labels_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"labels\.csv does not exist"):
        plan_solar(tmp_path, tmp_path / "solar")
