import numpy as np

from realnet.detection.regions import find_regions


def test_regions_are_connected_parts_with_their_box_area_scores_and_outline():
    anomaly_map = np.zeros((20, 30), np.float32)
    anomaly_map[2:5, 3:9] = 0.6
    anomaly_map[3, 4] = 0.8
    anomaly_map[10:12, 20:22] = 0.9
    anomaly_map[12, 22] = 0.5  # touches it at a corner
    high, low = find_regions(anomaly_map, 0.5)
    assert (high.left, high.top, high.width, high.height, high.area) == (20, 10, 3, 3, 5)
    assert high.peak == np.float32(0.9) and abs(high.mean - (4 * 0.9 + 0.5) / 5) < 1e-6
    assert (low.left, low.top, low.width, low.height, low.area) == (3, 2, 6, 3, 18)
    assert set(low.polygon) == {(3, 2), (3, 4), (8, 4), (8, 2)}
    assert find_regions(anomaly_map, 0.95) == []
    assert [region.area for region in find_regions(anomaly_map, 0.0)] == [600]


def test_a_hole_and_what_lies_in_it_are_no_part_of_a_region():
    anomaly_map = np.ones((9, 9), np.float32)
    anomaly_map[2:7, 2:7] = 0
    anomaly_map[4, 4] = 0.7
    outer, inner = find_regions(anomaly_map, 0.5)
    assert outer.area == 81 - 25 and set(outer.polygon) == {(0, 0), (0, 8), (8, 8), (8, 0)}
    assert (inner.area, inner.polygon) == (1, ((4, 4),))
