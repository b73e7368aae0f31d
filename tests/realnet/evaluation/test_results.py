import csv
import json
import math
import multiprocessing
import os
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from realnet.config import paths
from realnet.detection.calibration import Calibration
from realnet.detection.checkpoints import Subject
from realnet.drawing.heatmaps import Display
from realnet.evaluation.results import (
    GIVEN_POOL,
    CheckpointResult,
    ClassResult,
    ImageResult,
    Verdicts,
    collect,
    read_class,
    read_earlier,
    write_class,
    write_dataset,
)
from realnet.evaluation.scores import METRICS, Metric
from realnet.reporting.pages import write_dataset_page
from realnet.reporting.tables import PUBLISHED, console_lines, f1_text, tables, verdict_lines
from realnet.runtime.contents import checksums

WANTED = [Subject(name) for name in ("a", "b", "c")]
VALUES = {name: Metric(0.9 + index / 100) for index, name in enumerate(METRICS)}
VERDICTS = Verdicts(
    threshold=0.5, source="calibrated", missed=1, false_alarms=0, f1=0.8, best_f1=0.9, best_threshold=0.4
)


def checkpoint_result(protocol="last", *, path=None, **changes):
    values = {
        "protocol": protocol,
        "checkpoint": str(path or f"{protocol}.pth"),
        "modified_ns": path.stat().st_mtime_ns if path else 0,
        "step": 7,
        "metrics": VALUES,
        "calibration": Calibration(0.5, 0.4, 0.9, True, 3, 8),
        "display": Display(0.5, 0.4, 0.9),
        "threshold_note": "calibrated",
        "verdicts": VERDICTS,
        "images": (
            ImageResult(filename="a/test/hole/0.png", kind="hole", is_defect=True, score=math.nan),
            ImageResult(filename="a/test/good/0.png", kind="good", is_defect=False, score=0.25),
        ),
        "curves": {"pro": ((0.0, 0.3), (0.0, 1.0))},
        "fpr_limit": 0.3,
    }
    return CheckpointResult(**{**values, **changes})


def class_result(name="a", *checkpoints, dataset="MPDD", notes=()):
    return ClassResult(
        dataset=dataset,
        class_name=name,
        made="2026-01-02 03:04+00:00",
        notes=notes,
        checkpoints=checkpoints or (checkpoint_result(), checkpoint_result("best")),
        settings={"score_pool": 16},
    )


def test_a_class_is_read_as_it_was_written(tmp_path):
    weights = tmp_path / "ckpt_last.pth"
    weights.write_bytes(b"")
    written = class_result("a", checkpoint_result(path=weights))
    write_class(tmp_path, written)
    read = read_class(tmp_path)
    assert math.isnan(read.checkpoints[0].images[0].score)
    assert read.model_dump_json() == written.model_dump_json()
    assert json.loads((tmp_path / "metrics.json").read_text())["checkpoints"][0]["metrics"]["aupro"]["value"] == 0.92


@pytest.mark.parametrize("change", ["rewritten", "gone", "other version", "no file"])
def test_results_of_other_weights_are_not_read(tmp_path, change):
    weights = tmp_path / "ckpt_last.pth"
    weights.write_bytes(b"")
    write_class(tmp_path, class_result("a", checkpoint_result(path=weights)))
    assert read_class(tmp_path) is not None
    if change == "rewritten":
        os.utime(weights, ns=(0, 1))
    elif change == "gone":
        weights.unlink()
    elif change == "other version":
        (tmp_path / "metrics.json").write_text('{"dataset": "MPDD"}')
    else:
        (tmp_path / "metrics.json").unlink()
    assert read_class(tmp_path) is None


def test_other_weights_of_the_same_time_and_size_are_known_by_their_contents(tmp_path):
    weights = tmp_path / "ckpt_last.pth"
    weights.write_bytes(b"one")
    (checksum,) = checksums([weights], tmp_path)
    write_class(tmp_path, class_result("a", checkpoint_result(path=weights, checksum=checksum)))
    assert read_class(tmp_path) is not None
    before = weights.stat().st_mtime_ns
    weights.write_bytes(b"two")
    os.utime(weights, ns=(before, before))
    assert read_class(tmp_path) is None


@pytest.mark.parametrize("name", ["../../x.png", "/x.png", "a\\..\\..\\x.png"])
def test_results_that_name_files_outside_are_not_read(tmp_path, name):
    write_class(tmp_path, class_result())
    assert read_earlier(tmp_path) is not None
    path = tmp_path / "metrics.json"
    path.write_text(path.read_text().replace("a/test/hole/0.png", name.replace("\\", "\\\\")))
    assert read_earlier(tmp_path) is None
    path.write_bytes(b"\xff")
    assert read_earlier(tmp_path) is None


def test_collect_finds_the_classes_of_earlier_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "c"):
        weights = paths.output("MPDD", "realnet", "checkpoints", name) / paths.LAST
        weights.parent.mkdir(parents=True)
        weights.write_bytes(b"")
        write_class(paths.output("MPDD", "realnet", "vis", name), class_result(name, checkpoint_result(path=weights)))
    made = class_result("b")
    assert [one.class_name for one in collect("MPDD", WANTED, [made])] == ["a", "b", "c"]
    other = made.model_copy(update={"settings": {"score_pool": 8, GIVEN_POOL: "yes"}})
    assert [one.class_name for one in collect("MPDD", WANTED, [other])] == ["b"]
    own_pool = made.model_copy(update={"settings": {"score_pool": 8}})  # as each detector may choose it
    assert [one.class_name for one in collect("MPDD", WANTED, [own_pool])] == ["a", "b", "c"]


