import numpy as np
import pytest

from realnet.drawing import heatmaps as visuals

GREY = np.full((48, 64, 3), 120, np.uint8)


def blob():
    anomaly_map = np.zeros((48, 64), np.float32)
    anomaly_map[10:20, 30:45] = 0.6
    return anomaly_map


def test_heatmap_has_one_colour_a_value_and_saturates_at_the_scale():
    picture = visuals.heatmap(np.array([[0.0, 0.25, 0.5, 0.9]]), scale=0.5)
    assert picture.shape == (1, 4, 3) and picture.dtype == np.uint8
    assert (picture[0, 2] == picture[0, 3]).all()
    assert len(np.unique(picture[0], axis=0)) == 3
    assert picture[0, 3, 0] > picture[0, 3, 2]  # hot is red: the channels are in RGB order


def test_the_scale_is_fixed_so_other_pixels_do_not_change_a_colour():
    weak, strong = np.full((4, 4), 0.2), np.full((4, 4), 0.2)
    strong[0, 0] = 1
    assert (visuals.heatmap(weak, scale=1)[1:] == visuals.heatmap(strong, scale=1)[1:]).all()


def test_nan_is_shown_as_hottest():
    hot = visuals.heatmap(np.array([[0.5, np.nan]]), scale=0.5)
    assert (hot[0, 0] == hot[0, 1]).all()


def test_overlay_leaves_a_cold_image_and_its_inputs_as_they_are():
    image, anomaly_map = GREY.copy(), blob()
    picture = visuals.overlay(image, anomaly_map, scale=1)
    assert (picture[anomaly_map == 0] == 120).all()
    assert (picture[anomaly_map > 0] != 120).any(axis=-1).all()
    visuals.overlay(image, anomaly_map, scale=1, threshold=0.5)
    assert (image == GREY).all() and (anomaly_map == blob()).all()


def test_outline_runs_around_the_region_at_the_threshold():
    picture = visuals.overlay(GREY, blob(), scale=1, threshold=0.6)
    white = (picture == 255).all(axis=-1)
    expected = np.zeros((48, 64), bool)
    expected[9:21, 29:46] = True
    expected[10:20, 30:45] = False
    assert (white == expected).all()
    plain = visuals.overlay(GREY, blob(), scale=1)
    assert (picture[blob() > 0] == plain[blob() > 0]).all()
    assert (visuals.overlay(GREY, blob(), scale=1, threshold=0.61) == plain).all()


def test_outline_also_borders_holes():
    anomaly_map = blob()
    anomaly_map[12:18, 34:41] = 0
    white = (visuals.overlay(GREY, anomaly_map, scale=1, threshold=0.5) == 255).all(axis=-1)
    assert white[12, 34:41].all()


@pytest.mark.parametrize("scale", [0, -1, float("nan")])
def test_a_scale_that_is_not_positive_is_refused(scale):
    with pytest.raises(ValueError, match="display scale"):
        visuals.heatmap(blob(), scale=scale)


def test_a_map_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\(48, 64\).*\(24, 32\)"):
        visuals.overlay(GREY, np.zeros((24, 32)), scale=1)


@pytest.mark.parametrize(
    ("mask", "tiles"), [(None, 2), (np.zeros((48, 64), bool), 3), (np.zeros((48, 64), np.uint8), 3)]
)
def test_panel_has_a_tile_for_each_picture(mask, tiles):
    picture = visuals.panel(GREY, blob(), scale=1, threshold=0.5, mask=mask, title="0.93 >= 0.50: defect")
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    assert picture.shape[1] // (64 + visuals.GAP) == tiles
    assert picture.shape[0] > 48


def test_mask_picture_shows_any_non_zero_value_white():
    assert visuals.mask_picture(np.array([[0, 1, 255]], np.uint8))[0, :, 0].tolist() == [0, 255, 255]


def test_grid_places_every_image_where_its_labels_are():
    colours = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40 + 7
    rows = [[np.full((30, 20, 3), colour, np.uint8) for colour in row] for row in colours]
    grid = visuals.label_grid(rows, row_labels=["source", "two\nlines"], column_labels=["a", "b", "c"], title="t")
    tops, lefts = [], []
    for colour in colours.ravel():
        y, x = np.nonzero((grid == colour).all(axis=-1))
        tops.append(int(np.median(y)))
        lefts.append(int(np.median(x)))
    assert lefts[0] < lefts[1] < lefts[2] and lefts[:3] == lefts[3:]
    assert len(set(tops[:3])) == len(set(tops[3:])) == 1 and tops[3] - tops[0] == 30 + visuals.GAP


def test_grid_draws_its_labels():
    image = [[GREY]]
    plain = visuals.label_grid(image)
    assert plain.shape == (48 + 2 * visuals.GAP, 64 + 2 * visuals.GAP, 3)
    for labels in ({"row_labels": ["x"]}, {"column_labels": ["x"]}, {"title": "x"}):
        grid = visuals.label_grid(image, **labels)
        assert grid.size > plain.size
        assert (grid == visuals.INK).all(axis=-1).any() or grid.min() < 110


def test_a_title_is_whole_above_a_narrow_image():
    def inked(columns):
        grid = visuals.label_grid([[np.full((300, 20, 3), 255, np.uint8)] * columns], title="0.9312 >= 0.5000: defect")
        return np.nonzero((grid < 160).all(axis=2).any(axis=0))[0]

    np.testing.assert_array_equal(inked(1), inked(30))


def test_a_long_label_is_cut_to_its_column():
    wide = visuals.label_grid([[GREY, GREY]], column_labels=["a very long label " * 9, "b"])
    short = visuals.label_grid([[GREY, GREY]], column_labels=["", "b"])
    assert wide.shape == short.shape
    assert (wide[:, 64 + 2 * visuals.GAP :] == short[:, 64 + 2 * visuals.GAP :]).all()


@pytest.mark.parametrize(
    ("rows", "labels", "reason"),
    [
        ([], {}, "at least one"),
        ([[GREY, GREY[:10]]], {}, "one size"),
        ([[GREY]], {"row_labels": ["a", "b"]}, "2 labels for 1 rows"),
        ([[GREY]], {"column_labels": ["a", "b"]}, "2 labels for 1 columns"),
    ],
)
def test_grids_that_do_not_fit_are_refused(rows, labels, reason):
    with pytest.raises(ValueError, match=reason):
        visuals.label_grid(rows, **labels)
