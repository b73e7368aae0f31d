"""Round an exported network to 8 bits, with NNCF (docs/bundle.md, int8)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from realnet.data.images import Image
from realnet.detection.runtimes import import_extra, openvino_core
from realnet.detection.seal import read_description, write_openvino

ROUNDED_PARTS = ("model.backbone.", "model.recon.", "model.rrs.")
"""Whose convolutions compute in 8 bits. Normal statistics, distances, fusion and what joins the layers stay in float32:
a distance is a small difference of large numbers."""
CONVOLUTIONS = frozenset({"Convolution", "GroupConvolution", "ConvolutionBackpropData"})


def write_int8(source: Path, path: Path, images: Sequence[Image]) -> None:
    """Write an exported network with convolutions in 8 bits, by the ranges of their inputs over some images.

    Args:
        source: the network in float32, ``.xml``.
        path: ``.xml``, which gets a ``.bin`` beside it.
        images: normal images or tiles of the network's size, uint8 RGB (H, W, 3).

    Raises:
        UserError: if NNCF is not installed.
    """
    nncf = import_extra("nncf")
    network = openvino_core().read_model(source)
    kept = [operation.get_friendly_name() for operation in network.get_ops() if not _is_rounded(operation)]
    rounded = nncf.quantize(
        network,
        nncf.Dataset(list(images), _batch),
        subset_size=len(images),
        ignored_scope=nncf.IgnoredScope(names=kept, validate=False),
    )
    write_openvino(rounded, path, read_description(source))


def add_to_description(source: Path, path: Path, values: Mapping[str, Any]) -> None:
    """Write an OpenVINO file as another one, with more values in its description."""
    described = {**json.loads(read_description(source)), **values}
    write_openvino(openvino_core().read_model(source), path, json.dumps(described))


def _batch(image: Image) -> Image:
    return np.asarray(image[None])


def _is_rounded(operation: Any) -> bool:
    """Tell whether an operation is a convolution of ``ROUNDED_PARTS``: weights keep their names in the export."""
    sources = (value.get_source_output().get_node() for value in operation.inputs())
    return operation.get_type_name() in CONVOLUTIONS and any(
        source.get_friendly_name().startswith(ROUNDED_PARTS) for source in sources
    )
