import re
from xml.etree import ElementTree

import numpy as np
import pytest

from realnet.metrics.curves import CurvePoints
from realnet.reporting import charts


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter("text")]


def bars(svg, colour):
    return [r for r in ElementTree.fromstring(svg).iter("rect") if r.get("fill") == colour and r.get("rx") is None]


def test_curve_spans_the_frame():
    line = charts.Line("pixels", CurvePoints(np.array([0, 0.15, 0.3]), np.array([0, 0.5, 1.0])), "#123456")
    svg = charts.line_chart([line], x_label="rate", y_label="overlap", x_limit=0.3)
    points = re.search(r'points="([^"]*)"', svg)[1].split()
    left, right = charts.LEFT, charts.WIDTH - charts.RIGHT
    top, bottom = charts.TOP, charts.HEIGHT - charts.BOTTOM
    assert points == [f"{left}.0,{bottom}.0", f"{(left + right) / 2},{(top + bottom) / 2}", f"{right}.0,{top}.0"]
    assert {"rate", "overlap", "pixels", "0.3", "1"} <= set(texts(svg))


def test_histogram_counts_every_image_once():
    normal, defect = np.array([0.0, 0.0, 0.1, 0.1]), np.array([0.1, 1.0])
    svg = charts.histogram(normal, defect, threshold=0.5, num_bins=10)
    unit = min(float(bar.get("height")) for bar in bars(svg, charts.DEFECT))
    for colour, count in ((charts.NORMAL, 4), (charts.DEFECT, 2)):
        assert sum(float(bar.get("height")) for bar in bars(svg, colour)) / unit == pytest.approx(count, abs=0.01)
    assert {"normal (4)", "defect (2)", "threshold 0.5"} <= set(texts(svg))
    assert "threshold" not in charts.histogram(normal, defect, threshold=None)


@pytest.mark.parametrize(
    ("normal", "defect", "threshold"),
    [
        ([], [], None),
        ([0.5], [], 0.5),
        ([0, 0], [0], None),
        ([0.5], [np.nextafter(0.5, 1)], None),
        ([1e-7], [2e-7], 3e6),
        ([np.nan, 1], [np.inf], 0.5),
    ],
)
def test_histogram_survives_odd_scores(normal, defect, threshold):
    svg = charts.histogram(np.array(normal, float), np.array(defect, float), threshold=threshold)
    ElementTree.fromstring(svg)
    assert "nan" not in svg and "inf" not in svg


def test_counts_have_whole_ticks():
    assert "0.5" not in texts(charts.histogram(np.array([0.0]), np.array([10.0]), threshold=None))


def test_text_is_escaped():
    line = charts.Line("<b>&", CurvePoints(np.array([0, 1]), np.array([0, 1])), "#000")
    assert "<b>&" in texts(charts.line_chart([line], x_label="<i>", y_label='"y"'))


def test_scores_that_differ_by_rounding_alone_share_one_tick():
    svg = charts.histogram(np.array([0.7]), np.array([np.nextafter(0.7, 1)]), threshold=None)
    labels = texts(svg)
    assert labels.count("0.7") <= 1 and {"0.4", "1"} <= set(labels)
