import numpy as np
import pytest

from realnet.drawing import heatmaps

GREY = np.full((48, 64, 3), 120, np.uint8)


def blob():
    anomaly_map = np.zeros((48, 64), np.float32)
    anomaly_map[10:20, 30:45] = 0.6
    return anomaly_map


def test_heatmap_has_one_colour_a_value_and_saturates_at_the_scale():
    picture = heatmaps.heatmap(np.array([[0.0, 0.25, 0.5, 0.9]]), scale=0.5)
    assert picture.shape == (1, 4, 3) and picture.dtype == np.uint8
    assert (picture[0, 2] == picture[0, 3]).all()
    assert len(np.unique(picture[0], axis=0)) == 3
    assert picture[0, 3, 0] > picture[0, 3, 2]  # hot is red: the channels are in RGB order


def test_the_scale_is_fixed_so_other_pixels_do_not_change_a_colour():
    weak, strong = np.full((4, 4), 0.2), np.full((4, 4), 0.2)
    strong[0, 0] = 1
    assert (heatmaps.heatmap(weak, scale=1)[1:] == heatmaps.heatmap(strong, scale=1)[1:]).all()


def test_nan_is_shown_as_hottest():
    hot = heatmaps.heatmap(np.array([[0.5, np.nan]]), scale=0.5)
    assert (hot[0, 0] == hot[0, 1]).all()


def test_overlay_leaves_a_cold_image_and_its_inputs_as_they_are():
    image, anomaly_map = GREY.copy(), blob()
    picture = heatmaps.overlay(image, anomaly_map, scale=1)
    assert (picture[anomaly_map == 0] == 120).all()
    assert (picture[anomaly_map > 0] != 120).any(axis=-1).all()
    heatmaps.overlay(image, anomaly_map, scale=1, threshold=0.5)
    assert (image == GREY).all() and (anomaly_map == blob()).all()


def test_colour_weighs_as_the_method_says():
    rng = np.random.default_rng(0)
    image, anomaly_map = rng.integers(0, 256, (48, 64, 3), np.uint8), rng.random((48, 64), np.float32)
    weight = 0.65 * np.sqrt(np.clip(anomaly_map.astype(np.float64) / 0.8, 0, 1))[..., None]
    expected = (1 - weight) * image + weight * heatmaps.heatmap(anomaly_map, scale=0.8)
    assert np.abs(heatmaps.overlay(image, anomaly_map, scale=0.8) - expected).max() < 0.51


def test_outline_runs_around_the_region_at_the_threshold():
    picture = heatmaps.overlay(GREY, blob(), scale=1, threshold=0.6)
    white = (picture == 255).all(axis=-1)
    expected = np.zeros((48, 64), bool)
    expected[9:21, 29:46] = True
    expected[10:20, 30:45] = False
    assert (white == expected).all()
    plain = heatmaps.overlay(GREY, blob(), scale=1)
    assert (picture[blob() > 0] == plain[blob() > 0]).all()
    assert (heatmaps.overlay(GREY, blob(), scale=1, threshold=0.61) == plain).all()


def test_outline_also_borders_holes():
    anomaly_map = blob()
    anomaly_map[12:18, 34:41] = 0
    white = (heatmaps.overlay(GREY, anomaly_map, scale=1, threshold=0.5) == 255).all(axis=-1)
    assert white[12, 34:41].all()


@pytest.mark.parametrize("scale", [0, -1, float("nan")])
def test_a_scale_that_is_not_positive_is_refused(scale):
    with pytest.raises(ValueError, match="display scale"):
        heatmaps.heatmap(blob(), scale=scale)


def test_a_map_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\(48, 64\).*\(24, 32\)"):
        heatmaps.overlay(GREY, np.zeros((24, 32)), scale=1)


def test_mask_picture_shows_any_non_zero_value_white():
    assert heatmaps.draw_mask(np.array([[0, 1, 255]], np.uint8))[0, :, 0].tolist() == [0, 255, 255]
