"""Demonstrate all five stages on a synthetic dataset, on a CPU, in about 5 minutes, without downloads."""

import argparse
import os
import time
from collections.abc import Iterator, Sequence

from realnet.commands import cli

EPILOG = """\
writes   data/toy and experiments/toy in the working folder; ends with the table, the heatmaps and the report
"""
STAGES = ("train-diffusion", "train-classifier", "sample", "train")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages one after the other, until one fails or a signal comes; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("seed", nargs="?", type=int, help="train anew with this seed, instead of the configs' own")
    flags = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "2")  # before torch is imported, which reads it

    from realnet.commands.program import module_of
    from realnet.runtime.signals import StopSignals

    with StopSignals() as signals:
        for verb, given in _commands(flags.seed):
            print(f"── realnet {' '.join([verb, *given])}", flush=True)
            start = time.monotonic()
            code = module_of(verb).main(given)
            if code or signals.asked:  # what a stage leaves after a signal looks finished to the next one
                return code or 130
            print(f"took       {time.monotonic() - start:.0f} s", flush=True)
    cli.close(True, "samples    data/toy/sdas", "logs       experiments/toy/*_log")
    return 0


def _commands(seed: int | None) -> Iterator[tuple[str, list[str]]]:
    yield "prepare", ["toy"]
    flags = ["--dataset", "toy", "--device", "cpu"]
    for verb in STAGES:
        yield verb, flags if seed is None else [*flags, "--seed", str(seed), "--no-resume"]
    yield "evaluate", flags
