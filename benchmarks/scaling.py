"""Check that time grows linearly with the number of images in training and prediction, and that memory stays flat.

Usage: python -m benchmarks.scaling [--images 100]

Runs the scripts on 1, 2, 4 and 8 times as many toy images of 64 pixels: one epoch of detector training (with all
checks, AFS, and calibration on two anomalies), then prediction with the trained detector. "ms per added image" compares
a row with the one above; it is constant if the cost is linear. Memory is that of the script's largest process.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from realnet.preparation.toy import make_toy_dataset

ROOT = Path(__file__).resolve().parents[1]
FACTORS = (1, 2, 4, 8)
TRAIN = [
    *("train_realnet.py", "--dataset", "toy", "--class_name", "weave", "--no-resume"),
    *("--set", "train.num_steps=null", "--set", "train.num_epochs=1", "--set", "calibration.num_anomalies=2"),
    *("--set", "anomalies.types={normal: 0.5, self: 0.5}"),
]
PREDICT = ["predict_realnet.py", "--dataset", "toy", "--class_name", "weave", "--output", "predictions"]


def run(command: Sequence[str], folder: Path) -> tuple[float, int]:
    """Run a script; return its wall seconds and peak bytes."""
    start = time.perf_counter()
    arguments = [sys.executable, str(ROOT / command[0]), *command[1:], "--device", "cpu"]
    process = subprocess.Popen(arguments, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(arguments)} failed in {folder}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def copy_configs(folder: Path) -> None:
    """Give a working folder the toy dataset's configs."""
    target = folder / "experiments/toy"
    target.mkdir(parents=True)
    for file in (ROOT / "experiments/toy").glob("*.yaml"):
        shutil.copy(file, target)


def make_workspace(folder: Path, number: int) -> None:
    """Copy the toy dataset's configs and make ``number`` training images per class."""
    copy_configs(folder)
    make_toy_dataset(folder / "data/toy/images", num_train=number, num_good=2, num_defects=1)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100, help="images in the smallest set")
    first = parser.parse_args().images
    columns = f"{'time':>10}{'ms per added image':>20}{'memory':>12}"
    print(f"{'':>8}{'training':>42}{'prediction':>42}\n{'images':>8}{columns}{columns}")
    before: list[float] = []
    for factor in FACTORS:
        number = first * factor
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_workspace(folder, number)
            found = [run(TRAIN, folder), run([*PREDICT, "--input", "data/toy/images/weave/train/good"], folder)]
        more = [1e3 * (now - then) / (number / 2) for (now, _), then in zip(found, before, strict=False)]
        cells = [
            f"{wall:>8.1f} s{f'{more[place]:.1f}' if more else '-':>20}{peak / 1e6:>9.0f} MB"
            for place, (wall, peak) in enumerate(found)
        ]
        print(f"{number:>8}{''.join(cells)}", flush=True)
        before = [wall for wall, _ in found]


if __name__ == "__main__":
    main()
