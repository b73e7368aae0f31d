import re
import tracemalloc
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from realnet.drawing.heatmaps import Display
from realnet.errors import UserError
from realnet.metrics.curves import CurvePoints
from realnet.reporting.gallery import Item, Views
from realnet.reporting.report import ClassReport, ReportData, Result, ResultTable, write_report

DIAGONAL = CurvePoints(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
ROW = {"image_auroc": Result(0.98765, published=0.996), "aupro": Result(None, "no masks")}


def pictures(side=32):
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.uint8)
    return Views(noise, np.full((side, side), 0.5), np.ones((side, side), bool))


def items(count=4, load=pictures):
    return [Item(f"crack/{i}.png", "crack" if i % 2 else "good", bool(i % 2), i / 4, load) for i in range(count)]


def class_report(name="tile", **changes):
    return replace(
        ClassReport(
            name, "ckpt_last.pth", "last", items(), Display(0.5, 0.5, 1.0), "calibrated", DIAGONAL, DIAGONAL, DIAGONAL
        ),
        **changes,
    )


def report(classes, **changes):
    table = ResultTable("last epoch: no test data used", {one.class_name: ROW for one in classes})
    return replace(ReportData("magnetic", [table], classes), **changes)


def written(tmp_path, data):
    write_report(tmp_path / "report.html", data)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


class Balance(HTMLParser):
    """Follow the open elements; a void element has no end."""

    VOID = frozenset({"meta", "img", "rect", "line", "polyline"})

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def parsed(html):
    parser = Balance()
    parser.feed(html)
    assert not parser.open
    return parser


def test_the_page_is_whole_and_needs_nothing_beside_it(tmp_path):
    html = written(tmp_path, report([class_report()], notes=["written today"]))
    page = parsed(html)
    assert all(link.startswith("data:image/") for link in page.links) and page.links
    assert "url(" not in html and "@import" not in html
    assert page.tags.count("article") == 4 and page.tags.count("svg") == 3
    assert "written today" in html and "ckpt_last.pth" in html and "calibrated" in html
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_the_table_shows_ours_published_and_why_not(tmp_path):
    html = written(tmp_path, report([class_report()]))
    assert "<td>98.77<small>99.6</small></td><td>–</td>" in html
    assert "tile: AUPRO not computed: no masks" in html


def test_several_classes_have_a_mean_and_links_to_their_pages(tmp_path):
    best = {"protocol": "best on the test split", "checkpoint": "b/ckpt_best.pth"}
    classes = [class_report("a", gallery_page="a/report.html"), class_report("b", items=[], **best)]
    table = ResultTable("best on the test split, as published", {"a": ROW, "b": ROW}, mean={"image_auroc": Result(0.5)})
    html = written(tmp_path, report(classes, tables=[table]))
    page = parsed(html)
    assert re.search(r'class="mean"><th>mean of 2 classes</th><td>50\.00</td><td>–</td>', html)
    assert page.links == ["a/report.html"] and "article" not in page.tags
    assert "2 classes" in html
    assert re.search(
        r"<h2>a</h2>.*last: ckpt_last\.pth.*<h2>b</h2>.*best on the test split: b/ckpt_best\.pth", html, re.DOTALL
    )


def test_the_curve_of_the_diffusion_model_and_its_verdict_stand_in_the_page(tmp_path):
    health = [
        {"step": 100, "relative_error": 0.4, "sample_distance": 8.0},
        {"step": 200, "relative_error": 0.05, "sample_distance": 4.0},
    ]
    html = written(tmp_path, report([class_report()], health=health))
    part = html[html.index('id="diffusion"') : html.index('id="class-0"')]
    assert parsed(html).tags.count("svg") == 4
    assert "not ready: train longer; round-trip error 0.050" in part
    heights = [[float(pair.split(",")[1]) for pair in points.split()] for points in re.findall(r'points="(.*?)"', part)]
    low, top = 270 - 44, 40  # of the frame: 0 and 1
    assert heights == [
        [pytest.approx(low - share * (low - top), abs=0.06) for share in line] for line in ((0.25, 1), (0.25, 0.5))
    ]
    assert 'id="diffusion"' not in written(tmp_path, report([class_report()]))


def test_the_summary_counts_errors(tmp_path):
    html = written(tmp_path, report([class_report()]))  # defects at 0.25 and 0.75, normal at 0 and 0.5
    assert "2 normal and 2 defect images. At the threshold 0.5: 1 of 2 defects missed, 1 false alarms on 2" in html


def test_what_is_missing_leaves_the_page_whole(tmp_path):
    bare = class_report(display=Display(None, None, 1.0), image_roc=None, pixel_roc=None, pro=None, threshold_note="")
    html = written(tmp_path, report([bare]))
    assert parsed(html).tags.count("svg") == 1
    assert "no image threshold" in html


def test_everything_a_user_names_is_escaped(tmp_path):
    evil = "<script>alert(1)</script>\"'&"
    tables = [ResultTable(evil, {evil: {evil: Result(None, evil)}})]
    one = class_report(evil, checkpoint=evil, protocol=evil, threshold_note=evil, gallery_page=evil)
    html = written(tmp_path, report([one], dataset=evil, notes=[evil], tables=tables))
    assert html.count("<script") == 1 and parsed(html).tags.count("script") == 1


def test_a_page_that_fails_leaves_the_old_one(tmp_path):
    old = written(tmp_path, report([class_report()]))

    def unreadable():
        raise UserError("gone")

    with pytest.raises(UserError, match="gone"):
        written(tmp_path, report([class_report(items=items(load=unreadable))]))
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == old
    assert len(list(tmp_path.iterdir())) == 1


def test_memory_does_not_grow_with_the_images(tmp_path):
    def peak(count):
        tracemalloc.start()
        write_report(tmp_path / "r.html", report([class_report(items=items(count, lambda: pictures(256)))]))
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak_bytes

    few = peak(4)
    assert peak(24) < 1.2 * few
