from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from realnet.metrics import curves
from realnet.metrics.curves import MetricUndefined, pixel_curve
from realnet.metrics.image_score import image_scores
from tests import golden

RING = np.array([[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 0, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]], bool)


def slow_pro_curve(maps, masks):
    """The definition, word for word: every distinct score of any pixel is a threshold, every region has its mean."""
    regions = []
    for image, mask in enumerate(masks):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [(image, labels == label) for label in range(1, count + 1)]
    points = [(0.0, 0.0)]
    for threshold in sorted(set(maps.ravel().tolist()), reverse=True):
        found = maps >= threshold
        overlaps = [found[image][region].mean() for image, region in regions]
        points.append((found[~masks].mean(), np.mean(overlaps)))
    return points


def slow_aupro(maps, masks, limit):
    area, points = 0.0, slow_pro_curve(maps, masks)
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 >= limit:
            break
        end = min(x1, limit)
        height = y0 + (y1 - y0) * (end - x0) / (x1 - x0) if x1 > limit else y1
        area += (end - x0) * (y0 + height) / 2
    return area / limit


def shapes_of(draw, sides):
    return draw(st.tuples(st.integers(1, 3), sides, sides))


@st.composite
def maps_and_masks(draw):
    shape = shapes_of(draw, st.integers(2, 7))
    levels = draw(st.sampled_from([1, 2, 4, 1000]))  # 1 is a constant map, few levels are many ties
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    maps = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, levels - 1))).astype(dtype) / dtype(levels)
    masks = draw(hnp.arrays(bool, shape))
    masks.flat[0], masks.flat[-1] = True, False
    return maps, masks


@pytest.mark.parametrize("path", golden.paths("realnet", "metrics"))
def test_agrees_with_the_published_metrics(path):
    case = golden.load(path)
    maps, masks = case.outputs["preds"], case.outputs["masks"]
    maps, masks = maps.reshape(-1, *maps.shape[-2:]), masks.reshape(-1, *masks.shape[-2:])
    pools = case.run["avgpool"]
    assert pools[0] == pools[1]
    scores, labels = image_scores(maps, pools[0]), masks.any(axis=(1, 2))
    expected_scores = torch.nn.functional.avg_pool2d(torch.from_numpy(maps)[:, None], pools, stride=1).amax((1, 2, 3))
    golden.assert_close(scores, expected_scores)
    assert curves.image_curve(scores, labels).auroc == pytest.approx(case.run["image_auroc"], abs=1e-12)
    assert curves.pixel_curve(maps, masks).auroc == pytest.approx(case.run["pixel_auroc"], abs=1e-9)
    assert curves.pixel_curve(maps, masks).aupro(0.3) == pytest.approx(case.run["pro_1000_thresholds_fpr0_3"], abs=5e-3)


@settings(max_examples=80)
@given(maps_and_masks(), st.sampled_from([0.05, 0.3, 0.5, 1.0]))
def test_aupro_equals_its_literal_definition(case, limit):
    maps, masks = case
    assert curves.pixel_curve(maps, masks).aupro(limit) == pytest.approx(slow_aupro(maps, masks, limit), abs=1e-9)


