"""Comparisons of detectors (``benchmarks/comparison.py``): what differs between variants, and their table."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.comparison import METRICS, DefectsToTrainOn, Variant, of_variant, scores_of, table
from realnet.data.images import NON_ZERO, write_image
from realnet.data.index import ClassIndex, Entry
from realnet.data.registry import open_dataset
from realnet.evaluation.run import TestSplits, evaluate_checkpoint
from realnet.runtime.distributed import join_world
from tests import tiny_detector

TRAIN = tuple(Entry(f"nut/{number}.png", 0, "good", "nut") for number in range(30))
CUTS = tuple(Entry(f"nut/cut/{number}.png", 1, "defective", "nut", f"nut/gt/{number}.png") for number in range(4))
HOLE = Entry("nut/hole/0.png", 1, "defective", "nut")


def test_defects_to_train_on_leave_the_test_split():
    index = DefectsToTrainOn("cut", 3).moved(ClassIndex(TRAIN, (*CUTS, HOLE)), Path("absent"), NON_ZERO)
    assert index == ClassIndex(TRAIN, (CUTS[3], HOLE), CUTS[:3])


def test_so_do_their_other_photographs(tmp_path):
    for number, entry in enumerate((*TRAIN, *CUTS[:3])):
        image = np.random.default_rng(number).integers(0, 200, (64, 64, 3)).astype(np.uint8)
        if entry.label:
            image[20:30, 30:36] = 255
            write_image(tmp_path / entry.maskname, np.all(image == 255, axis=2))
        write_image(tmp_path / entry.filename, image)
    write_image(tmp_path / HOLE.filename, image[:, ::-1])  # the last cut, mirrored
    index = DefectsToTrainOn("cut", 2).moved(ClassIndex(TRAIN, (*CUTS[1:3], CUTS[0], HOLE)), tmp_path, NON_ZERO)
    assert index == ClassIndex(TRAIN, (CUTS[0],), CUTS[1:3])


def test_fewer_images_are_among_more():
    few, more = (set(of_variant(ClassIndex(TRAIN, ()), Variant("few", (), number)).train) for number in (5, 12))
    assert len(few) == 5 and len(more) == 12 and few < more < set(TRAIN)


def test_the_table_compares_seed_by_seed():
    found = {
        "self": {"image_auroc": {0: 90.0, 1: 80.0}, "aupro": {0: 70.0, 1: 70.0}},
        "sdas": {"image_auroc": {0: 92.0, 1: 84.0}, "aupro": {0: 71.0, 1: 69.0}},
    }
    lines = table(found).splitlines()
    assert lines[2] == "| self | 85.0 ± 7.1 | 70.0 ± 0.0 |  |"
    assert lines[3] == "| sdas | 88.0 ± 5.7 | 70.0 ± 1.4 | +3.0 ± 1.4 (better in 2 of 2) |"


def test_detectors_score_as_in_the_evaluation(tiny):
    path, config, dataset = tiny_detector.save("weave", of_seed=1), tiny_detector.config(), open_dataset("tiny")
    with join_world("cpu", "auto") as world:
        found = scores_of(dataset, "weave", 1, world)
        splits = TestSplits(dataset, "weave", config, world)
        expected, _ = evaluate_checkpoint("last", path, splits, config=config, world=world, folder=path.parent)
    assert {name: found[name] for name in METRICS} == {name: expected.metrics[name].value for name in METRICS}
    kinds = [name for name in found if name not in METRICS]
    assert kinds == [f"image_auroc of {kind}" for kind in ("fibre", "hole", "stain")]
    assert np.mean([found[kind] for kind in kinds]) == pytest.approx(found["image_auroc"])  # one image of each
