"""Measure a whole evaluation by stage: reading, network, metrics, heatmaps and report, of two checkpoints.

Usage: python -m benchmarks.evaluation [--images 1725] [--side 256] [--set preset=cpu] [--threads 1]

The test images are drawn, a quarter of them good. The detector is a stand-in for a trained one: it is trained by the
project's own training, but for two steps, and both checkpoints hold it. Times are the processor's, all threads
together; with one thread they are those of the clock on an idle machine. A stage within another counts for itself
alone. "Memory" is the process's peak up to the end of a stage's last call; pages of temporary files count as far as the
system keeps them. The baseline of the ratio is the network alone.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import chdir
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import torch

from benchmarks.scaling import ROOT
from benchmarks.training import CLASS, Clock
from realnet.config import RealNetConfig, load, paths
from realnet.data.registry import open_dataset
from realnet.detection.checkpoints import Subject
from realnet.evaluation import run, scores
from realnet.evaluation.files import TestFiles
from realnet.preparation.toy import CLASSES, make_toy_dataset
from realnet.reporting import class_report
from realnet.runtime.distributed import join_world

NUM_TRAIN = 16
STAGES: dict[str, tuple[type | ModuleType, str]] = {
    "checks and checksums": (class_report, "_inputs"),
    "checks of the dataset": (class_report, "require_sound"),
    "reading": (TestFiles, "__getitem__"),
    "network": (scores, "anomaly_maps"),
    "metrics": (run, "_summed_up"),
    "heatmaps": (class_report, "write_heatmaps"),
    "report": (class_report, "write_class_page"),
}
"""The function that is all of a stage's work."""


class Stages(Clock):
    """Counts the calls and the memory of each stage, too."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = dict.fromkeys(STAGES, 0)
        self.peak = dict.fromkeys(STAGES, 0.0)

    def watching(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that counts as a stage."""

        @wraps(function)
        def counted(*args: Any, **named: Any) -> Any:
            with self.part(name):
                result = function(*args, **named)
            self.calls[name] += 1
            self.peak[name] = peak_mb()
            return result

        return counted


def peak_mb() -> float:
    """Return the largest memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def write_dataset(folder: Path, number: int, side: int, overrides: list[str]) -> None:
    """Draw a dataset of one class with this many test images, and train its detector for two steps."""
    kinds = len(CLASSES[CLASS][1])
    num_defects = number * 3 // (4 * kinds)
    counts = {"num_train": NUM_TRAIN, "num_defects": num_defects, "num_good": number - kinds * num_defects}
    make_toy_dataset(folder / "data/drawn", image_size=(side, side), **counts)
    experiment = folder / "experiments/drawn"
    experiment.mkdir(parents=True)
    (experiment / "dataset.yaml").write_text(f"image_root: data/drawn\nclasses: [{CLASS}]\n")
    (experiment / "realnet.yaml").write_text("{}\n")
    short = ["train.num_steps=2", "train.evaluation=false", "runtime.num_workers=0", "calibration.num_anomalies=8"]
    given = [part for setting in (*overrides, *short) for part in ("--set", setting)]
    command = [sys.executable, str(ROOT / "train_realnet.py"), "--dataset", "drawn", "--device", "cpu", *given]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)  # its memory is not the evaluation's


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", default=["preset=cpu"], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--images", type=int, default=1725)
    parser.add_argument("--side", type=int, default=256, help="of the images and of the detector's input, in pixels")
    parser.add_argument("--threads", type=int, default=1)
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    cv2.setNumThreads(flags.threads)
    overrides = [*flags.overrides, f"image_size={flags.side}", "anomalies.types={normal: 0.5, self: 0.5}"]
    with tempfile.TemporaryDirectory() as name, chdir(name), join_world("cpu", "fp32") as world:
        write_dataset(Path(name), flags.images, flags.side, overrides)
        last = paths.output("drawn", "realnet", "checkpoints", CLASS) / paths.LAST
        best = last.with_name(paths.BEST)
        best.write_bytes(last.read_bytes())
        clock = Stages()
        for stage, (where, function) in STAGES.items():
            setattr(where, function, clock.watching(stage, getattr(where, function)))
        with clock.part("everything else"):
            class_report.report_class(
                open_dataset("drawn"),
                Subject(CLASS),
                {"last": last, "best": best},
                config=load(RealNetConfig, None, [*overrides, "runtime.num_workers=0"]),
                world=world,
                folder=Path(name, "results"),
            )
    whole, network = sum(clock.spent.values()), clock.spent["network"]
    print(f"{flags.images} images of {flags.side}x{flags.side}, two checkpoints, torch {torch.__version__}")
    for stage, seconds in sorted(clock.spent.items(), key=lambda one: -one[1]):
        peak = f"{clock.peak[stage]:10.0f} MB" if stage in STAGES else ""
        print(f"  {stage:<24}{seconds:8.1f} s{1e3 * seconds / flags.images:9.2f} ms an image{peak}")
    print(f"{'whole':<26}{whole:8.1f} s{1e3 * whole / flags.images:9.2f} ms an image{peak_mb():10.0f} MB")
    print(f"files read: {clock.calls['reading']}; whole / network alone: {whole / network:.2f}")


if __name__ == "__main__":
    main()
