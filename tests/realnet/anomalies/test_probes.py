import numpy as np

from realnet.anomalies.foreground import foreground_mask
from realnet.anomalies.probes import CONTRAST, draw_probe
from realnet.config import ForegroundRule

GREY = np.full((64, 96, 3), 128, np.uint8)


def drawn(seed, image=GREY, foreground="full"):
    return draw_probe(image, foreground_mask(image, foreground), np.random.default_rng(seed))


def test_a_probe_changes_the_image_where_its_mask_is():
    before = GREY.copy()
    for seed in range(30):
        image, mask = drawn(seed)
        change = np.abs(image.astype(int) - GREY)
        assert mask.any() and mask.mean() < 0.2
        assert change[mask].min() >= 0.35 * CONTRAST[0] and change.max() <= CONTRAST[1]
        assert change[mask].mean() > 10 * change[~mask].mean()
    assert (before == GREY).all()


def test_probes_differ_and_are_fixed_by_the_seed():
    assert len({drawn(seed)[0].tobytes() for seed in range(10)}) == 10
    assert np.array_equal(drawn(3)[0], drawn(3)[0])


def test_probes_lie_on_the_foreground():
    image = np.zeros_like(GREY)
    image[:, 48:] = 200
    rule = ForegroundRule(threshold="otsu", polarity="bright")
    for seed in range(20):
        changed, mask = drawn(seed, image, rule)
        assert not mask[:, :47].any() and (changed[:, :47] == 0).all()


def test_without_foreground_there_is_no_probe():
    image, mask = draw_probe(GREY, np.zeros(GREY.shape[:2], bool), np.random.default_rng(0))
    assert not mask.any() and (image == GREY).all()
