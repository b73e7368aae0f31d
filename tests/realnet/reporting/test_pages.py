import os
from itertools import product
from pathlib import PurePosixPath

import numpy as np
import pytest

from realnet.drawing.heatmaps import Display
from realnet.drawing.panels import display_size, heatmap_name, heatmap_panel, verdict_title


@pytest.mark.parametrize(
    ("filename", "class_name", "expected"),
    [
        ("tile/test/hole/003.png", "tile", "test/hole/003.png"),
        ("tile/test/hole/003.JPG", "tile", "test/hole/003.JPG.png"),
        ("01/test/ko/0000.bmp", "01", "test/ko/0000.bmp.png"),
        ("elsewhere/003.png", "tile", "elsewhere/003.png"),
        ("tile.png", "tile", "tile.png"),
        ("a/b.PNG", "", "a/b.PNG"),
        ("a/shot.2024.png", "", "a/shot.2024.png"),
    ],
)
def test_every_image_has_a_heatmap_of_its_own(filename, class_name, expected):
    assert heatmap_name(filename, class_name) == PurePosixPath(expected)


@pytest.mark.parametrize("letter", ["n", "ß", "\udcdf"])
def test_a_name_that_is_too_long_is_cut(tmp_path, letter):
    long = letter * (251 // len(os.fsencode(letter)))
    names = {heatmap_name(f"a/{long}.{ending}") for ending in ("png", "jpg", "bmp")}
    assert len(names) == 3 and PurePosixPath(f"a/{long}.png") in names
    for name in names:
        (tmp_path / name.name).touch()


def test_no_two_images_share_a_heatmap():
    endings = ("png", "jpg", "bmp", "JPG", "PNG")
    names = {".".join(["1", *parts]) for length in (1, 2, 3) for parts in product(endings, repeat=length)}
    assert len({heatmap_name(f"a/{name}") for name in names}) == len(names) == 155


def test_display_size_keeps_the_proportions():
    assert display_size((30, 60), smallest=120) == (60, 120)
    assert display_size((3000, 1500), smallest=120, largest=1000) == (1000, 500)
    assert display_size((200, 300), smallest=120, largest=1000) == (200, 300)
    assert display_size((1, 5000), largest=1000) == (1, 1000)


def test_the_panel_shows_image_mask_and_map_at_the_size_asked_for():
    image = np.full((40, 20, 3), (90, 30, 60), np.uint8)
    anomaly_map = np.zeros((10, 5), np.float32)
    display = Display(0.5, 0.5, 1.0)
    with_mask = heatmap_panel(image, anomaly_map, display=display, size=(80, 40), mask=np.ones((10, 5), bool))
    without = heatmap_panel(image, anomaly_map, display=display, size=(80, 40))
    assert with_mask.shape[0] == without.shape[0] > 80
    assert with_mask.shape[1] - without.shape[1] > 40
    assert (without == (90, 30, 60)).all(axis=2).sum() == 2 * 80 * 40  # the map's coldest colour covers nothing


def test_the_title_says_the_verdict():
    assert verdict_title(0.5, 0.5) == "0.5000 >= 0.5000: defect"
    assert verdict_title(0.25, 0.5) == "0.2500 < 0.5000: normal"
    assert verdict_title(0.25, None) == "score 0.2500"
