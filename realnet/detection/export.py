"""Export a detector for other machines: as a bundle, or as a network for ONNX Runtime and OpenVINO."""

import copy
import math
import tempfile
import timeit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from realnet.data.images import IMAGENET_MEAN, IMAGENET_STD, Image, resize_image
from realnet.data.tiles import Tiling, tiling_of
from realnet.detection import bundle
from realnet.detection.description import describe
from realnet.detection.detector import Detector
from realnet.detection.runtimes import (
    CONTEXT,
    INPUT,
    MAPS,
    METADATA,
    SCORED,
    SCORES,
    import_extra,
    installed_readers,
    open_exported,
)
from realnet.errors import UserError
from realnet.metrics.image_score import image_scores
from realnet.models.checkpoint import Checkpoint
from realnet.models.realnet import RealNet
from realnet.runtime.files import refusing
from realnet.runtime.packing import unpack_convolutions

aten = torch.ops.aten
Format = Literal["bundle", "onnx", "openvino"]
SUFFIXES: Mapping[Format, str] = {"bundle": bundle.SUFFIX, "onnx": ".onnx", "openvino": ".xml"}
TOLERANCE = 1e-3
"""Largest difference from torch of an exported network's maps and scores."""
RESIZING = "before the network, by Pillow's antialiased bilinear filter (PIL.Image.Resampling.BILINEAR)"
NUM_TIMED = 5
EXAMPLE_BATCH = 3
"""A size that is none of the network's own, so that no size of the network is taken for that of the batch."""


@dataclass(frozen=True)
class Parity:
    """The largest differences between torch and an exported network, over some images, and what one takes.

    Attributes:
        anomaly_map, image_score: the differences.
        num_images: how many images were compared.
        runtime: the package that ran the exported network.
        seconds: of one image by itself, the fastest of ``NUM_TIMED``.
    """

    anomaly_map: float
    image_score: float
    num_images: int
    runtime: str
    seconds: float = math.nan

    def __str__(self) -> str:
        largest = f"at most {self.anomaly_map:.1e} in maps and {self.image_score:.1e} in scores"
        return f"{self.runtime} differs from torch by {largest}, over {self.num_images} images"


class ExportedNetwork(nn.Module):
    """A detector's network with what surrounds it: uint8 RGB images in, anomaly maps and image scores out.

    Of tiles it gives the maps that scores are taken from instead of scores, which are those of whole photographs, and
    what it finds if the image is a whole photograph, shrunk.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: RealNet, pool: int, *, of_tiles: bool = False) -> None:
        super().__init__()
        self.model, self.pool, self.of_tiles = model, pool, of_tiles
        further = [SCORED] if model.fusion is not None else []
        further += [CONTEXT] if model.context is not None else []
        self.outputs = [MAPS, *further] if of_tiles else [MAPS, SCORES]
        self.register_buffer("mean", 255 * torch.tensor(IMAGENET_MEAN)[:, None, None])
        self.register_buffer("std", 255 * torch.tensor(IMAGENET_STD)[:, None, None])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images (B, H, W, 3) uint8 to anomaly maps (B, H, W) and image scores (B,), float32; see ``outputs``."""
        pixels = images.permute(0, 3, 1, 2).to(torch.float32)
        normalised = (pixels - self.mean) / self.std
        detection = self.model(normalised)
        maps = detection.anomaly_map.float()  # (B, 1, H, W)
        scored = maps if detection.scored is None else detection.scored
        if self.of_tiles:
            found = {MAPS: maps[:, 0], SCORED: scored[:, 0]}
            if self.model.context is not None:  # the runtimes compute the equal beginning of both once
                found[CONTEXT] = self.model.survey(normalised)
            return tuple(found[name] for name in self.outputs)
        return maps[:, 0], F.avg_pool2d(scored, self.pool, stride=1).amax(dim=(1, 2, 3))

    def judge(self, images: Sequence[Image]) -> tuple[np.ndarray, np.ndarray]:
        """Return the anomaly maps and the scores of a batch of images or tiles."""
        found = self.arrays(images)
        return found[MAPS], image_scores(found.get(SCORED, found[MAPS]), self.pool) if self.of_tiles else found[SCORES]

    @torch.inference_mode()
    def arrays(self, images: Sequence[Image]) -> dict[str, np.ndarray]:
        """Return the outputs for a batch of images or tiles, by name."""
        found = self(torch.from_numpy(np.stack(images)))
        return {name: values.numpy() for name, values in zip(self.outputs, found, strict=True)}


def plain_network(detector: Detector) -> RealNet:
    """Return a copy of a detector's network on the CPU whose convolutions are not packed.

    Raises:
        UserError: if the detector does not run in torch, in float32.
    """
    if detector.precision.dtype != torch.float32:
        raise UserError(f"a detector is exported from float32, not {detector.precision.name}; load it with fp32")
    network = copy.deepcopy(detector.model).cpu()
    unpack_convolutions(network)
    return network.eval()