def test_a_datasets_files_hold_each_class_and_protocol_and_the_means(tmp_path):
    less = {**VALUES, "aupro": Metric(None, "no defect image has a mask")}
    other = class_result("b", checkpoint_result(metrics=less, verdicts=None))
    results = [class_result("a"), other]
    write_dataset(tmp_path, results)
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [(row["class"], row["protocol"]) for row in rows] == [
        ("a", "last"),
        ("a", "best"),
        ("b", "last"),
        ("mean", "last"),
        ("mean", "best"),
    ]
    assert float(rows[0]["image_auroc"]) == 0.9 and rows[0]["missed"] == "1" and rows[0]["step"] == "7"
    assert rows[0]["threshold_source"] == "calibrated"
    assert rows[2]["aupro"] == "" and rows[2]["threshold"] is None
    assert float(rows[3]["aupro"]) == 0.92
    whole = json.loads((tmp_path / "metrics.json").read_text())
    assert whole["classes"]["b"]["last"]["aupro"] == {"value": None, "reason": "no defect image has a mask"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv", "metrics.json"]


def test_evaluations_side_by_side_leave_whole_files(tmp_path, monkeypatch):
    """Both have written before either renames."""
    fork = multiprocessing.get_context("fork")
    meet = fork.Barrier(2)
    results = [class_result(name, checkpoint_result(checkpoint=f"weights/{name}/last.pth")) for name in ("a", "b")]

    def replace(path, target, whole_replace=Path.replace):
        meet.wait(30)
        return whole_replace(path, target)

    def evaluate():
        write_class(tmp_path / "a", results[0])
        write_dataset(tmp_path, results)
        write_dataset_page(tmp_path, results, ["a", "b"])

    monkeypatch.setattr(Path, "replace", replace)
    both = [fork.Process(target=evaluate) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert [one.exitcode for one in both] == [0, 0]
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")) == [
        "a/metrics.json",
        "metrics.csv",
        "metrics.json",
        "report.html",
    ]


def test_links_lead_to_classes_of_any_name(tmp_path):
    names = ["a b", "50%", "#1", "x:y", "Straße"]
    write_dataset_page(tmp_path, [class_result(name) for name in names], names)
    links = re.findall(r'href="([^"]+)"', (tmp_path / "report.html").read_text())
    assert [urlsplit(link)[:2] + urlsplit(link)[3:] for link in links] == [("", "", "", "")] * len(names)
    assert [unquote(urlsplit(link).path) for link in links] == [f"{name}/report.html" for name in names]


def test_published_means_stand_beside_whole_datasets_alone():
    results = [class_result("a"), class_result("b")]
    whole, part = tables(results, ["a", "b"])[0], tables(results, ["a", "b", "c"])[0]
    assert whole.mean["image_auroc"].published == PUBLISHED["MPDD"]["image_auroc"] == 0.963
    assert part.mean["image_auroc"].published is None
    assert tables(results[:1], ())[0].mean is None
    assert [table.protocol for table in tables(results, ())] == [
        "last step: no test data used",
        "best on the test split, as published",
    ]


def test_the_console_table_is_aligned_and_says_what_is_missing():
    less = {**VALUES, "aupro": Metric(None, "no masks"), "pixel_ap": Metric(None, "no masks")}
    results = [class_result("a"), class_result("longer", checkpoint_result(metrics=less))]
    lines = list(console_lines("MPDD", tables(results, ["a", "longer"])[0]))
    assert lines[0] == "MPDD, last step: no test data used (in %)"
    table = lines[1:6]
    assert len({len(line) for line in table}) == 1
    assert [line.split("  ")[0].strip() for line in table] == [
        "",
        "a",
        "longer",
        "mean of 2 classes",
        "published mean of all classes",
    ]
    assert table[2].split() == ["longer", "90.00", "91.00", "–", "93.00", "–", "95.00", "96.00"]
    assert table[4].split()[-7:] == ["96.3", "98.2", "–", "–", "–", "–", "–"]
    assert lines[6:] == ["longer: AUPRO, pixel AP not computed: no masks"]


def test_the_verdicts_are_told_with_the_best_possible():
    one = class_result("a", checkpoint_result(), notes=("2 defect images without a mask",))
    assert list(verdict_lines([one])) == [
        (
            "a, last: threshold 0.5 (calibrated): 1 of 1 defects missed, 0 false alarms on 1 normal images; "
            "F1 0.8000 at the threshold, the best possible 0.9000 at 0.4"
        ),
        "a: 2 defect images without a mask",
    ]
    only_normal = VERDICTS.model_copy(update={"f1": None, "best_f1": None, "best_threshold": None})
    assert f1_text(checkpoint_result(verdicts=only_normal)) == ""
    assert list(verdict_lines([class_result("a", checkpoint_result(verdicts=None))])) == []


def test_metrics_are_frozen():
    assert replace(VALUES["aupro"], value=None).value is None and VALUES["aupro"].value == 0.92
