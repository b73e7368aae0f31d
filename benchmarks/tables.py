"""Run benchmarks, and write what they print into benchmarks/README.md, each with its command, machine and date.

Usage: python -m benchmarks.tables [NAME ...] [--list]

Without names, all run, which takes hours; run them on a machine without other work. A benchmark that fails changes
nothing. The text between ``<!-- NAME -->`` and ``<!-- end of NAME -->`` is replaced; what lacks its place gets it at
the end of the file.
"""

import argparse
import os
import platform
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

README = Path(__file__).with_name("README.md")
COMMANDS = {
    "anomalies": "anomalies --dataset toy",
    "data": "data",
    "demo": "demo",
    "detector-inference": "detector --parts inference",
    "detector-training": "detector --parts training --set train.batch_size=2",
    "detector-afs": "detector --parts afs --set train.batch_size=4",
    "diffusion": "diffusion --dataset MTD --batch 8",
    "evaluation": "evaluation",
    "exchange": "exchange --processes 2 4",
    "gpu": "gpu",
    "images": "images --dataset toy",
    "memory": "memory --device cpu --precision fp32",
    "metrics": "metrics --large",
    "page": "page",
    "predict": "predict",
    "readiness": "readiness --dataset toy --class_name widget --set image_size=64 --set features.normalise=channel "
    "--set detector.fuse.position=false",
    "samplers": "samplers --dataset toy",
    "scaling": "scaling --images 50",
    "serve": "serve",
    "startup": "startup",
    "training": "training",
}
"""The command of each table, by the table's name."""


def machine() -> str:
    """Return the processor's name, the cores that this process may use, and how busy the machine is."""
    described = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)$", described.read_text(), re.MULTILINE) if described.is_file() else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = found[1] if found else platform.processor() or platform.machine()
    return f"{cores} cores of {name}, load {os.getloadavg()[0]:.1f} before it began"


def table(command: str) -> str:
    """Run a benchmark and return its part of the file.

    Raises:
        SystemExit: if it fails.
    """
    began = f"{machine()}, {datetime.now(UTC):%Y-%m-%d}"
    run = [sys.executable, "-m", *shlex.split(f"benchmarks.{command}")]
    ended = subprocess.run(run, cwd=README.parents[1], stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"python -m benchmarks.{command} failed; {README.name} stays as it is for this table")
    return f"`python -m benchmarks.{command}` on {began}:\n\n```\n{ended.stdout.rstrip()}\n```"


def put(text: str, name: str, content: str) -> str:
    """Return the file's text with a table in its place."""
    first, last = f"<!-- {name} -->", f"<!-- end of {name} -->"
    block = f"{first}\n{content}\n{last}"
    if first not in text:
        return f"{text.rstrip()}\n\n{block}\n"
    before, rest = text.split(first, 1)
    return before + block + rest.split(last, 1)[1]


def main() -> None:
    """Run the benchmarks one after the other, and write each as soon as it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*COMMANDS, []], metavar="NAME", help=", ".join(COMMANDS))
    parser.add_argument("--list", action="store_true", help="print the commands, and run nothing")
    flags = parser.parse_args()
    for name in flags.names or COMMANDS:
        print(f"{name:<20}python -m benchmarks.{COMMANDS[name]}", flush=True)
        if not flags.list:
            README.write_text(put(README.read_text(encoding="utf-8"), name, table(COMMANDS[name])), encoding="utf-8")


if __name__ == "__main__":
    main()
