import logging
import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image as PILImage

from realnet.anomalies.sources import inspect_sources
from realnet.config import AnomalyConfig, DatasetConfig, paths
from realnet.data import images
from realnet.data.images import read_image, write_image
from realnet.data.index import Entry, write_index
from realnet.data.registry import OpenDataset
from realnet.errors import UserError
from realnet.inspection import findings as kinds
from realnet.inspection import looks
from realnet.inspection.check import FEW_IMAGES, advise, inspect_class, inspect_files, require_sound
from realnet.inspection.findings import report


def noise(seed, shape=(12, 16, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


@pytest.fixture
def nut(tmp_path, monkeypatch):
    """A sound class: its folder. Its dataset is ``dataset``'s."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "images/nut"
    names = ["train/good/0.png", "train/good/1.jpg", "train/good/2.bmp", "test/good/0.png", "test/bent/0.png"]
    for seed, name in enumerate(names):
        write_image(folder / name, noise(seed))
    mask = np.zeros((12, 16), bool)
    mask[3:5, 3:5] = True
    write_image(folder / "ground_truth/bent/0_mask.png", mask)
    return folder


@pytest.fixture
def dataset(nut):
    return OpenDataset("metal", DatasetConfig(image_root=str(nut.parent)), ("nut",))


def found(dataset, *, decode=False, with_test=True):
    return Counter(each.kind for each in inspect_class(dataset, "nut", decode=decode, with_test=with_test))


def places(dataset, kind, **options):
    return [each.where for each in inspect_class(dataset, "nut", **options) if each.kind == kind]


def test_a_sound_class_has_no_findings_and_is_not_decoded(dataset, monkeypatch, caplog):
    assert found(dataset, decode=True) == {}
    monkeypatch.setattr(looks, "read_image", None)
    assert found(dataset) == {}
    require_sound(dataset, ["nut"])
    assert not caplog.messages
    assert not paths.protocols("metal").exists()


def test_all_problems_of_all_kinds_are_in_one_message(dataset, nut):
    for name in ("train/good/0.png", "train/good/1.jpg", "train/good/2.bmp"):
        (nut / name).write_bytes((nut / name).read_bytes()[:-40])
    write_image(nut / "ground_truth/bent/0_mask.png", np.ones((16, 12), bool))
    with pytest.raises(UserError) as refusal:
        require_sound(dataset, ["nut"])
    message = str(refusal.value)
    assert "unreadable or truncated files: 3; replace them" in message
    assert all(name in message for name in ("good/0.png", "good/1.jpg", "good/2.bmp"))
    assert "0_mask.png is 16x12, its image nut/test/bent/0.png is 12x16" in message


def test_damage_in_the_middle_is_found_by_decoding(dataset, nut):
    data = bytearray((nut / "train/good/0.png").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (nut / "train/good/0.png").write_bytes(data)
    assert found(dataset) == {}
    assert places(dataset, kinds.UNREADABLE, decode=True) == [str(nut / "train/good/0.png")]


def test_files_that_the_index_names_must_exist(dataset, nut):
    write_index(paths.protocols("metal"), "nut", dataset.index("nut"))
    (nut / "train/good/0.png").unlink()
    (nut / "ground_truth/bent/0_mask.png").unlink()
    assert places(dataset, kinds.MISSING) == [
        str(nut / "train/good/0.png"),
        str(nut / "ground_truth/bent/0_mask.png"),
    ]
    with pytest.raises(UserError, match=r"python prepare_data\.py index --dataset metal"):
        require_sound(dataset, ["nut"])


def test_masks_without_an_image(dataset, nut):
    write_image(nut / "ground_truth/bent/1_mask.png", np.ones((12, 16), bool))
    write_image(nut / "ground_truth/cut/0.png", np.ones((12, 16), bool))
    write_image(nut / "ground_truth/ko/5.png", np.ones((12, 16), bool))
    write_image(nut / "train/ko/5.bmp", noise(9))  # as in BTAD: nothing uses it, but there is an image
    assert places(dataset, kinds.ORPHAN) == [
        f"{nut / 'ground_truth/bent/1_mask.png'}: a mask without an image of its name",
        f"{nut / 'ground_truth/cut/0.png'}: a mask without an image of its name",
    ]
    assert kinds.ORPHAN not in found(dataset, with_test=False)


def test_leaks_and_copies_are_found_by_content(dataset, nut):
    shutil.copy(nut / "train/good/0.png", nut / "test/good/other.png")
    shutil.copy(nut / "train/good/0.png", nut / "train/good/twin.png")
    assert places(dataset, kinds.LEAK) == [f"{nut / 'test/good/other.png'} equals {nut / 'train/good/0.png'}"]
    assert places(dataset, kinds.DUPLICATE) == [f"{nut / 'train/good/twin.png'} equals {nut / 'train/good/0.png'}"]
    assert kinds.LEAK not in found(dataset, with_test=False)
    with pytest.raises(UserError, match="also in the training set: 1"):
        require_sound(dataset, ["nut"])


def test_leaks_of_another_format_are_found_by_decoding(dataset, nut):
    PILImage.fromarray(read_image(nut / "train/good/1.jpg")).save(nut / "test/good/1.bmp")
    assert found(dataset) == {}
    assert found(dataset, decode=True) == {kinds.LEAK: 1}


def test_what_does_not_stop_training_is_a_warning(dataset, nut, caplog):
    write_index(paths.protocols("metal"), "nut", dataset.index("nut"))
    for number in range(2):
        write_image(nut / f"test/{number}.png", noise(20 + number))
    write_image(nut / "test/.hidden.png", noise(30))
    write_image(nut / "train/good/new.png", noise(40))
    assert places(dataset, kinds.IGNORED) == [
        f"{nut / 'test'}: 2 unused, neither a folder nor a mask says its kind; expected test/good or test/<kind>"
    ]
    assert places(dataset, kinds.OUTDATED) == [str(nut / "train/good/new.png")]
    with caplog.at_level(logging.WARNING):
        require_sound(dataset, ["nut"])
    assert len(caplog.messages) == 1
    assert caplog.messages[0].count("warning: ") == 2


def test_masks_that_are_missing_or_empty(dataset, nut):
    write_image(nut / "test/bent/1.png", noise(9))
    assert places(dataset, kinds.UNMASKED) == ["nut: 1 of 2 defects have no mask"]
    write_image(nut / "ground_truth/bent/0_mask.png", np.zeros((12, 16), bool))
    assert places(dataset, kinds.EMPTY_MASK, decode=True) == [str(nut / "ground_truth/bent/0_mask.png")]
    shutil.rmtree(nut / "ground_truth")
    assert found(dataset) == {}


def test_a_class_that_was_moved_is_said_to_be(dataset, nut):
    write_index(paths.protocols("metal"), "nut", dataset.index("nut"))
    nut.rename(nut.with_name("bolt"))
    with pytest.raises(UserError, match=r"nut: 5 images that its index names are not in .*/images") as refusal:
        require_sound(dataset, ["nut"])
    assert "correct image_root in experiments/metal/dataset.yaml" in str(refusal.value)


def test_each_file_is_decoded_once(dataset, nut, monkeypatch):
    write_image(nut / "train/good/zz.png", np.eye(40, dtype=bool))
    decoded, whole = [], images.decode
    monkeypatch.setattr(images, "decode", lambda path, flags: decoded.append(path) or whole(path, flags))
    inspect_class(dataset, "nut", decode=True)
    assert sorted(decoded) == sorted(path for path in nut.rglob("*") if path.is_file())


def test_masks_among_the_training_images_are_found(dataset, nut):
    write_image(nut / "train/good/zz.png", np.eye(40, dtype=bool))
    assert places(dataset, kinds.MASK_LIKE, decode=True) == [str(nut / "train/good/zz.png")]


def test_parts_on_both_sides_of_a_split_are_named(dataset, nut):
    for number in range(6):
        for view in "ab":
            half = "test" if (number, view) == (3, "b") else "train"
            write_image(nut / half / "good" / f"part{number}_{view}.png", noise(50 + 2 * number + (view == "b")))
    (where,) = places(dataset, kinds.VIEWS)
    assert where == "nut: 1 test images, such as nut/test/good/part3_b.png, nut/train/good/part3_a.png"


def test_the_layout_file_says_what_a_part_is(dataset, nut):
    for half, name in (("train", "x1_front left"), ("test", "x1_rear")):
        write_image(nut / half / "good" / f"{name}.png", noise(len(name)))
    assert kinds.VIEWS not in found(dataset)
    layout = paths.experiment("metal") / paths.LAYOUT
    layout.parent.mkdir(parents=True)
    layout.write_text("group: <group>_*.png")
    assert found(dataset)[kinds.VIEWS] == 1


def test_absent_images(dataset, nut):
    shutil.rmtree(nut / "train/good")
    assert found(dataset) == {kinds.ABSENT: 1}
    shutil.rmtree(nut)
    with pytest.raises(UserError, match=r"without images for training: 1; .*\n  there is no class 'nut'"):
        require_sound(dataset, ["nut"])


def test_anomaly_sources(dataset, nut, tmp_path):
    config = AnomalyConfig(types={"sdas": 1, "dtd": 1}, dtd_root=str(tmp_path / "DTD"))
    sdas = paths.sdas("metal", "nut") / "0.jpg"
    assert [each.kind for each in inspect_sources(dataset, "nut", config)] == [kinds.NO_SOURCES] * 2
    write_image(sdas, noise(0))
    assert [each.kind for each in inspect_sources(dataset, "nut", config)] == [kinds.NO_SOURCES]
    sdas.write_bytes(sdas.read_bytes()[:-30])
    assert inspect_files([sdas, sdas])[0].kind == kinds.UNREADABLE
    with pytest.raises(UserError, match=r"sdas/nut/0\.jpg"):
        require_sound(dataset, ["nut"], sources=[sdas])


def test_few_images_get_advice(caplog):
    numbers = {"nut": FEW_IMAGES, "bolt": FEW_IMAGES - 1, "pin": 66}
    with caplog.at_level(logging.WARNING):
        advise(Entry(f"{name}/{i}.png", 0, "good", name) for name in ["nut"] for i in range(numbers[name]))
        assert not caplog.messages
        advise(Entry(f"{name}/{i}.png", 0, "good", name) for name in numbers for i in range(numbers[name]))
    (message,) = caplog.messages
    assert f"(below {FEW_IMAGES}): bolt ({FEW_IMAGES - 1}), pin (66); more good images help most" in message


def test_long_lists_are_cut_where_told():
    many = [kinds.Finding(kinds.LEAK, f"{number}.png") for number in range(30)]
    text = report([kinds.Finding(kinds.IGNORED, "x"), *many], "metal", limit=20)
    assert text.startswith(kinds.LEAK.title)
    assert "… and 10 more; python prepare_data.py check --dataset metal lists all" in text
    assert len(text.splitlines()) == 24
    assert len(report(many, "metal").splitlines()) == 31
