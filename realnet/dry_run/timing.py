"""Say what a photograph in tiles costs: how long a network of the detector's layers, without its weights, takes."""

import time

import numpy as np
import torch

from realnet.config import RealNetConfig
from realnet.data.tiles import tiling_of
from realnet.detection.runtimes import Runtime, TorchRuntime
from realnet.dry_run.meter import gigabytes
from realnet.models.build import build_detector
from realnet.runtime.placement import make_ready
from realnet.runtime.precision import Precision

PHOTOGRAPH_BYTES = 3 + 2 * 4  # for each pixel of a photograph in tiles: its colours, and both maps in float32
ENLARGED_BYTES = 4  # for each pixel, of a map of the whole photograph


def tiles_facts(config: RealNetConfig, precision: Precision, exported: Runtime | None = None) -> dict[str, object]:
    """Return how many tiles a photograph is judged by, and the time and memory; nothing where it is seen whole."""
    if (tiling := tiling_of(config)) is None:
        return {}
    (height, width), (tile_height, tile_width) = tiling.image_size, tiling.size
    number = f"{len(tiling)} of {tile_height}x{tile_width} for a photograph of {height}x{width}"
    photograph = height * width * PHOTOGRAPH_BYTES
    if config.tiles and config.tiles.context:
        number += " and one of all of it"
        photograph += height * width * ENLARGED_BYTES
    return {
        "tiles": f"{number}, {config.evaluation.batch_size} at once, and {gigabytes(photograph)} beside them",
        "time": _time(config, precision, exported),
    }


def _time(config: RealNetConfig, precision: Precision, exported: Runtime | None) -> str:
    device = precision.device.type
    if exported is None and device == "cuda" and not torch.cuda.is_available():
        return "not measured: this machine has no GPU"
    seconds = seconds_a_photograph(config, exported or blank_runtime(config, precision))
    return f"{seconds:.2g} s a photograph, by the time of some tiles, in {exported.name if exported else device}"


def seconds_a_photograph(config: RealNetConfig, runtime: Runtime) -> float:
    """Return the seconds that the network takes for all tiles of a photograph.

    A batch of tiles is timed, or on a CPU, where a batch takes as long as its tiles one by one, a single tile. What
    sees the whole photograph takes as long as a tile, or less.
    """
    tiling = tiling_of(config)
    assert tiling is not None and config.tiles is not None
    is_parallel = isinstance(runtime, TorchRuntime) and runtime.precision.device.type != "cpu"
    number = min(config.evaluation.batch_size, len(tiling)) if is_parallel else 1
    tiles = [np.zeros((*tiling.size, 3), np.uint8)] * number
    runtime.maps(tiles)  # the first call also prepares the kernels
    start = time.perf_counter()
    runtime.maps(tiles)
    return (time.perf_counter() - start) / number * (len(tiling) + config.tiles.context)


def blank_runtime(config: RealNetConfig, precision: Precision) -> TorchRuntime:
    """Return a runtime whose network has the detector's layers, and zeros for weights."""
    network = build_detector(config, backbone_weights="none", only_backbone=True).to_empty(device="cpu")
    for values in (*network.parameters(), *network.buffers()):
        values.data.zero_()
    settings = config.runtime.model_copy(update={"compile": False})  # which takes minutes
    return TorchRuntime(make_ready(network, precision, settings), precision)
