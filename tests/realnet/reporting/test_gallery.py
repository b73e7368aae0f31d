import base64
import re

import cv2
import numpy as np
import pytest

from realnet.drawing.heatmaps import Display
from realnet.reporting.gallery import Item, Views, error_of, gallery_parts

DISPLAY = Display(threshold=0.5, pixel_threshold=0.5, scale=1.0)


def pictures(side=32, mask=True):
    truth = np.zeros((side, side), np.uint8)
    truth[4, 5] = 255
    return Views(np.full((side, side, 3), (200, 30, 30), np.uint8), truth / 255, truth if mask else None)


def item(name, score, *, is_defect=True, kind="crack", load=pictures):
    return Item(name, kind, is_defect, score, load)


def page(items, display=DISPLAY):
    return "".join(gallery_parts(items, display))


def images(html):
    for data in re.findall(r'src="data:image/\w+;base64,([^"]+)"', html):
        encoded = np.frombuffer(base64.b64decode(data), np.uint8)
        yield cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def test_cards_are_sorted_by_score_and_nan_comes_first():
    html = page([item("low", 0.1), item("high", 0.9), item("nan", float("nan")), item("middle", 0.5)])
    assert re.findall(r"<b>(\w+)</b>", html) == ["nan", "high", "middle", "low"]


@pytest.mark.parametrize(
    ("is_defect", "score", "error"), [(True, 0.5, ""), (True, 0.49, "missed"), (False, 0.5, "alarm"), (False, 0.49, "")]
)
def test_errors_follow_the_threshold(is_defect, score, error):
    one = item("a", score, is_defect=is_defect)
    assert error_of(one, 0.5) == error
    assert f'data-error="{error}"><header>' in page([one])
    assert error_of(one, None) == ""


def test_filters_count_kinds_and_errors():
    html = page([item("a", 0.1), item("b", 0.9), item("c", 0.9, is_defect=False, kind="good")])
    for text in ("all 3", "crack 2", "good 1", "missed 1", "false alarm 1"):
        assert f">{text}</button>" in html
    assert "false alarm" not in page([item("a", 0.1)], Display(None, None, 1.0))


def test_a_card_holds_image_mask_map_and_overlay():
    image, mask, heat, overlay = images(page([item("a", 0.9)]))
    assert abs(image.astype(int) - (200, 30, 30)).max() < 8
    assert mask[4, 5].tolist() == [255] * 3 and mask.sum() == 255 * 3
    assert heat[20, 20, 0] < 100 and overlay[20, 20, 0] > 180  # the cold map is dark, the cold overlay is the image


def test_every_picture_is_on_a_button_that_enlarges_it():
    html = page([item("a", 0.9), item("b", 0.1, is_defect=False)])
    assert len(re.findall(r'<button type="button" class="zoom" aria-label="enlarge[^<]*><img ', html)) == 7
    assert html.count("<img") == 7


def test_the_overlay_follows_scale_and_pixel_threshold():
    def overlay(display):
        return list(images(page([item("a", 0.9)], display)))[-1].astype(int)

    for other in (Display(0.5, 0.5, 5.0), Display(0.5, None, 1.0)):
        assert abs(overlay(DISPLAY) - overlay(other)).max() > 30


def test_thumbnails_are_small_and_keep_a_one_pixel_defect():
    large = list(images(page([item("a", 0.9, load=lambda: pictures(900))])))
    assert {one.shape for one in large} == {(256, 256, 3)}
    assert large[1].max() == 255
    wide = Views(np.zeros((100, 1000, 3), np.uint8), np.zeros((64, 64)), np.ones((100, 1000), bool))
    assert {one.shape for one in images(page([item("a", 0.9, load=lambda: wide)]))} == {(26, 256, 3)}


def test_what_has_no_mask_says_so():
    assert "no mask" in page([item("a", 0.9, load=lambda: pictures(mask=False))])
    vanished = Views(np.zeros((8, 8, 3), np.uint8), np.zeros((4, 4)), np.zeros((4, 6), bool))
    assert "the mask shows no defect at 4x6 pixels" in page([item("a", 0.9, load=lambda: vanished)])
    normal = page([item("a", 0.1, is_defect=False)])
    assert ">normal</div>" in normal and len(list(images(normal))) == 3


def test_one_image_is_loaded_at_a_time():
    loaded = []
    parts = gallery_parts(
        [item(str(i), i / 9, load=lambda i=i: loaded.append(i) or pictures()) for i in range(3)], DISPLAY
    )
    seen = [list(loaded) for part in parts if "<article" in part]
    assert seen == [[2], [2, 1], [2, 1, 0]]


def test_names_and_kinds_are_escaped():
    evil = '"><script>alert(1)</script>'
    html = page([item(evil, 0.9, kind=evil)])
    assert "<script" not in html and html.count("&lt;script&gt;") == 5  # name, kind, data, button and its value
