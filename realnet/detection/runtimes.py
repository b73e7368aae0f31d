"""What computes a detector's anomaly maps: torch, ONNX Runtime or OpenVINO."""

import importlib.util
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray

from realnet.data.images import Image, to_batch
from realnet.detection import onnx_file
from realnet.detection.maps import anomaly_maps
from realnet.errors import UserError
from realnet.metrics.image_score import image_scores
from realnet.models.realnet import RealNet
from realnet.runtime.devices import send_images
from realnet.runtime.precision import Precision

INPUT, MAPS, SCORES, SCORED, CONTEXT = "images", "anomaly_maps", "image_scores", "scored_maps", "context_maps"
"""Names of the input and the outputs of exported networks. A network of tiles has no scores, as the score is that of
the photograph, but the maps that it is taken from, where they are not the anomaly maps; and with ``tiles.context`` the
maps of an image that is not a tile but a shrunk photograph (docs/method.md, Tiles)."""


Judged = tuple[NDArray[np.float32], NDArray[np.floating]]
"""Anomaly maps (B, H, W) in [0, 1], and image scores (B,)."""


class Runtime(Protocol):
    """Computes anomaly maps and image scores of images, uint8 RGB (H, W, 3) of the detector's size."""

    @property
    def name(self) -> str:
        """Return what computes, and on which device, for people."""
        ...

    def judge(self, images: Sequence[Image], pool: int) -> Judged:
        """Return the anomaly maps and the scores of a batch of images; ``pool`` is that of the scores, in pixels."""
        ...

    def maps(self, tiles: Sequence[Image]) -> tuple[NDArray[np.float32], ...]:
        """Return the anomaly maps (B, h, w) of tiles, and the maps that scores are taken from where they are others."""
        ...

    def context(self, photograph: Image) -> NDArray[np.float32]:
        """Return maps (2, h, w) of a whole photograph, of a tile's size, in the units of those of tiles."""
        ...


@dataclass(frozen=True)
class TorchRuntime:
    """Torch, with a network that is ready for its device (:func:`realnet.runtime.placement.make_ready`)."""

    model: RealNet
    precision: Precision

    @property
    def name(self) -> str:
        """Return version, device and number format."""
        return f"torch {torch.__version__} on {self.precision.device} in {self.precision.name}"

    def judge(self, images: Sequence[Image], pool: int) -> Judged:
        """Return the anomaly maps and the scores of a batch of images."""
        maps, scores = anomaly_maps(self.model, to_batch(images), self.precision).scored(pool)
        return maps, scores[:, 0]

    def maps(self, tiles: Sequence[Image]) -> tuple[NDArray[np.float32], ...]:
        """Return the maps of tiles."""
        return anomaly_maps(self.model, to_batch(tiles), self.precision).arrays()

    def context(self, photograph: Image) -> NDArray[np.float32]:
        """Return maps of a whole photograph."""
        with torch.inference_mode():
            maps = self.model.survey(send_images(to_batch([photograph]), self.precision.device))
        return np.asarray(maps[0].cpu().numpy())


class _Exported(ABC):
    """An exported network, in whatever runtime."""

    @abstractmethod
    def outputs(self, images: Sequence[Image]) -> Mapping[str, NDArray[np.float32]]:
        """Return all that the network gives for a batch of images, by name."""

    def judge(self, images: Sequence[Image], pool: int) -> Judged:
        """Return the anomaly maps and the scores of a batch of images; ``pool`` is for tiles, others hold their own."""
        found = self.outputs(images)
        if SCORES in found:
            return found[MAPS], found[SCORES]
        return found[MAPS], image_scores(found.get(SCORED, found[MAPS]), pool)

    def maps(self, tiles: Sequence[Image]) -> tuple[NDArray[np.float32], ...]:
        """Return the maps of tiles."""
        found = self.outputs(tiles)
        return tuple(found[name] for name in (MAPS, SCORED) if name in found)

    def context(self, photograph: Image) -> NDArray[np.float32]:
        """Return maps of a whole photograph."""
        return self.outputs([photograph])[CONTEXT][0]


class OnnxRuntime(_Exported):
    """ONNX Runtime on the CPU.

    Raises:
        UserError: if ONNX Runtime is not installed, or cannot read the file.
    """

    def __init__(self, path: Path) -> None:
        runtime = import_extra("onnxruntime")
        self._path = path
        self.name = f"ONNX Runtime {runtime.__version__} on cpu"
        self._session = _opened(path, lambda: runtime.InferenceSession(path, providers=["CPUExecutionProvider"]))

    def outputs(self, images: Sequence[Image]) -> Mapping[str, NDArray[np.float32]]:
        """Return all that the network gives for a batch of images, by name."""
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, {INPUT: np.stack(images)}), strict=True))

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        return type(self), (self._path,)


