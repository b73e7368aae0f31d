import cv2
import numpy as np
import pytest

from realnet.anomalies.foreground import foreground_mask
from realnet.config import DatasetConfig, load
from realnet.data import index
from realnet.data.images import read_image, read_mask
from realnet.preparation import toy
from tests.golden import ROOT


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    toy.make_toy_dataset(folder, image_size=(48, 48), num_train=4, num_good=2, num_defects=3)
    return folder


def test_it_is_laid_out_as_mvtec(root):
    assert index.discover_classes(root) == ["weave", "widget"]
    for class_name in ("weave", "widget"):
        found = index.build_index(root, class_name)
        kinds = [entry.kind for entry in found.test]
        assert len(found.train) == 4
        assert {kind: kinds.count(kind) for kind in kinds} == {
            "good": 2,
            **dict.fromkeys(toy.CLASSES[class_name][1], 3),
        }
        assert len(set(kinds)) >= 4
        assert all((entry.maskname is not None) == bool(entry.label) for entry in found.test)


def test_it_is_reproducible_whatever_the_counts(root, tmp_path):
    toy.make_toy_dataset(tmp_path / "same", image_size=(48, 48), num_train=2, num_good=1, num_defects=1)
    toy.make_toy_dataset(tmp_path / "other", image_size=(48, 48), num_train=2, num_good=1, num_defects=1, seed=1)
    for path in (tmp_path / "same").rglob("*.png"):
        name = path.relative_to(tmp_path / "same")
        assert path.read_bytes() == (root / name).read_bytes()
        assert path.read_bytes() != (tmp_path / "other" / name).read_bytes()


@pytest.mark.parametrize("class_name", toy.CLASSES)
def test_images_differ_from_each_other(root, class_name):
    images = [read_image(path) for path in sorted((root / class_name).glob("*/good/*.png"))]
    assert len({image.tobytes() for image in images}) == 6
    assert all(image.shape == (48, 48, 3) for image in images)


def defects():
    return [
        pytest.param(render, damage, id=f"{class_name}/{kind}")
        for class_name, (render, damages) in toy.CLASSES.items()
        for kind, damage in damages.items()
    ]


@pytest.mark.parametrize(("render", "damage"), defects())
def test_masks_are_exact(monkeypatch, render, damage):
    # without the camera, exactly the pixels that a damage covers differ from the undamaged scene
    monkeypatch.setattr(toy, "_photograph", lambda colours, rng: colours)
    for seed in range(6):
        image, mask = toy.draw_defect(render, damage, (64, 64), np.random.default_rng(seed))
        clean = render((64, 64), np.random.default_rng(seed)).colours
        change = np.abs(image - clean).max(axis=-1)
        assert 15 < mask.sum() < 0.15 * mask.size
        assert (change[mask] > 0.01).mean() > 0.9
        assert change[mask].mean() > 0.1
        touched = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))) > 0
        assert change[~touched].max() == 0


def test_shipped_rule_finds_the_widget(root):
    config = load(DatasetConfig, ROOT / "experiments" / "toy" / "dataset.yaml")
    rng = np.random.default_rng(0)
    scene = toy.render_widget((64, 64), rng)
    mask = foreground_mask(toy._photograph(scene.colours, rng), config.foreground_of("widget"))
    assert (mask != (scene.outline <= 0)).mean() < 0.03
    weave = toy._photograph(toy.render_weave((64, 64), rng).colours, rng)
    assert foreground_mask(weave, config.foreground_of("weave")).all()


def test_rectangles(tmp_path):
    toy.make_toy_dataset(tmp_path, image_size=(32, 48), num_train=1, num_good=1, num_defects=1)
    for path in tmp_path.rglob("*.png"):
        assert read_mask(path).shape == (32, 48)
