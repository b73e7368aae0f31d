"""Measure the stages of ``./run.sh demo``: time and memory of each, as processes of their own.

Usage: python -m benchmarks.demo [--seed N]

"Processor" adds the times of all threads and workers, which other programs on the machine change little; "memory" is
the largest of a single process. The baseline is an idle process that imports torch.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.scaling import ROOT, copy_configs

STAGES = ("train_diffusion", "train_classifier", "sample", "train_realnet", "evaluation_realnet")


@dataclass(frozen=True)
class Cost:
    """Seconds of the clock and of the processor, and the largest memory in MB."""

    wall: float
    processor: float
    memory: float

    def __str__(self) -> str:
        return f"{self.wall:8.1f} s{self.processor:12.1f} s{self.memory:10.0f} MB"


def cost_of(command: Sequence[str], folder: Path) -> Cost:
    """Run Python with these arguments in a folder.

    Raises:
        SystemExit: if it fails.
    """
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], cwd=folder, stdout=subprocess.DEVNULL, stderr=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return Cost(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", default="100")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_configs(folder)
        print(f"{'':<22}{'wall':>10}{'processor':>14}{'memory':>13}{'share':>9}", flush=True)
        idle = cost_of(["-c", "import torch"], folder)
        print(f"{'import torch':<22}{idle}", flush=True)
        costs = {"prepare_data": cost_of([str(ROOT / "prepare_data.py"), "toy"], folder)}
        for stage in STAGES:
            seed = [] if stage == "evaluation_realnet" else ["--seed", flags.seed]
            costs[stage] = cost_of([str(ROOT / f"{stage}.py"), "--dataset", "toy", "--device", "cpu", *seed], folder)
            print(f"{stage:<22}{costs[stage]}", flush=True)
    whole = sum(cost.processor for cost in costs.values())
    print(f"whole: {whole:.0f} s of the processor, {whole / idle.processor / len(costs):.1f} × the imports of torch")


if __name__ == "__main__":
    main()