class OpenVinoRuntime(_Exported):
    """OpenVINO on the CPU, in float32 and what a file has rounded to 8 bits, for its own files and for ONNX.

    Raises:
        UserError: if OpenVINO is not installed, or cannot read the file.
    """

    def __init__(self, path: Path) -> None:
        core = openvino_core()
        self._path = path
        self._network = _opened(path, lambda: core.read_model(path))
        version, is_rounded = import_extra("openvino").__version__.split("-")[0], self._network.has_rt_info(["nncf"])
        self.name = f"OpenVINO {version} on cpu{' in int8' if is_rounded else ''}"
        # by default it computes in bfloat16 where the processor can, which moves maps by several hundredths
        exact = {"INFERENCE_PRECISION_HINT": "f32"}
        self._compiled = core.compile_model(self._network, "CPU", exact)

    def outputs(self, images: Sequence[Image]) -> Mapping[str, NDArray[np.float32]]:
        """Return all that the network gives for a batch of images, by name."""
        takes_any_number = self._network.inputs[0].partial_shape[0].is_dynamic  # not in int8 files of version 1.0
        parts = [images] if takes_any_number else [[image] for image in images]
        known = {name for output in self._compiled.outputs for name in output.get_names()}
        names = [name for name in (MAPS, SCORES, SCORED, CONTEXT) if name in known]
        found = [self._compiled(np.stack(part)) for part in parts]
        return {name: np.concatenate([one[name] for one in found]) for name in names}

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        return type(self), (self._path,)


ExportedRuntime = OnnxRuntime | OpenVinoRuntime
RUNTIMES: Mapping[str, type[OnnxRuntime] | type[OpenVinoRuntime]] = {
    "openvino": OpenVinoRuntime,
    "onnxruntime": OnnxRuntime,
}
"""By the name of the package; without a measurement the first is taken to be the fastest."""
READERS: Mapping[str, Sequence[str]] = {".onnx": ("openvino", "onnxruntime"), ".xml": ("openvino",)}
"""The runtimes that read exported networks, by the files' suffix."""

TELEMETRY = "openvino_telemetry"
"""Where this package can be imported, OpenVINO and NNCF report their use to their makers, without asking."""


def choose_runtime(path: Path, runtime: str | None = None) -> Callable[[Path], ExportedRuntime]:
    """Return what opens an exported network; without a name the installed runtime that was the fastest at the export.

    Raises:
        UserError: if the one that is named does not read such a file, or there is no file.
    """
    readers = READERS[path.suffix]
    if runtime is not None and runtime not in readers:
        raise UserError(f"--runtime {runtime} does not read {path}; give {' or '.join(readers)}")
    if not path.is_file():
        raise UserError(f"{path} does not exist; make it with python export_realnet.py")
    return RUNTIMES[runtime or _fastest(path)]


def _fastest(path: Path) -> str:
    """Return the installed runtime that was the fastest at the export, without opening the file with each."""
    installed = installed_readers(path) or READERS[path.suffix][:1]
    seconds = onnx_file.seconds_of(path) if len(installed) > 1 else {}
    return min(installed, key=lambda name: seconds.get(name, math.inf))


def installed_readers(path: Path) -> list[str]:
    """Return the installed runtimes that read an exported network."""
    return [name for name in READERS[path.suffix] if importlib.util.find_spec(name)]


@cache
def openvino_core() -> Any:
    """Return OpenVINO's ``Core``, of which a process has one, for as long as it lives.

    Each gives signal handlers a stack of its own, and the previous one's back when it goes: two that go in the order in
    which they came leave a stack that is unmapped, and the next signal, such as Ctrl-C, kills the process.

    Raises:
        UserError: if OpenVINO is not installed.
    """
    return import_extra("openvino").Core()


def import_extra(name: str) -> Any:
    """Import a package of the extra ``export``.

    Raises:
        UserError: if it is not installed.
    """
    try:
        with _without_telemetry():
            return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{name} is not installed ({error}); install it with: pip install 'realnet[export]'") from error


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Hide ``TELEMETRY`` from packages that are imported meanwhile: they look for it once, and do without it."""
    hidden = {TELEMETRY: sys.modules[TELEMETRY]} if TELEMETRY in sys.modules else {}
    sys.modules[TELEMETRY] = cast(ModuleType, None)  # an import of it fails
    try:
        yield
    finally:
        del sys.modules[TELEMETRY]
        sys.modules.update(hidden)


def _opened(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:  # the runtimes refuse files in many ways
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} cannot be read ({reason}); export the detector again") from error
