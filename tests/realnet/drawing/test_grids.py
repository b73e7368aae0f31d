import numpy as np
import pytest

from realnet.drawing import grids

GREY = np.full((48, 64, 3), 120, np.uint8)


def test_grid_places_every_image_where_its_labels_are():
    colours = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40 + 7
    rows = [[np.full((30, 20, 3), colour, np.uint8) for colour in row] for row in colours]
    grid = grids.label_grid(rows, row_labels=["source", "two\nlines"], column_labels=["a", "b", "c"], title="t")
    tops, lefts = [], []
    for colour in colours.ravel():
        y, x = np.nonzero((grid == colour).all(axis=-1))
        tops.append(int(np.median(y)))
        lefts.append(int(np.median(x)))
    assert lefts[0] < lefts[1] < lefts[2] and lefts[:3] == lefts[3:]
    assert len(set(tops[:3])) == len(set(tops[3:])) == 1 and tops[3] - tops[0] == 30 + grids.GAP


def test_grid_draws_its_labels():
    image = [[GREY]]
    plain = grids.label_grid(image)
    assert plain.shape == (48 + 2 * grids.GAP, 64 + 2 * grids.GAP, 3)
    for labels in ({"row_labels": ["x"]}, {"column_labels": ["x"]}, {"title": "x"}):
        grid = grids.label_grid(image, **labels)
        assert grid.size > plain.size
        assert (grid == grids.INK).all(axis=-1).any() or grid.min() < 110


def test_a_title_is_whole_above_a_narrow_image():
    def inked(columns):
        grid = grids.label_grid([[np.full((300, 20, 3), 255, np.uint8)] * columns], title="0.9312 >= 0.5000: defect")
        return np.nonzero((grid < 160).all(axis=2).any(axis=0))[0]

    np.testing.assert_array_equal(inked(1), inked(30))


def test_a_long_label_is_cut_to_its_column():
    wide = grids.label_grid([[GREY, GREY]], column_labels=["a very long label " * 9, "b"])
    short = grids.label_grid([[GREY, GREY]], column_labels=["", "b"])
    assert wide.shape == short.shape
    assert (wide[:, 64 + 2 * grids.GAP :] == short[:, 64 + 2 * grids.GAP :]).all()


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
        grids.label_grid(rows, **labels)
