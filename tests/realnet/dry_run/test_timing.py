"""The time that --dry-run states of a photograph in tiles."""

import numpy as np
import pytest
import tiny_detector
import torch
from alone import FP32

from realnet.config import RealNetConfig
from realnet.dry_run import timing
from realnet.runtime.precision import Precision

NUM_TILES = 6


def tiled() -> RealNetConfig:
    values = tiny_detector.config().model_dump(mode="json")
    return RealNetConfig.model_validate({**values, "image_size": [48, 72], "tiles": {"size": 32}})


class Slow:
    """Takes ten seconds for its first call, and then two for each tile, by a clock of its own."""

    name, clock = "slow", 0.0

    def maps(self, tiles):
        self.clock += 2 * len(tiles) if self.clock else 10
        return (np.zeros((len(tiles), 32, 32), np.float32),)


def test_the_time_of_a_photograph_is_that_of_its_tiles(tiny, monkeypatch):
    slow = Slow()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: slow.clock)
    assert timing.seconds_a_photograph(tiled(), slow) == 2 * NUM_TILES


@pytest.mark.parametrize("precision", [FP32, Precision(torch.bfloat16, torch.device("cpu"))])
def test_a_network_without_weights_takes_tiles(tiny, precision):
    (maps,) = timing.blank_runtime(tiled(), precision).maps([np.zeros((32, 32, 3), np.uint8)] * 2)
    assert maps.shape == (2, 32, 32)
