"""The curve that is built image by image, against the one of all images at once."""

import cv2
import numpy as np
import pytest

from realnet.metrics import streaming
from realnet.metrics.curves import MetricUndefined, pixel_curve
from realnet.metrics.streaming import pixel_curve_of_images


def drawn(step: float):
    """Maps of multiples of a step, with ties, their masks and the masks' regions; half of the images have none."""
    generator = np.random.default_rng(3)
    maps = (generator.random((6, 20, 24)) / step).round().astype(np.float32) * np.float32(step)
    masks = generator.random((6, 20, 24)) > 0.9
    masks[3:] = False
    regions = [cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[1] for mask in masks]
    return maps, masks, regions


def assert_the_same(one, other):
    for name in ("thresholds", "true_positives", "false_positives", "false_positives_above", "num_normal"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_allclose(one.region_overlap, other.region_overlap)
    assert one.aupro() == pytest.approx(other.aupro()) and one.auroc == other.auroc


@pytest.mark.parametrize("limit", [2**22, 45, 41])  # beyond the smaller ones, scores are collected in parts
def test_image_by_image_the_curve_is_the_same(monkeypatch, limit):
    maps, masks, regions = drawn(1 / 40)
    monkeypatch.setattr(streaming, "MAX_THRESHOLDS", limit)
    assert_the_same(pixel_curve_of_images(lambda: zip(maps, regions, strict=True)), pixel_curve(maps, masks))


def test_beyond_the_limit_scores_are_rounded_by_as_few_bits_as_that_takes(monkeypatch):
    maps, masks, regions = drawn(1e-7)
    maps = (1 + maps) / 2  # of one binade, where float32 has 2²³ values
    monkeypatch.setattr(streaming, "MAX_THRESHOLDS", 64)
    streamed = pixel_curve_of_images(lambda: zip(maps, regions, strict=True))
    rounded = {bits: pixel_curve((maps.view(np.uint32) >> bits << bits).view(np.float32), masks) for bits in (16, 17)}
    assert len(rounded[16].thresholds) > 64 >= len(rounded[17].thresholds)
    assert_the_same(streamed, rounded[17])
    assert streamed.auroc == pytest.approx(pixel_curve(maps, masks).auroc, abs=1 / 64)


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        ([], "no images"),
        ([(np.zeros((2, 2)), np.zeros((2, 2), int))], "no defect pixel"),
        ([(np.zeros((2, 2)), np.ones((2, 2), int))], "no normal pixel"),
        ([(np.full((2, 2), np.nan), np.eye(2, dtype=int))], "hold NaN"),
        ([(np.zeros((2, 3)), np.eye(2, dtype=int))], "do not match"),
    ],
)
def test_image_by_image_what_is_undefined_says_why(images, reason):
    with pytest.raises(MetricUndefined, match=reason):
        pixel_curve_of_images(lambda: images)
