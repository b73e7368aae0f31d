"""Export a detector for other machines: as a bundle, or as a network for ONNX Runtime and OpenVINO."""

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from realnet.data.images import Image, resize_image
from realnet.data.tiles import Tiling, tiling_of
from realnet.detection import bundle, seal
from realnet.detection.description import describe
from realnet.detection.detector import Detector
from realnet.detection.graph import ExportedNetwork, Sizes, plain_network, write_onnx
from realnet.detection.half import HALF, HalfCheck
from realnet.detection.runtimes import CONTEXT, choose_runtime, import_extra, installed_readers
from realnet.detection.timing import timed
from realnet.errors import UserError
from realnet.models.checkpoint import Checkpoint
from realnet.runtime.files import refusing

Format = Literal["bundle", "onnx", "openvino"]
SUFFIXES: Mapping[Format, str] = {"bundle": bundle.SUFFIX, "onnx": ".onnx", "openvino": ".xml"}
TOLERANCE = 1e-3
"""Largest difference from torch of an exported network's maps and scores."""
RESIZING = "before the network, by Pillow's antialiased bilinear filter (PIL.Image.Resampling.BILINEAR)"


@dataclass(frozen=True)
class Parity:
    """The largest differences between torch and an exported network, over some images, and what one takes.

    Attributes:
        anomaly_map, image_score: the differences.
        num_images: how many images were compared, each at every one of ``sizes``.
        sizes: (height, width) that they were compared at.
        runtime: the package that ran the exported network.
        seconds: of one image by itself, the fastest of several.
    """

    anomaly_map: float
    image_score: float
    num_images: int
    sizes: Sequence[tuple[int, int]]
    runtime: str
    seconds: float = math.nan

    def __str__(self) -> str:
        largest = f"at most {self.anomaly_map:.1e} in maps and {self.image_score:.1e} in scores"
        sizes = " and ".join(f"{height}x{width}" for height, width in self.sizes)
        return f"{self.runtime} differs from torch by {largest}, over {self.num_images} images of {sizes} pixels"


def export_bundle(
    detector: Detector,
    path: Path,
    *,
    with_backbone: bool = True,
    storage: bundle.Storage = "float32",
    texts: Mapping[str, str] | None = None,
    half: HalfCheck | None = None,
) -> None:
    """Write a detector as a bundle (docs/bundle.md).

    Args:
        detector: runs in torch, in float32.
        path: the file; an existing one is replaced.
        with_backbone: store the backbone's weights too, so that the bundle needs nothing else.
        storage: bfloat16 rounds the weights of layers, which halves their space.
        texts: further files for people, by name.
        half: how the detector in bfloat16 compares with itself, by which ``precision: auto`` chooses on a CPU; None:
            that was not measured.

    Raises:
        UserError: as :func:`plain_network`, if the detector gives NaN, and if the file cannot be written.
    """
    network = plain_network(detector)
    detector.predict(np.zeros((*detector.config.image_size, 3), np.uint8))
    state = network.state_dict() if with_backbone else network.trainable_state()
    stored = as_stored(detector, bundle.rounded(state) if storage == "bfloat16" else state)
    if half:
        stored = replace(stored, facts={**stored.facts, HALF: asdict(half)})
    bundle.write(path, stored, texts=texts)


