import errno
import os
from pathlib import Path

import pytest

from realnet.config import DatasetConfig, RealNetConfig, load, load_dataset
from realnet.data.layout_file import Layout as LayoutFile
from realnet.data.layout_file import read_layout
from realnet.data.registry import open_dataset
from realnet.errors import UserError
from realnet.preparation.layouts import LAYOUTS, check_name, recognise, register


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


TREES = {
    "mvtec": ("a 1/train/good/0.png", "a 1/test/bent/0.png", "a 1/ground_truth/bent/0_mask.png", "02/train/ok/0.png"),
    "class": ("train/good/0.png", "test/bent/0.png", "readme.txt"),
    "sorted": ("good/0.png", "bent/0.png", "ground_truth/bent/0.png"),
    "folder": ("0.png", "1.JPG", "notes/readme.txt"),
    "folders": ("a/0.png", "b/good/0.bmp", "b/bad/0.bmp", "docs/readme.txt"),
}
CLASSES = {"mvtec": ("02", "a 1"), "class": ("own",), "sorted": ("own",), "folder": ("own",), "folders": ("a", "b")}


@pytest.mark.parametrize("layout", TREES)
def test_each_layout_is_recognised_and_can_be_indexed_again(tmp_path, monkeypatch, layout):
    source = touch(tmp_path / "photos of/own", *TREES[layout])
    monkeypatch.chdir(tmp_path)
    found = recognise(source)
    assert (found.layout, found.classes) == (layout, CLASSES[layout])
    assert recognise(source, layout=layout) == found
    register("mine", found)
    dataset = open_dataset("mine")
    assert dataset.classes == CLASSES[layout]
    for name in dataset.classes:
        index = dataset.index(name)
        assert index.train
        assert all((dataset.image_root / entry.filename).is_file() for entry in (*index.train, *index.test))
        assert all((dataset.image_root / e.maskname).is_file() for e in index.test if e.maskname)
    assert (load_dataset("mine").classes is None) == (layout in {"mvtec", "folders"})


def test_every_layout_has_a_test():
    assert set(TREES) == set(LAYOUTS)


def test_relative_sources_stay_relative(tmp_path, monkeypatch):
    touch(tmp_path / "in/photos", *TREES["folder"])
    monkeypatch.chdir(tmp_path / "in")
    for source, root in (("photos", "."), ("../in/photos", "../in")):
        found = recognise(tmp_path.__class__(source))
        assert (str(found.image_root), found.classes) == (root, ("photos",))
    monkeypatch.chdir(tmp_path / "in/photos")
    found = recognise(tmp_path.__class__("."))
    assert (found.image_root, found.classes) == (tmp_path / "in", ("photos",))


@pytest.mark.parametrize("name", ["01", "on", "true", "1e-4", 'with "quotes": #', "ä b"])
def test_class_names_survive_yaml(tmp_path, monkeypatch, name):
    monkeypatch.chdir(touch(tmp_path, f"{name}/0.png"))
    register("mine", recognise(tmp_path / name))
    assert load_dataset("mine").classes == (name,)


def test_registered_configs_list_what_differs(tmp_path, monkeypatch):
    monkeypatch.chdir(touch(tmp_path, "one/0.png", "two/0.png"))
    folder = register("mine", recognise(tmp_path / "one"))
    assert {path.name for path in folder.iterdir()} == {
        f"{stage}.yaml" for stage in ("dataset", "diffusion", "classifier", "sample", "realnet")
    }
    assert "not needed" in (folder / "classifier.yaml").read_text()
    assert load(RealNetConfig, folder / "realnet.yaml").calibration.holdout_fraction == "auto"
    assert load(DatasetConfig, folder / "dataset.yaml").foreground_of("one") == "auto"
    register("both", recognise(tmp_path, layout="folders"))
    assert "not needed" not in (tmp_path / "experiments/both/classifier.yaml").read_text()


def test_taken_and_odd_names_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(touch(tmp_path, "own/0.png"))
    found = recognise(tmp_path / "own")
    (register("mine", found) / "realnet.yaml").write_text("seed: 1")
    with pytest.raises(UserError, match=r"experiments/mine exists.*--force"):
        register("mine", found)
    register("mine", found, force=True)
    assert "seed" not in (tmp_path / "experiments/mine/realnet.yaml").read_text()
    for name in ("", "..", "a/b", "-x", ".x", "a\nb"):
        with pytest.raises(UserError, match="plain name"):
            check_name(name)


def test_configs_that_were_there_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(touch(tmp_path, "own/0.png", "experiments/mine/realnet.yaml"))
    found = recognise(tmp_path / "own")
    (tmp_path / "experiments/mine/layout.yaml").write_text("NG/*: test bent")
    with pytest.raises(UserError, match=r"mine/layout\.yaml says something else of these images.*; move it elsewhere"):
        register("mine", found)
    (tmp_path / "experiments/mine/layout.yaml").unlink()
    own = tmp_path / "experiments/mine/realnet.yaml"
    own.write_text("seed: 1")
    register("mine", found)
    assert own.read_text() == "seed: 1" and (tmp_path / "experiments/mine/sample.yaml").is_file()


def test_a_layout_file_that_says_the_same_in_its_own_words_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(touch(tmp_path, "own/0.png", "experiments/mine/realnet.yaml"))
    own = tmp_path / "experiments/mine/layout.yaml"
    own.write_text("# the night shift's\nown/NG/*: test bent")
    register("mine", recognise(tmp_path / "own"), layout=read_layout(own))
    assert own.read_text().startswith("# the night shift's")


def test_what_is_not_recognised_names_the_layouts(tmp_path):
    touch(tmp_path, "deep/er/and/deeper/0.png", "readme.txt")
    with pytest.raises(UserError, match=r"(?s)not laid out as expected.*\n  mvtec: .*\n  folder: "):
        recognise(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        recognise(tmp_path / "absent")
    touch(tmp_path, "0.png")
    with pytest.raises(UserError, match=r"mvtec: one folder per class") as refusal:
        recognise(tmp_path, layout="mvtec")
    assert "folders:" not in str(refusal.value)


def test_a_full_disk_leaves_nothing_that_the_same_command_refuses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "bolts/1.png")
    found, names = recognise(tmp_path / "bolts"), ("realnet.yaml", "layout.yaml", "dataset.yaml")
    layout = LayoutFile({"extra/**": "unused"})
    full = [*names]

    def replace(path, target, whole_replace=Path.replace):
        if full and target.name == full[0]:
            full.pop(0)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return whole_replace(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    for name in names:
        with pytest.raises(UserError, match=rf"cannot write experiments/mine/{name}: No space left"):
            register("mine", found, layout=layout)
        assert not [path for path in Path("experiments/mine").iterdir() if not path.read_text()]
        assert not Path("experiments/mine/dataset.yaml").exists()
    assert (register("mine", found, layout=layout) / "dataset.yaml").read_text()
    assert read_layout(Path("experiments/mine/layout.yaml")) == layout
