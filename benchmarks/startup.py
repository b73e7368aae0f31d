"""Time ``--help`` of every script and ``--dry-run`` of the stages, as whole processes with a warm file cache.

Usage: python -m benchmarks.startup [--dataset toy] [--repeats 3]

``--dry-run`` needs the dataset's images and weights. If they are missing, it stops with an error; the row then shows
the time and the exit code. The baseline of both is ``import torch`` alone.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("train_diffusion", "train_classifier", "sample", "train_realnet", "evaluation_realnet")
HELP_LIMIT, DRY_RUN_LIMIT = 1.0, 5.0  # seconds


def wall(command: Sequence[str], repeats: int) -> tuple[float, int]:
    """Run a command once to warm the cache, then ``repeats`` times; return the median seconds and the exit code."""
    times, code = [], 0
    for _ in range(repeats + 1):
        start = time.perf_counter()
        code = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, check=False).returncode
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:]), code


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="toy", metavar="NAME")
    parser.add_argument("--repeats", type=int, default=3)
    flags = parser.parse_args()
    baseline, _ = wall(["-c", "import torch"], flags.repeats)
    print(f"import torch{'':<34}{baseline:6.2f} s  baseline")
    commands = [(f"{script.stem} --help", [str(script), "--help"], HELP_LIMIT) for script in sorted(ROOT.glob("*.py"))]
    commands += [
        (f"{stage} --dry-run", [f"{stage}.py", "--dataset", flags.dataset, "--dry-run"], DRY_RUN_LIMIT)
        for stage in STAGES
    ]
    for name, command, limit in commands:
        seconds, code = wall(command, flags.repeats)
        refused = f"  (exit code {code})" if code else ""
        print(f"{name:<46}{seconds:6.2f} s  {seconds / baseline:5.2f} × the baseline, limit {limit:.0f} s{refused}")


if __name__ == "__main__":
    main()
