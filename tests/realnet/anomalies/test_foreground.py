import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from realnet.anomalies.foreground import find_object, foreground_mask
from realnet.config import DatasetConfig, ForegroundRule, load
from tests import golden
from tests.closed_form import wave


def shipped_rule(name):
    dataset, class_name = name.split("/")
    return load(DatasetConfig, golden.ROOT / "experiments" / dataset / "dataset.yaml").foreground_of(class_name)


@pytest.mark.parametrize("path", golden.paths("data", "foreground"))
def test_shipped_rules_give_the_golden_masks(path):
    outputs = golden.load(path).outputs
    images = outputs.pop("images")
    assert outputs
    for name, packed in outputs.items():
        expected = np.unpackbits(packed)[: images[..., 0].size].reshape(images.shape[:3]).astype(bool)
        found = np.stack([foreground_mask(image, shipped_rule(name)) for image in images])
        worst = (found != expected).mean(axis=(1, 2)).max()
        assert worst <= 0.005, f"{name}: {worst:.2%} of the pixels differ"


def closed_form_image():
    """Smooth colours, for which the three channels, methods and polarities all differ."""
    rows, columns = np.mgrid[0:40, 0:48] / 6
    planes = [np.sin(rows + k) * np.cos(columns * (1 + 0.2 * k)) + 0.4 * np.sin(rows * columns / 9) for k in range(3)]
    noise = wave("foreground", 40, 48, 3).numpy() * 30
    return (127 + 70 * np.stack(planes, axis=-1) + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("rule", "area", "centre"),
    [
        ("full", 1920, (19.5, 23.5)),
        (ForegroundRule(threshold="otsu", close=6, open=6), 1381, (19.31, 22.56)),
        (ForegroundRule(channel="blue", threshold="triangle", close=8, open=3), 1615, (19.13, 22.70)),
        (ForegroundRule(channel="green", polarity="dark", close=6), 1355, (20.11, 23.84)),
    ],
)
def test_own_figures(rule, area, centre):
    mask = foreground_mask(closed_form_image(), rule)
    assert mask.sum() == pytest.approx(area, abs=0.005 * mask.size)
    assert np.argwhere(mask).mean(axis=0) == pytest.approx(centre, abs=0.1)


def test_polarities_are_complements():
    image = closed_form_image()
    bright, dark = (foreground_mask(image, ForegroundRule(channel="red", polarity=p)) for p in ("bright", "dark"))
    assert np.array_equal(bright, ~dark)


@pytest.mark.parametrize("side", [2, 3, 6, 7])
def test_morphology_fills_and_removes_without_moving(side):
    image = np.zeros((40, 50, 3), np.uint8)
    image[10:30, 12:36] = 200
    whole = image[..., 0] > 0
    image[19, 20], image[5, 44] = 0, 200
    mask = foreground_mask(image, ForegroundRule(close=side, open=side))
    assert np.array_equal(mask, whole)


def photograph(object_grey, table_grey):
    image = np.full((64, 80, 3), table_grey, np.float64)
    cv2.circle(image, (38, 30), 20, (object_grey,) * 3, -1)
    noise = np.random.default_rng(0).normal(0, 6, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(("object_grey", "table_grey"), [(190, 50), (40, 210)])
def test_auto_finds_an_object_of_either_polarity(object_grey, table_grey):
    rows, columns = np.mgrid[0:64, 0:80]
    expected = (rows - 30) ** 2 + (columns - 38) ** 2 <= 400
    mask = foreground_mask(photograph(object_grey, table_grey), "auto")
    assert (mask != expected).mean() < 0.02


def test_auto_takes_a_texture_whole():
    texture = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    assert find_object(texture) is None
    assert foreground_mask(texture, "auto").all()


@settings(max_examples=60)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))))
def test_auto_never_fails_and_is_never_empty(image):
    mask = foreground_mask(image, "auto")
    assert mask.shape == image.shape[:2]
    assert mask.dtype == bool
    assert mask.any()
