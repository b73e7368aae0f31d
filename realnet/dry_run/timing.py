"""Measure how long a detector takes for a photograph in tiles, by a network of its layers without its weights."""

import time

import numpy as np

from realnet.config import RealNetConfig
from realnet.data.tiles import tiling_of
from realnet.detection.runtimes import Runtime, TorchRuntime
from realnet.models.build import build_detector
from realnet.runtime.placement import make_ready
from realnet.runtime.precision import Precision


def seconds_a_photograph(config: RealNetConfig, runtime: Runtime) -> float:
    """Return the seconds that the network takes for all tiles of a photograph.

    A batch of tiles is timed, or on a CPU, where a batch takes as long as its tiles one by one, a single tile.
    """
    tiling = tiling_of(config)
    assert tiling is not None
    is_parallel = isinstance(runtime, TorchRuntime) and runtime.precision.device.type != "cpu"
    number = min(config.evaluation.batch_size, len(tiling)) if is_parallel else 1
    tiles = [np.zeros((*tiling.size, 3), np.uint8)] * number
    runtime.maps(tiles)  # the first call also prepares the kernels
    start = time.perf_counter()
    runtime.maps(tiles)
    return (time.perf_counter() - start) / number * len(tiling)


def blank_runtime(config: RealNetConfig, precision: Precision) -> TorchRuntime:
    """Return a runtime whose network has the detector's layers, and zeros for weights."""
    network = build_detector(config, backbone_weights="none", only_backbone=True).to_empty(device="cpu")
    for values in (*network.parameters(), *network.buffers()):
        values.data.zero_()
    settings = config.runtime.model_copy(update={"compile": False})  # which takes minutes
    return TorchRuntime(make_ready(network, precision, settings), precision)