def export_network(
    detector: Detector, path: Path, *, images: Sequence[Image], dynamic_size: bool = False
) -> list[Parity]:
    """Write a detector for ONNX Runtime or OpenVINO, and compare it with torch in every runtime that is installed.

    The network takes uint8 RGB images (B, H, W, 3) of the detector's size, for any B, and gives anomaly maps (B, H, W)
    and image scores (B,). Of a detector that sees photographs in tiles it takes tiles; cutting and blending stay
    outside (:class:`ExportedNetwork`). Its metadata hold what a bundle's description holds, and those of ONNX how long
    each runtime took for an image, by which :meth:`Detector.load` chooses.

    Args:
        detector: runs in torch, in float32, on the CPU.
        path: ``.onnx``, or ``.xml`` for OpenVINO, which gets a ``.bin`` beside it; existing files are replaced.
        images: photographs to compare on, uint8 RGB (H, W, 3), of any size.
        dynamic_size: the network takes images of other sizes too (:class:`Sizes`), and is compared at two.

    Raises:
        UserError: as :func:`plain_network` and :meth:`Sizes.of`; if the packages of the extra ``export`` are not
            installed; if a runtime differs from torch by more than ``TOLERANCE`` (nothing is written then), or the file
            cannot be written.
    """
    config, tiling = detector.config, tiling_of(detector.config)
    network = ExportedNetwork(plain_network(detector), config.evaluation.pool, of_tiles=tiling is not None).eval()
    sizes = Sizes.of(detector) if dynamic_size else None
    about: dict[str, Any] = {"input": [*config.input_size, 3], "resizing": RESIZING}
    if tiling:
        about["tiles"] = _describe(tiling)
    if sizes:
        about["sizes"] = asdict(sizes)
    describe_with = partial(describe, as_stored(detector, {}), **about)
    small = [resize_image(image, config.image_size) for image in images]
    if tiling:
        small = [tiling.cut(image, tiling.corners[len(tiling) // 2]) for image in small]
    other = [resize_image(image, sizes.other(config.image_size)) for image in images] if sizes else []
    with refusing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            graph, made = Path(folder, "graph.onnx"), Path(folder, path.name)
            write_onnx(network, config.input_size, graph, sizes)
            if path.suffix == ".onnx":
                graph.replace(made)
            else:
                seal.write_openvino(import_extra("openvino").convert_model(graph), made, describe_with())
            found = _compare(network, made, [small, *filter(None, [other])])
            if made.suffix == ".onnx":  # which several runtimes read
                torch_seconds = timed(lambda: detector.runtime.judge(small[:1], network.pool))
                seconds = {"torch": torch_seconds, **{parity.runtime: parity.seconds for parity in found}}
                seal.write_onnx(made, describe_with(seconds=seconds))
            graph.unlink(missing_ok=True)
            for file in sorted(Path(folder).iterdir()):  # the weights before the network that names them
                file.replace(path.parent / file.name)
    return found


def as_stored(detector: Detector, state: Mapping[str, Tensor]) -> Checkpoint:
    """Return a detector as it is used here, to be stored: its settings, and the thresholds that hold for them."""
    left_out = {HALF, *(() if detector.calibration else ("recalibration", "calibrations"))}
    facts = {key: value for key, value in detector.facts.items() if key not in left_out}
    if "calibrations" not in facts:  # which are of each class, and stay whatever class this detector is for here
        facts["calibration"] = detector.calibration and asdict(detector.calibration)
    return Checkpoint(
        kind="realnet",
        state_dict=state,
        dataset=detector.dataset,
        classes=(detector.class_name,) if detector.class_name else None,
        class_name=detector.class_name,
        config=detector.config.model_dump(mode="json"),
        facts=facts,
    )


def _describe(tiling: Tiling) -> dict[str, Any]:
    """Return how the tiles of a photograph are cut, and what joins their maps."""
    return {
        "photograph": list(tiling.image_size),
        "rows": tiling.starts(0),
        "columns": tiling.starts(1),
        "blending": "mean weighted by sin² ramps over the overlaps; with tiles.context, each pixel has the larger of "
        "this and the context map (the first is for the anomaly map, the second for the scored one) of the photograph "
        "at a tile's size, enlarged; the image score is that of the blended scored map, its largest mean over a window "
        "of evaluation.score_pool pixels",
    }


def _compare(network: ExportedNetwork, path: Path, batches: Sequence[Sequence[Image]]) -> list[Parity]:
    """Compare an exported network with torch on batches of the same images, each of one size."""
    expected = [network.judge(batch) for batch in batches]
    whole = network.arrays(batches[0][:1]).get(CONTEXT)
    sizes = [(batch[0].shape[0], batch[0].shape[1]) for batch in batches]
    found = []
    for runtime in installed_readers(path):
        exported = choose_runtime(path, runtime)(path)
        pairs = list(zip(expected, (exported.judge(batch, network.pool) for batch in batches), strict=True))
        maps, scores = (float(np.max([_apart(one[part], other[part]) for one, other in pairs])) for part in (0, 1))
        if whole is not None:
            maps = float(np.max([maps, _apart(whole[0], exported.context(batches[0][0]))]))
        parity = Parity(maps, scores, len(batches[0]), sizes, runtime)
        if not np.max([maps, scores]) <= TOLERANCE:  # NaN too, which Python's max may pass over
            raise UserError(f"the exported detector is refused: {parity}, more than {TOLERANCE}; nothing is written")
        found.append(replace(parity, seconds=timed(partial(exported.judge, batches[0][:1], network.pool))))
    if not found:
        raise UserError("no runtime is installed to check the exported detector with; pip install 'realnet[export]'")
    return found


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max())
