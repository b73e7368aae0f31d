import numpy as np
import pytest

from realnet.data import index
from realnet.data.images import read_image, read_mask
from realnet.data.regions import label_regions
from realnet.preparation import toy_large


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    toy_large.make_large_toy(folder, image_size=(96, 128), num_train=2, num_good=1, num_defects=3)
    return folder


def test_it_is_laid_out_as_mvtec(root):
    assert index.discover_classes(root) == ["cloth"]
    found = index.build_index(root, "cloth")
    assert [entry.kind for entry in found.test] == ["good", *["knot"] * 3, *["pinhole"] * 3]
    assert len(found.train) == 2 and all((entry.maskname is not None) == bool(entry.label) for entry in found.test)
    assert toy_large.is_complete(root, num_train=2, num_good=1, num_defects=3)
    assert not toy_large.is_complete(root)


def test_defects_have_6_to_12_pixels(root):
    for path in (root / "cloth/ground_truth").rglob("*.png"):
        mask = read_mask(path)
        rows, columns = np.nonzero(mask)
        assert label_regions(mask).max() == 1
        assert 5 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 13


@pytest.mark.parametrize("kind", toy_large.KINDS)
def test_a_defect_changes_the_cloth_where_its_mask_is(monkeypatch, kind):
    monkeypatch.setattr(toy_large, "_photograph", lambda colours, rng: colours)
    for seed in range(3):
        image, mask = toy_large.draw_defect(kind, (96, 128), np.random.default_rng(seed))
        clean, _ = toy_large._cloth((96, 128), np.random.default_rng(seed))
        change = np.abs(image - clean).max(axis=2)
        assert change[mask].mean() > 0.15 and (change > 0).sum() < 3 * mask.sum()


def test_images_depend_only_on_the_seed_and_their_names(root, tmp_path):
    toy_large.make_large_toy(tmp_path, image_size=(96, 128), num_train=1, num_good=1, num_defects=1)
    for path in tmp_path.rglob("*.png"):
        assert path.read_bytes() == (root / path.relative_to(tmp_path)).read_bytes()
    images = [read_image(path).tobytes() for path in sorted((root / "cloth").glob("*/good/*.png"))]
    assert len(set(images)) == 3
