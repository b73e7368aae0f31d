"""Photographs in tiles that are judged as a whole, too."""

import numpy as np
import pytest
import torch
import yaml
from alone import ALONE, FP32
from conftest import TINY

from realnet.config import RealNetConfig
from realnet.detection.context import fit_context
from realnet.detection.runtimes import TorchRuntime
from realnet.detection.tiling import TileJudge
from realnet.models.build import build_detector

PLACES = [(16, 24), (16, 112), (112, 24), (112, 112)]
CHANGES = {
    "image_size": 192,
    "tiles": {"size": 64, "overlap": 0, "context": True},
    "calibration": {"holdout_fraction": 0.2},
    "evaluation": {"score_pool": 4},
}
BY_TILES = TileJudge.of(RealNetConfig.model_validate({**yaml.safe_load(TINY["realnet"]), **CHANGES}), "full")


def board(number, *, missing=None):
    """A grey board of 192 pixels with a dark part of 56 at each of four places, a little off."""
    rng = np.random.default_rng(number)
    image = rng.integers(150, 170, (192, 192, 3))
    for index, place in enumerate(PLACES):
        row, column = np.add(place, rng.integers(-3, 4, 2))
        if index != missing:
            image[row : row + 56, column : column + 56] = rng.integers(40, 60, (56, 56, 3))
    return image.astype(np.uint8)


HELD_OUT = [board(number) for number in range(100, 104)]


def network():
    torch.manual_seed(0)
    config = RealNetConfig.model_validate({**yaml.safe_load(TINY["realnet"]), **CHANGES})
    return build_detector(config).eval()


@pytest.fixture(scope="module")
def fitted():
    """A network whose whole pass has seen twelve boards, and four more that it is held against."""
    model, normal = network(), (BY_TILES.tiling.shrink(board(number)) for number in range(12))
    fit_context(model, normal, HELD_OUT, by_tiles=BY_TILES, ridge=1e-3, world=ALONE)
    return TorchRuntime(model, FP32)


def fine(image, runtime):
    return BY_TILES.blended(image, BY_TILES.corners(image), runtime)[0]


@pytest.mark.parametrize("part", range(4))
def test_a_missing_part_is_found_where_it_should_be(fitted, part):
    good = max(BY_TILES.judge(board(number), fitted).score for number in (200, 201))
    anomaly_map, score, _ = BY_TILES.judge(board(300, missing=part), fitted)
    assert score > good + 0.05
    worst = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
    assert [int(place) // 96 for place in worst] == [place // 96 for place in PLACES[part]]  # in its quarter


def test_both_passes_have_one_unit_on_good_photographs(fitted):
    by_tiles = np.array([fine(image, fitted).max() for image in HELD_OUT])
    whole = np.array([fitted.context(BY_TILES.tiling.shrink(image)).max(axis=(1, 2)) for image in HELD_OUT])
    np.testing.assert_allclose(whole[:, 0], whole[:, 1], atol=1e-6)  # one anomaly map, which is the scored one
    logits = [np.log(values / (1 - values)).mean() for values in (by_tiles, whole[:, 0])]
    assert logits[0] == pytest.approx(logits[1], abs=0.1)


def test_until_it_is_fitted_it_changes_nothing():
    runtime, image = TorchRuntime(network(), FP32), board(0)
    np.testing.assert_array_equal(BY_TILES.judge(image, runtime).anomaly_map, fine(image, runtime))
