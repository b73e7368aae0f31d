import cv2
import numpy as np
import pytest

from realnet.data.images import resize_mask
from realnet.data.regions import RegionCounts, label_regions, resize_nearest, resize_regions


def scratch(size=512, number=1):
    mask = np.zeros((size, size), np.uint8)
    for index in range(number):
        cv2.line(mask, (20, 40 + 60 * index), (size - 30, 90 + 60 * index), 1, 1)
    return mask > 0


def pieces(mask):
    return label_regions(mask).max()


def test_a_thin_region_stays_one_where_the_nearest_pixel_breaks_it():
    regions = label_regions(scratch())
    nearest, counts = resize_nearest(regions, (128, 128))
    assert counts.own == 1 and counts.seen == nearest.max() > 5
    whole, counts = resize_regions(regions, (128, 128))
    assert counts == RegionCounts(1, 1, 1) and pieces(whole > 0) == 1
    assert np.array_equal(np.argwhere(whole > 0).min(axis=0), [10, 5])


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (256, 256), (300, 40), (40, 300)])
def test_every_region_keeps_its_number_and_a_pixel(size):
    generator = np.random.default_rng(0)
    mask = np.zeros((200, 200), bool)
    for row, column in generator.integers(2, 190, (25, 2)):
        mask[row : row + 3, column : column + 5] = True
    regions = label_regions(mask)
    resized, counts = resize_regions(regions, size)
    assert resized.shape == size and resized.dtype == np.int32
    assert counts.own == counts.kept == regions.max()
    assert set(np.unique(resized)) == set(range(regions.max() + 1))
    for label in range(1, counts.own + 1):
        assert pieces(resized == label) == 1


def test_specks_take_a_pixel_from_their_neighbour_and_two_in_one_pixel_are_counted():
    mask = np.zeros((64, 64), bool)
    mask[8:11, :30], mask[8, 31] = True, True
    resized, counts = resize_regions(label_regions(mask), (8, 8))
    assert counts == (2, 2, 2) and (resized == 2).sum() == 1
    mask = np.zeros((64, 64), bool)
    mask[2, 2] = mask[6, 6] = True
    assert resize_regions(label_regions(mask), (8, 8))[1] == RegionCounts(2, 1, 1)


@pytest.mark.parametrize("size", [(64, 64), (33, 71), (100, 90), (257, 300)])
def test_the_nearest_pixel_is_the_published_one(size):
    mask = np.random.default_rng(1).random((90, 77)) > 0.7
    resized, counts = resize_nearest(label_regions(mask), size)
    assert np.array_equal(resized > 0, resize_mask(mask, size))
    assert counts.seen == pieces(resize_mask(mask, size)) and 0 < counts.kept <= counts.own


@pytest.mark.parametrize("resize", [resize_nearest, resize_regions])
def test_nothing_stays_nothing_and_its_own_size_changes_nothing(resize):
    assert not resize(label_regions(np.zeros((20, 20), bool)), (8, 8))[0].any()
    regions = label_regions(scratch(200, 2))
    same, counts = resize(regions, (200, 200))
    assert np.array_equal(same, regions) and counts == (2, 2, 2)
