import numpy as np
import pytest

from realnet.drawing import grids
from realnet.drawing.panels import panel

GREY = np.full((48, 64, 3), 120, np.uint8)


def blob():
    anomaly_map = np.zeros((48, 64), np.float32)
    anomaly_map[10:20, 30:45] = 0.6
    return anomaly_map


@pytest.mark.parametrize(
    ("mask", "tiles"), [(None, 2), (np.zeros((48, 64), bool), 3), (np.zeros((48, 64), np.uint8), 3)]
)
def test_panel_has_a_tile_for_each_picture(mask, tiles):
    picture = panel(GREY, blob(), scale=1, threshold=0.5, mask=mask, title="0.93 >= 0.50: defect")
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    assert picture.shape[1] // (64 + grids.GAP) == tiles
    assert picture.shape[0] > 48
