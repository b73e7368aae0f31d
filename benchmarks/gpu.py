"""Measure what a machine with one or two GPUs is for: the detector, SDAS sampling, TensorRT, and equal results.

Usage: python -m benchmarks.gpu [--dataset MVTec-AD] [--parts inference training sampling onnx tests]

Prints each part's best ratio to plain float32 in the same run, with its target. ``onnx`` exports the detector and runs
it in ONNX Runtime with TensorRT or CUDA, if these are installed. ``tests`` runs the golden suite on the GPU, and on a
machine with two GPUs the tests that two processes train the detector of one. A part that fails says so, and the others
follow. ``--device cpu --dataset toy`` tries the script without a GPU, and without compilation unless it is named.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import detector, diffusion, drawn, measure
from benchmarks.measure import Compilation, Row
from realnet import config
from realnet.config import RealNetConfig, paths
from realnet.detection.detector import Detector
from realnet.detection.export import export_network
from realnet.models.build import build_detector
from realnet.preparation.toy import draw_photographs

ROOT = Path(__file__).resolve().parents[1]
TARGETS = {"inference": 4.0, "training": 2.5, "sampling": 3.0}  # times as fast as plain float32
COMPILATIONS: tuple[Compilation, ...] = ("compiled", "CUDA graphs")
PARTS = ("inference", "training", "sampling", "onnx", "tests")
PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider")
GOLDEN = ("tests/realnet/models/test_golden.py", "tests/guided_diffusion/test_golden.py")
EQUALITY = "tests/realnet/runtime/test_distributed.py"


class Table:
    """The parts of the table, for a dataset's configs and a device."""

    def __init__(self, flags: argparse.Namespace, device: torch.device) -> None:
        self.dataset, self.batches, self.images, self.device = flags.dataset, flags.batches, flags.images, device
        self.compilations = COMPILATIONS if device.type == "cuda" else ()
        if flags.compilations is not None:
            self.compilations = flags.compilations
        self.file = paths.experiment(flags.dataset) / "realnet.yaml"
        self.described = config.load(RealNetConfig, self.file, ["backbone.weights=none"])

    def inference(self) -> Iterator[Row]:
        """Time the detector's anomaly maps."""
        model = build_detector(self.described).to(self.device)
        ways = measure.ways(self.device, *self.compilations)
        yield from detector.inference(model, self.described, ways, self.batches)

    def training(self) -> Iterator[Row]:
        """Time a training step of the detector; its parts are compiled one by one, which CUDA graphs cannot join."""
        model = build_detector(self.described).to(self.device)
        compilations = [one for one in self.compilations if one == "compiled"]
        yield from detector.training(model, self.described, measure.ways(self.device, *compilations))

    def sampling(self) -> Iterator[Row]:
        """Time SDAS sampling."""
        ways = measure.ways(self.device, *self.compilations)
        yield from diffusion.Bench(self.dataset, self.images, ways).sampling()

    def onnx(self) -> Iterator[Row]:
        """Time the exported detector in ONNX Runtime, transfers included."""
        import onnxruntime

        found = [name for name in PROVIDERS if name in onnxruntime.get_available_providers()]
        print(f"ONNX Runtime {onnxruntime.__version__}: {', '.join(found) or 'neither TensorRT nor CUDA'}")
        height, width = self.described.image_size
        with tempfile.TemporaryDirectory() as name:
            bundle, exported = Path(name, "drawn.realnet"), Path(name, "drawn.onnx")
            drawn.write_detector(bundle, self.file)
            photographs = draw_photographs(max(self.batches), (height, width))
            export_network(Detector.load(bundle, device="cpu"), exported, images=photographs[:2])
            plain = Detector.load(bundle, precision=measure.plain_float32(self.device)).runtime
            pool = self.described.evaluation.pool
            for batch in self.batches:
                images = photographs[:batch]
                baseline = measure.seconds(partial(plain.judge, images, pool), self.device)
                yield Row(f"batch {batch}, torch float32", baseline, 0, 1)
                expected, _ = plain.judge(images, pool)
                for provider, options in _choices(found):
                    session = onnxruntime.InferenceSession(exported, providers=[(provider, options), *found[1:]])
                    run = partial(session.run, None, {"images": np.stack(images)})
                    wall = measure.seconds(run, self.device)
                    apart = np.abs(run()[0] - expected).max()
                    label = f"{provider.removesuffix('ExecutionProvider')}{' fp16' if options else ''}"
                    yield Row(f"batch {batch}, {label} (maps {apart:.4f} apart)", wall, 0, 1, baseline)

    def tests(self) -> Iterator[Row]:
        """Run the golden suite on the device, and the equality of two processes on two GPUs."""
        environment = os.environ | {"REALNET_GOLDEN_DEVICE": str(self.device)}
        print("golden suite:", _pytest([*GOLDEN], environment))
        number = torch.cuda.device_count()
        if number < 2 and self.device.type == "cuda":
            print(f"two GPUs: not tested, this machine has {number}")
        else:
            print("two GPUs:", _pytest([EQUALITY, "-k", "processes_train"], dict(os.environ)))
        yield from ()


def _choices(providers: list[str]) -> list[tuple[str, dict[str, bool]]]:
    """Return the providers to measure: TensorRT also in fp16; the CPU's where there is neither."""
    choices: list[tuple[str, dict[str, bool]]] = [(name, {}) for name in providers] or [("CPUExecutionProvider", {})]
    return [*choices, (PROVIDERS[0], {"trt_fp16_enable": True})] if PROVIDERS[0] in providers else choices


def _pytest(arguments: list[str], environment: dict[str, str]) -> str:
    """Run tests and return their last line."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return (ended.stdout.strip() or ended.stderr.strip()).splitlines()[-1]


def _against_target(part: str, rows: list[Row]) -> str:
    ratios = {row.baseline / row.seconds: row.name for row in rows if row.baseline}
    if part not in TARGETS or not ratios:
        return ""
    best = max(ratios)
    return f"{part}: at best {best:.2f} times plain float32 ({ratios[best]}); the target is {TARGETS[part]}"


def main() -> None:
    """Print the table."""
    parser = measure.arguments(__doc__)
    parser.set_defaults(device="cuda")
    parser.add_argument("--dataset", default="MVTec-AD", metavar="NAME", help="whose configs give the sizes")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16], help="batch sizes of inference")
    parser.add_argument("--images", type=int, default=8, help="images sampled together")
    parser.add_argument("--compilations", nargs="*", choices=COMPILATIONS, help="default: both on a GPU")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    flags = parser.parse_args()
    if flags.device.startswith("cuda") and not torch.cuda.is_available():
        parser.exit(
            2, "error: this machine has no GPU that torch can use; --device cpu --dataset toy tries the script\n"
        )
    device = measure.prepare(flags)
    table = Table(flags, device)
    print(f"{max(torch.cuda.device_count(), 1)} × {measure.header(device)}")
    ends = []
    for part in flags.parts:
        rows: list[Row] = []
        try:
            rows = measure.show(part, getattr(table, part)())
        except Exception as error:  # a lent machine's time is short: the other parts are still worth it
            print(f"{part} failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        ends.append(_against_target(part, rows))
    print("\n".join(filter(None, ends)))


if __name__ == "__main__":
    main()
