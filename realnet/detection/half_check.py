"""Compare a detector in bfloat16 with itself in float32, on this computer's CPU (docs/bundle.md, bf16)."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from realnet.anomalies.probes import draw_probe
from realnet.data.images import Image, resize_image
from realnet.detection.detector import Detector
from realnet.detection.graph import plain_network
from realnet.detection.half import HalfCheck, processor
from realnet.detection.runtimes import TorchRuntime
from realnet.detection.timing import timed
from realnet.metrics.curves import image_curve
from realnet.runtime.packing import can_pack
from realnet.runtime.placement import make_ready
from realnet.runtime.precision import Precision
from realnet.runtime.randomness import generator


def check_half(detector: Detector, photographs: Sequence[Image]) -> HalfCheck | None:
    """Compare a detector in bfloat16 with itself in float32: first the time, then, if it is shorter, maps and scores.

    Args:
        detector: runs in torch, in float32, on the CPU.
        photographs: of what is normal, uint8 RGB (H, W, 3), of any size; drawn defects are added to copies of them.

    Returns:
        The comparison; None where the processor does not compute in bfloat16.

    Raises:
        UserError: as :func:`plain_network`.
    """
    if not can_pack(torch.bfloat16):
        return None
    half = in_half(detector)
    normal = [resize_image(photograph, detector.config.image_size) for photograph in photographs]
    exact_seconds, half_seconds = (timed(partial(one.judge, normal[0])) for one in (detector, half))
    check = HalfCheck(processor(), (exact_seconds, half_seconds))
    if half_seconds > exact_seconds:
        return check
    whole = np.ones(detector.config.image_size, np.bool_)
    drawn = [draw_probe(image, whole, generator("bf16", place))[0] for place, image in enumerate(normal)]
    pairs = [(detector.judge(image), half.judge(image)) for image in [*normal, *drawn]]
    labels = np.repeat([0, 1], len(normal))
    exact_auroc, half_auroc = (image_curve([pair[one][1] for pair in pairs], labels).auroc for one in (0, 1))
    apart = [float(np.abs(one[0] - other[0]).max()) for one, other in pairs]
    return replace(
        check, num_images=len(normal), median_map=float(np.median(apart)), image_auroc=(exact_auroc, half_auroc)
    )


def in_half(detector: Detector) -> Detector:
    """Return a detector that runs in torch, in float32, as one in bfloat16 on the CPU."""
    precision = Precision(torch.bfloat16, torch.device("cpu"))
    network = make_ready(plain_network(detector), precision, detector.config.runtime)
    return replace(detector, runtime=TorchRuntime(network, precision))
