"""Time ``--help`` of every script and ``--dry-run`` of the stages, as whole processes with a warm file cache.

Usage: python -m benchmarks.startup [--dataset toy] [--repeats 3] [--scripts train_realnet ...]

``--dry-run`` needs the dataset's images and weights. If they are missing, it stops with an error; the row then shows
the time and the exit code. The baseline of both is ``import torch`` alone. Times are the processor's, the least of all
repeats, so that other programs disturb them little.
"""

import argparse
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("train_diffusion", "train_classifier", "sample", "train_realnet", "evaluation_realnet")
HELP_LIMIT, DRY_RUN_LIMIT = 1.0, 5.0  # seconds


def processor_seconds(command: Sequence[str], repeats: int) -> tuple[float, int]:
    """Run a command once to warm the cache, then ``repeats`` times; return the least seconds and the exit code."""
    times, code = [], 0
    for _ in range(repeats + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        code = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, check=False).returncode
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times[1:]), code


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="toy", metavar="NAME")
    parser.add_argument("--repeats", type=int, default=3)
    known = sorted(script.stem for script in ROOT.glob("*.py"))
    parser.add_argument("--scripts", nargs="+", choices=known, default=known)
    flags = parser.parse_args()
    baseline, _ = processor_seconds(["-c", "import torch"], flags.repeats)
    print(f"import torch{'':<34}{baseline:6.2f} s  baseline")
    commands = [(f"{script} --help", [f"{script}.py", "--help"], HELP_LIMIT) for script in flags.scripts]
    commands += [
        (f"{stage} --dry-run", [f"{stage}.py", "--dataset", flags.dataset, "--dry-run"], DRY_RUN_LIMIT)
        for stage in STAGES
        if stage in flags.scripts
    ]
    for name, command, limit in commands:
        seconds, code = processor_seconds(command, flags.repeats)
        refused = f"  (exit code {code})" if code else ""
        beside = f"{seconds / baseline:5.2f} × the baseline"
        beside += f", {seconds - baseline:5.2f} s beside it" if seconds > baseline else ""
        print(f"{name:<46}{seconds:6.2f} s  {beside}, limit {limit:.0f} s{refused}", flush=True)


if __name__ == "__main__":
    main()
