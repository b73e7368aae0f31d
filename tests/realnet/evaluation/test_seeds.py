import json
import statistics
from pathlib import Path

import pytest

from realnet.config import paths
from realnet.detection.calibration import Calibration
from realnet.drawing.heatmaps import Display
from realnet.evaluation import cards
from realnet.evaluation.cards import find_results, spread_text
from realnet.evaluation.results import CheckpointResult, ClassResult
from realnet.evaluation.scores import METRICS, Metric
from realnet.evaluation.seeds import sum_up, write_seeds
from realnet.reporting.tables import console_lines, tables


def result(class_name, seed, value, *, reason=None, is_unified=False, made_with=None, chosen=None):
    """Every metric of a class with a seed has this value."""
    checkpoint = CheckpointResult(
        protocol="last",
        checkpoint=f"{class_name}-{seed}.pth",
        modified_ns=0,
        step=4,
        metrics=dict.fromkeys(METRICS, Metric(value, reason)),
        calibration=Calibration(0.5, 0.4, 0.9, True, 3, 8),
        display=Display(0.5, 0.4, 0.9),
        threshold_note="",
        verdicts=None,
        images=(),
        curves={},
        fpr_limit=0.3,
        made_with=made_with or {"steps": "4"},
        chosen=chosen or {},
    )
    facts = {"dataset": "MPDD", "made": "today", "notes": (), "checkpoints": (checkpoint,), "settings": {}}
    return ClassResult(class_name=class_name, seed=seed, is_unified=is_unified, **facts)


def rows_of(results, classes=("a", "b")):
    return {name: row for table in tables(results, classes) for name, row in table.rows.items()}


def test_the_spread_of_the_mean_is_that_of_each_seeds_mean():
    values = {"a": (0.9, 0.8, 0.7), "b": (0.5, 0.6, 0.8)}
    results = [result(name, seed, value) for name, found in values.items() for seed, value in enumerate(found)]
    rows = rows_of(results)
    means = [0.7, 0.7, 0.75]
    expected = {"a": values["a"], "b": values["b"], "mean of 2 classes": means}
    for name, found in expected.items():
        row = rows[f"{name}, mean ± spread of 3 seeds"]["aupro"]
        assert (row.value, row.spread) == pytest.approx((statistics.mean(found), statistics.stdev(found)))
    assert rows["mean of 2 classes, seed 2"]["image_auroc"].published == 0.963
    assert "80.00 ± 10.00" in "\n".join(console_lines("MPDD", tables(results, ["a", "b"])[0]))


def test_a_metric_that_one_seed_lacks_has_no_mean():
    results = [result("a", 0, 0.9), result("a", 1, None, reason="NaN"), result("b", 0, 0.5), result("b", 1, 0.6)]
    rows = rows_of(results)
    found = rows["a, mean ± spread of 2 seeds"]["aupro"]
    assert (found.value, found.reason) == (None, "seed 1: NaN")
    whole = rows["mean of 2 classes, mean ± spread of 2 seeds"]["aupro"]
    assert whole.value is None and "other seeds only" in whole.reason
    assert rows["mean of 2 classes, seed 0"]["aupro"].value == pytest.approx(0.7)


def test_a_metric_that_a_class_never_has_does_not_take_the_others_mean():
    results = [result(name, seed, None if name == "b" else 0.8 + seed / 10) for name in "ab" for seed in (0, 1)]
    assert rows_of(results)["mean of 2 classes, mean ± spread of 2 seeds"]["aupro"].value == pytest.approx(0.85)


def test_classes_without_a_common_seed_have_rows_but_no_mean():
    rows = rows_of([result("a", 0, 0.9), result("b", 1, 0.8)])
    assert list(rows) == ["a, seed 0", "b, seed 1"]


def test_detectors_that_differ_in_more_than_the_seed_have_no_mean_wherever_they_come_together(tmp_path):
    others = [result("a", 0, 0.9), result("a", 1, 0.8, made_with={"steps": "5"})]
    results = [*others, result("b", 0, 0.5), result("b", 1, 0.6)]
    rows = rows_of(results)
    for name in ("a", "mean of 2 classes"):
        found = rows[f"{name}, mean ± spread of 2 seeds"]["aupro"]
        assert found.value is None and "differ in more than the seed (steps 4 and 5)" in found.reason
    assert rows["b, mean ± spread of 2 seeds"]["aupro"].value == pytest.approx(0.55)
    assert spread_text("last", others).startswith("none: the detectors of seeds 0 and 1 differ in more than the seed")
    write_seeds(tmp_path, results)
    assert "\na,last,mean,,,,,,,\n" in (tmp_path / "metrics_seeds.csv").read_text()


def test_what_each_detector_chose_is_said_where_their_mean_is():
    results = [result("a", seed, 0.9, chosen={"signals": "logit", "pool": str(seed)}) for seed in (0, 1)]
    (table,) = tables(results, ["a", "b"])
    said = "a: each detector chose pool 0 (seed 0), 1 (seed 1)"
    assert list(table.notes) == [said] and said in list(console_lines("MPDD", table))
    assert table.rows["a, mean ± spread of 2 seeds"]["aupro"].value == pytest.approx(0.9)
    assert "each chose pool 0 (seed 0), 1 (seed 1)" in spread_text("last", results)


def test_one_seed_has_no_spread(tmp_path):
    results = [result("a", 0, 0.9)]
    assert (
        spread_text("last", results) == "" and sum_up(results).classes["a"]["last"].over_seeds["aupro"].spread is None
    )
    write_seeds(tmp_path, results)
    lines = (tmp_path / "metrics_seeds.csv").read_text().splitlines()
    assert lines[1].startswith("a,last,0,0.900000") and lines[3].startswith("a,last,spread,,")


def test_unified_detectors_stand_apart_and_beside(tmp_path):
    own = [result(name, seed, 0.9) for name in "ab" for seed in (0, 1)]
    unified = [result(name, seed, 0.6 + seed / 10, is_unified=True) for name in "ab" for seed in (0, 1)]
    beside = tables(unified, ["a", "b"], [*own, *unified])[-1]
    assert beside.rows["a detector for each class, last step"]["aupro"].percent() == "90.00 ± 0.00"
    assert beside.rows["unified, last step"]["aupro"].percent() == "65.00 ± 7.07"
    write_seeds(tmp_path, [*own, *unified])
    stored = json.loads((tmp_path / "metrics_seeds.json").read_text())
    assert stored["unified"]["classes"]["b"]["last"]["seeds"]["1"]["aupro"]["value"] == pytest.approx(0.7)
    assert "\nunified/mean,last,spread,0.070711" in (tmp_path / "metrics_seeds.csv").read_text()


def test_the_card_of_a_classs_own_detector_has_the_spread_of_its_own_seeds(monkeypatch):
    own, joint = (paths.output("MPDD", "realnet", "vis") / part for part in ("a", "unified/a"))
    found = {
        folder / f"seed_{seed}": result("a", seed, value, is_unified=folder == joint).model_copy(
            update={"settings": {"score_pool": 1}}
        )
        for folder, values in ((own, (0.9, 0.8)), (joint, (0.5, 0.4)))
        for seed, value in enumerate(values)
    }
    monkeypatch.setattr(Path, "glob", lambda folder, _: [path for path in found if path.parent == folder])
    monkeypatch.setattr(cards, "read_class", found.get)
    shown = find_results(Path("a-0.pth"), "MPDD", "a", score_pool=1)
    assert shown is not None and "aupro 0.8500 ± 0.0707" in str(shown.rows())