def export_bundle(
    detector: Detector,
    path: Path,
    *,
    with_backbone: bool = True,
    storage: bundle.Storage = "float32",
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write a detector as a bundle (docs/bundle.md).

    Args:
        detector: runs in torch, in float32.
        path: the file; an existing one is replaced.
        with_backbone: store the backbone's weights too, so that the bundle needs nothing else.
        storage: bfloat16 rounds the weights of layers, which halves their space.
        texts: further files for people, by name.

    Raises:
        UserError: as :func:`plain_network`, if the detector gives NaN, and if the file cannot be written.
    """
    network = plain_network(detector)
    detector.predict(np.zeros((*detector.config.image_size, 3), np.uint8))
    state = network.state_dict() if with_backbone else network.trainable_state()
    stored = as_stored(detector, bundle.rounded(state) if storage == "bfloat16" else state)
    bundle.write(path, stored, texts=texts)


def export_network(detector: Detector, path: Path, *, images: Sequence[Image]) -> list[Parity]:
    """Write a detector for ONNX Runtime or OpenVINO, and compare it with torch in every runtime that is installed.

    The network takes uint8 RGB images (B, H, W, 3) of the detector's size, for any B, and gives anomaly maps (B, H, W)
    and image scores (B,). Of a detector that sees photographs in tiles it takes tiles; cutting and blending stay
    outside (:class:`ExportedNetwork`). Its metadata hold what a bundle's description holds, and those of ONNX how long
    each runtime took for an image, by which :meth:`Detector.load` chooses.

    Args:
        detector: runs in torch, in float32, on the CPU.
        path: ``.onnx``, or ``.xml`` for OpenVINO, which gets a ``.bin`` beside it; existing files are replaced.
        images: photographs to compare on, uint8 RGB (H, W, 3), of any size.

    Raises:
        UserError: as :func:`plain_network`; if the packages of the extra ``export`` are not installed; if a runtime
            differs from torch by more than ``TOLERANCE`` (nothing is written then), or the file cannot be written.
    """
    config, tiling = detector.config, tiling_of(detector.config)
    network = ExportedNetwork(plain_network(detector), config.evaluation.pool, of_tiles=tiling is not None).eval()
    height, width = config.input_size
    about = {"input": [height, width, 3], "resizing": RESIZING, **({"tiles": _describe(tiling)} if tiling else {})}
    describe_with = partial(describe, as_stored(detector, {}), **about)
    small = [resize_image(image, config.image_size) for image in images]
    if tiling:
        small = [tiling.cut(image, tiling.corners[len(tiling) // 2]) for image in small]
    with refusing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            graph, made = Path(folder, "graph.onnx"), Path(folder, path.name)
            _write_onnx(network, (height, width), graph)
            if path.suffix == ".onnx":
                graph.replace(made)
            else:
                _convert(graph, made, describe_with())
            found = _compare(network, made, small)
            if made.suffix == ".onnx":  # which several runtimes read
                torch_seconds = timed(lambda: detector.runtime.judge(small[:1], network.pool))
                seconds = {"torch": torch_seconds, **{parity.runtime: parity.seconds for parity in found}}
                _describe_onnx(made, describe_with(seconds=seconds))
            graph.unlink(missing_ok=True)
            for file in sorted(Path(folder).iterdir()):  # the weights before the network that names them
                file.replace(path.parent / file.name)
    return found


def as_stored(detector: Detector, state: Mapping[str, Tensor]) -> Checkpoint:
    """Return a detector as it is used here, to be stored: its settings, and the thresholds that hold for them."""
    facts = dict(detector.facts)
    if detector.calibration is None:
        facts = {key: value for key, value in facts.items() if key not in {"recalibration", "calibrations"}}
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


def _write_onnx(network: ExportedNetwork, size: tuple[int, int], path: Path) -> None:
    for package in ("onnx", "onnxscript"):
        import_extra(package)
    example = (torch.zeros(EXAMPLE_BATCH, *size, 3, dtype=torch.uint8),)
    program = torch.export.export(network, example, dynamic_shapes={INPUT: {0: torch.export.Dim.DYNAMIC}})
    program = program.run_decompositions({**torch.export.default_decompositions(), aten.median.dim: _median})
    exported: Any = torch.onnx.export(
        program,
        dynamo=True,
        input_names=[INPUT],
        output_names=network.outputs,
        verbose=False,
    )
    exported.save(path, external_data=False)


def _describe_onnx(path: Path, text: str) -> None:
    """Let an ONNX file carry a description."""
    onnx = import_extra("onnx")
    network = onnx.load(path)
    onnx.helper.set_model_props(network, {METADATA: text})
    onnx.save(network, path)


def _median(values: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """Compute ``torch.median``, which ONNX does not have."""
    ordered, indexes = values.sort(dim=dim)
    found = (part.narrow(dim, (values.shape[dim] - 1) // 2, 1) for part in (ordered, indexes))
    value, index = (part if keepdim else part.squeeze(dim) for part in found)
    return value, index


def _convert(graph: Path, path: Path, text: str) -> None:
    openvino = import_extra("openvino")
    network = openvino.convert_model(graph)
    network.set_rt_info(text, METADATA)
    openvino.save_model(network, path, compress_to_fp16=False)


def _compare(network: ExportedNetwork, path: Path, images: Sequence[Image]) -> list[Parity]:
    maps, scores = network.judge(images)
    whole = network.arrays(images[:1]).get(CONTEXT)
    found = []
    for runtime in installed_readers(path):
        exported = open_exported(path, runtime)
        other_maps, other_scores = exported.judge(images, network.pool)
        apart = [_apart(maps, other_maps)] + ([] if whole is None else [_apart(whole[0], exported.context(images[0]))])
        parity = Parity(max(apart), _apart(scores, other_scores), len(images), runtime)
        if not max(parity.anomaly_map, parity.image_score) <= TOLERANCE:  # NaN too
            raise UserError(f"the exported detector is refused: {parity}, more than {TOLERANCE}; nothing is written")
        found.append(replace(parity, seconds=timed(partial(exported.judge, images[:1], network.pool))))
    if not found:
        raise UserError("no runtime is installed to check the exported detector with; pip install 'realnet[export]'")
    return found


def timed(run: Callable[[], object]) -> float:
    """Return the seconds of the fastest of ``NUM_TIMED`` runs, after one that prepares them."""
    run()
    return min(timeit.repeat(run, number=1, repeat=NUM_TIMED))


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max())
