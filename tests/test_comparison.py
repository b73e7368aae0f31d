"""Comparisons of detectors (``benchmarks/comparison.py``): what differs between variants, and their table."""

from benchmarks.comparison import DefectsToTrainOn, Variant, of_variant, table
from realnet.data.index import ClassIndex, Entry

TRAIN = tuple(Entry(f"nut/{number}.png", 0, "good", "nut") for number in range(30))
CUTS = tuple(Entry(f"nut/cut/{number}.png", 1, "defective", "nut", f"nut/gt/{number}.png") for number in range(4))
HOLE = Entry("nut/hole/0.png", 1, "defective", "nut")


def test_defects_to_train_on_leave_the_test_split():
    index = DefectsToTrainOn("cut", 3).moved(ClassIndex(TRAIN, (*CUTS, HOLE)))
    assert index == ClassIndex(TRAIN, (CUTS[3], HOLE), CUTS[:3])


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