@settings(max_examples=80)
@given(maps_and_masks())
def test_pixel_metrics_equal_sklearn(case):
    maps, masks = case
    truth, scores = masks.ravel(), maps.ravel().astype(np.float64)
    precision, recall, thresholds = precision_recall_curve(truth, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = curves.pixel_curve(maps, masks).f1_max
    assert curves.pixel_curve(maps, masks).auroc == pytest.approx(roc_auc_score(truth, scores), abs=1e-9)
    assert curves.pixel_curve(maps, masks).ap == pytest.approx(average_precision_score(truth, scores), abs=1e-9)
    assert best.value == pytest.approx(f1.max(), abs=1e-9)
    assert best.threshold == max(thresholds[f1[:-1] > f1.max() - 1e-9])


@settings(max_examples=40)
@given(maps_and_masks())
def test_the_same_scores_as_images_give_the_same_numbers(case):
    maps, masks = case
    scores, labels = maps.ravel().tolist(), masks.ravel().astype(int).tolist()
    assert curves.image_curve(scores, labels).auroc == curves.pixel_curve(maps, masks).auroc
    assert curves.image_curve(scores, labels).ap == curves.pixel_curve(maps, masks).ap
    assert curves.image_curve(scores, labels).f1_max == curves.pixel_curve(maps, masks).f1_max


def test_image_metrics_by_hand():
    scores, labels = [0.9, 0.8, 0.8, 0.1], [1, 1, 0, 0]
    assert curves.image_curve(scores, labels).auroc == (1 + 1 + 0.5 + 1) / 4
    assert curves.image_curve(scores, labels).ap == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert curves.image_curve(scores, labels).f1_max == (0.8, 0.8)


def test_an_auroc_under_one_half_is_not_flipped():
    assert curves.image_curve([0.1, 0.9], [1, 0]).auroc == 0


def test_aupro_by_hand_is_interpolated_at_the_limit():
    # 4 normal pixels; region A = 1 pixel at 0.9, region B = 2 pixels at 0.5 and 0.1; the normal ones tie at 0.5.
    maps = np.array([[[0.9, 0.5, 0.5, 0.0, 0.5, 0.5, 0.1]]])
    masks = np.array([[[1, 0, 0, 0, 0, 1, 1]]], bool)
    # PRO is 1/2 at FPR 0, and rises in one slanted step to 3/4 at FPR 3/4; at 0.3 it is 1/2 + 1/4 · 0.3 / 0.75 = 0.6.
    assert curves.pixel_curve(maps, masks).aupro() == pytest.approx((0.5 + 0.6) / 2)
    assert curves.pixel_curve(maps, masks).aupro(1.0) == pytest.approx(0.75 * 0.625 + 0.25)


def test_constant_maps_are_no_better_than_chance():
    maps, masks = np.full((2, 5, 5), 0.25, np.float32), np.stack([RING, ~RING])
    assert curves.pixel_curve(maps, masks).auroc == 0.5
    assert curves.pixel_curve(maps, masks).ap == 0.5
    assert curves.pixel_curve(maps, masks).aupro() == pytest.approx(0.15)
    assert curves.pixel_curve(maps, masks).f1_max == (pytest.approx(2 / 3), 0.25)


def test_a_ring_keeps_its_hole():
    masks = np.stack([RING, np.zeros_like(RING)])
    assert curves.pixel_curve(masks.astype(np.float32), masks).aupro() == 1
    filled = ndimage.binary_fill_holes(RING).astype(np.float32)
    maps = np.stack([filled, np.zeros_like(filled)])  # the hole is a false alarm: 1 of 42 normal pixels
    assert curves.pixel_curve(maps, masks).aupro() == pytest.approx(slow_aupro(maps, masks, 0.3))
    assert curves.pixel_curve(maps, masks).aupro() == pytest.approx(1 - 1 / 42 / 2 / 0.3)


def test_regions_that_touch_at_a_corner_are_one():
    mask = np.zeros((1, 8, 8), bool)
    mask[0, :2, :2] = mask[0, 2:3, 2:3] = True  # 4 + 1 pixels
    maps = np.zeros((1, 8, 8), np.float32)
    maps[0, :2, :2] = 1
    assert curves.pixel_curve(maps, mask).region_overlap[0] == pytest.approx(4 / 5)


def test_a_single_pixel_weighs_as_much_as_a_large_region():
    mask = np.zeros((2, 8, 8), np.uint8)
    mask[0, :4, :4], mask[1, 7, 7] = 255, 1
    maps = np.zeros((2, 8, 8), np.float32)
    maps[1, 7, 7] = 1
    assert curves.pixel_curve(maps, mask).region_overlap[0] == pytest.approx(1 / 2)


def test_normal_images_count_in_the_false_positive_rate():
    maps, masks = np.zeros((1, 4, 4), np.float32), np.zeros((1, 4, 4), bool)
    masks[0, 0, 0], maps[0, 0, 0] = True, 0.5
    alarm = np.full((1, 4, 4), 0.9, np.float32)
    assert curves.pixel_curve(maps, masks).aupro() == 1
    assert curves.pixel_curve(np.concatenate([maps, alarm]), np.concatenate([masks, masks & False])).aupro() == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_neighbouring_floats_are_told_apart(dtype):
    high = np.nextafter(dtype(0.7), dtype(1))
    assert curves.image_curve(np.array([high, 0.7], dtype), [1, 0]).auroc == 1
    assert curves.image_curve(np.array([np.inf, np.inf, 1, 0], dtype), [1, 0, 0, 1]).auroc == 0.375
    assert curves.image_curve(np.full(3, np.inf, dtype), [1, 1, 0]).ap == pytest.approx(2 / 3)


def test_inputs_stay_as_they_were():
    maps, masks = np.random.default_rng(0).random((2, 6, 6)), np.stack([RING, RING]).repeat(2, 0)[:2]
    maps = maps[:, :5, :5]  # a view, not contiguous
    before = maps.copy(), masks.copy()
    curves.pixel_curve(maps, masks).aupro()
    np.testing.assert_array_equal(maps, before[0])
    np.testing.assert_array_equal(masks, before[1])


@pytest.mark.parametrize(
    ("maps", "masks", "reason"),
    [
        (np.zeros((2, 4, 4)), None, "no masks"),
        (np.zeros((2, 4, 4)), np.zeros((2, 4, 4), bool), "no defect pixel"),
        (np.zeros((2, 4, 4)), np.ones((2, 4, 4), bool), "no normal pixel"),
        (np.zeros((2, 4, 4)), np.ones((2, 4, 5), bool), r"\(2, 4, 4\).*\(2, 4, 5\)"),
        (np.zeros((4, 4)), np.ones((4, 4), bool), r"\(4, 4\)"),
        (np.zeros((0, 4, 4)), np.zeros((0, 4, 4), bool), "no images"),
        (np.full((1, 5, 5), np.nan), RING[None], "NaN"),
    ],
)
def test_what_cannot_be_computed_says_why(maps, masks, reason):
    with pytest.raises(MetricUndefined, match=reason):
        curves.pixel_curve(maps, masks)


@pytest.mark.parametrize(("scores", "labels", "reason"), [([1, 2], [1, 1], "no normal"), ([1, 2], [0], "match")])
def test_image_metrics_say_why_too(scores, labels, reason):
    with pytest.raises(MetricUndefined, match=reason):
        curves.image_curve(scores, labels)


def test_curves_of_images_have_no_region_overlap():
    with pytest.raises(MetricUndefined, match="masks"):
        curves.image_curve([0.0, 1.0], [0, 1]).aupro()


@pytest.mark.parametrize("limit", [0, -0.1, 1.5])
def test_a_limit_that_is_no_rate_is_refused(limit):
    with pytest.raises(ValueError, match=str(limit)):
        curves.pixel_curve(RING[None].astype(float), RING[None]).aupro(limit)


def test_image_score_is_the_largest_pooled_mean():
    maps = np.random.default_rng(1).random((3, 24, 20)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(maps, (16, 16), axis=(1, 2))
    np.testing.assert_allclose(image_scores(maps), windows.mean((-1, -2)).max((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(image_scores(maps, 3), np.lib.stride_tricks.sliding_window_view(
        maps, (3, 3), axis=(1, 2)).mean((-1, -2)).max((1, 2)), rtol=1e-6)  # fmt: skip


def test_image_score_alone_and_in_a_batch_is_the_same():
    maps = np.random.default_rng(2).random((4, 32, 32)).astype(np.float32)
    alone = np.concatenate([image_scores(one[None]) for one in maps])
    np.testing.assert_array_equal(image_scores(maps), alone)


def test_image_score_needs_a_map_as_large_as_its_pool():
    with pytest.raises(MetricUndefined, match="16"):
        image_scores(np.zeros((1, 15, 32)))


def test_drawn_curves_are_thin_and_keep_the_area():
    generator = np.random.default_rng(3)
    masks = np.zeros((4, 64, 64), bool)
    masks[:2, 10:30, 10:40] = True
    curve = curves.pixel_curve(generator.random(masks.shape) + 0.5 * masks, masks)
    roc, pro = curve.roc_points(), curve.pro_points(0.3)
    assert len(roc.x) <= 500 and len(pro.x) <= 500
    assert (roc.x[0], roc.y[0], roc.x[-1], roc.y[-1]) == (0, 0, 1, 1)
    assert pro.x[-1] == 0.3
    assert np.trapezoid(roc.y, roc.x) == pytest.approx(curve.auroc, abs=2e-3)
    assert np.trapezoid(pro.y, pro.x) / 0.3 == pytest.approx(curve.aupro(0.3), abs=2e-3)


def test_own_figures():
    masks = np.zeros((3, 20, 20), bool)
    masks[0, 3:9, 4:12] = masks[1, 0, 0] = masks[1, 12:15, 2:19] = True
    maps = np.sin(0.7371 * np.arange(1200)).reshape(masks.shape).astype(np.float32) + masks
    curve = curves.pixel_curve(maps, masks)
    got = [curve.auroc, curve.ap, curve.f1_max.value, curve.aupro(), *image_scores(maps)]
    assert got == pytest.approx([0.8138727, 0.5882214, 0.6754967, 0.3642392, 0.1919562, 0.1915218, 0.0045752], abs=1e-6)


def test_regions_that_are_given_count_even_where_they_touch():
    maps, masks = np.array([[[0.9, 0.9, 0.9, 0.1, 0.0, 0.0]]]), np.array([[[1, 1, 1, 1, 0, 0]]], bool)
    regions = np.array([[[1, 1, 1, 2, 0, 0]]])
    assert pixel_curve(maps, masks).region_overlap.tolist() == [0.75, 1]
    assert pixel_curve(maps, masks, regions).region_overlap.tolist() == [0.5, 1]
