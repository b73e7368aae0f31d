"""The page of a prediction."""

import base64
import re
import shutil
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import cv2
import numpy as np
import tiny_detector
from prediction import TEST, predict, rows

from realnet.drawing.thumbnails import fit_peaks


def test_the_page_shows_every_photograph_and_needs_nothing_but_itself(tiny):
    tiny_detector.save("weave")
    Path("photos/a").mkdir(parents=True)
    evil = 'a/<script>"1&.png'
    for name in ("a/#1.png", evil):
        shutil.copy(TEST / "hole/000.png", Path("photos", name))
    assert predict("--input", "photos", "--output", "found", "--save", "page", "heatmaps") == 0
    html = Path("found/predictions.html").read_text(encoding="utf-8")
    entries = re.findall(r'data-file="(.*?)" data-score="(.*?)" data-regions="(.*?)" data-picture="(.*?)">(.*?)<', html)
    assert {unescape(name): float(score) for name, score, *_ in entries} == {
        name: float(row["image_score"]) for name, row in rows(Path("found")).items()
    }
    for _, _, _, link, data in entries:
        assert Path("found", unquote(link)).is_file()
        assert cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR).shape == (32, 64, 3)
    assert (
        'data-threshold="0.65"' in html
        and "default-src 'none'" in html
        and "http://" not in html.replace("http://www.w3.org", "")
    )
    assert html.count("<script") == 3
    predict("--input", "photos", "--output", "bare", "--save")
    assert sorted(path.name for path in Path("bare").iterdir()) == [
        ".detector",
        "predictions.csv",
        "predictions.jsonl",
    ]


def test_a_small_defect_is_outlined_on_the_page_too():
    anomaly_map = np.zeros((400, 600), np.float32)
    anomaly_map[201, 403] = 0.9
    small = fit_peaks(anomaly_map, (128, 192))
    assert small.shape == (128, 192) and small.max() == np.float32(0.9)
    row, column = np.unravel_index(small.argmax(), small.shape)
    assert abs(row - 64) <= 1 and abs(column - 129) <= 1
