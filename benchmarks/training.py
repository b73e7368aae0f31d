"""Profile a detector's training step on a CPU: where its time goes, and what gains at equal math.

Usage: python -m benchmarks.training [--set preset=cpu] [--images 24] [--steps 5] [--threads 1]

The images are drawn, of the config's size; weights are random, as speed does not depend on them. Times are the
processor's, the least of all steps, so that other programs disturb them little; with one thread they are those of the
clock on an idle machine. The ways to make a step take turns on the same batches. Items are drawn in another process
(``runtime.num_workers``), so their time counts only where it exceeds the step's.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import nn

from realnet import config
from realnet.config import RealNetConfig
from realnet.data.registry import open_dataset
from realnet.models.build import settle
from realnet.preparation.toy import make_toy_dataset
from realnet.runtime.distributed import join_world
from realnet.training.batches import batches, make_order
from realnet.training.detector_data import detector_data
from realnet.training.detector_task import DetectorTask
from realnet.training.optimisation import Optimisation

CLASS = "weave"


class Clock:
    """Adds up the processor's seconds of each part of a step; a part within another counts for itself alone."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside as a part."""
        self._enter(name)
        yield
        self._leave()

    def watch(self, name: str, network: nn.Module) -> None:
        """Count the forward pass of a network as a part."""
        network.register_forward_pre_hook(lambda *_: self._enter(name))
        network.register_forward_hook(lambda *_: self._leave())

    def _enter(self, name: str) -> None:
        self._count()
        self._open.append(name)

    def _leave(self) -> None:
        self._count()
        self._open.pop()

    def _count(self) -> None:
        now = time.process_time()
        if self._open:
            self.spent[self._open[-1]] += now - self._since
        self._since = now


def made_task(described: RealNetConfig, number: int, folder: Path) -> DetectorTask:
    """Return the task of training on drawn images, with its features chosen."""
    make_toy_dataset(folder / "images", image_size=described.image_size, num_train=number, num_good=1, num_defects=1)
    experiment = folder / "experiments/drawn"
    experiment.mkdir(parents=True)
    experiment.joinpath("dataset.yaml").write_text(f"image_root: {folder / 'images'}\n")
    with join_world("cpu", "fp32") as world:
        data = detector_data(open_dataset("drawn"), CLASS, described)
        task = DetectorTask(described, data, world, best=folder / "best.pth")
        task.begin()
    return task


def profile(task: DetectorTask, described: RealNetConfig, num_steps: int) -> dict[str, dict[str, float]]:
    """Return, for each way to make a step, the least seconds of each of its parts and of the whole."""
    clock, found = Clock(), defaultdict[str, dict[str, float]](dict)
    clock.watch("backbone", task.model.backbone)
    clock.watch("RRS", task.model.rrs)
    for unet in task.model.recon.values():
        clock.watch("reconstruction", unet)
    optimisation = Optimisation(task.parameters(), described.optimiser, num_steps=1000, precision=task.world.precision)
    order = make_order(task.train_set, described.train, task.world, seed=0, draws=described.draws)
    feed = batches(task.train_set, order, described.runtime.model_copy(update={"num_workers": 0}), task.world)
    known = task.known

    def step(batch: dict[str, Any]) -> None:
        with clock.part("AFS, normalisation, losses"):
            losses = task.losses(batch)
        with clock.part("backward pass"):
            optimisation.backward(losses.sum())
        with clock.part("Adam"):
            optimisation.step(0)

    def in_layout(layout: torch.memory_format) -> None:
        for part in (task.model.recon, task.model.rrs, task.model.backbone):
            part.to(memory_format=layout)

    ways: dict[str, Callable[[], object]] = {
        "as it is": lambda: None,
        "clean features computed anew": lambda: setattr(task, "known", None),
        "weights in channels_last": lambda: in_layout(torch.channels_last),
        "tiniest numbers taken for 0": lambda: torch.set_flush_denormal(True),
    }
    for _ in range(num_steps):
        with clock.part("items"):
            batch = next(feed)
        items = clock.spent.pop("items")
        for name, prepare in ways.items():
            prepare()
            clock.spent.clear()
            step(batch)
            task.known = known
            in_layout(torch.contiguous_format)
            torch.set_flush_denormal(False)
            parts = {"items": items, **clock.spent, "step": sum(clock.spent.values())}
            found[name] = {part: min(value, found[name].get(part, value)) for part, value in parts.items()}
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", default=["preset=cpu"], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--images", type=int, default=24, help="training images")
    parser.add_argument("--steps", type=int, default=5, help="of each way")
    parser.add_argument("--threads", type=int, default=1)
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    cv2.setNumThreads(flags.threads)
    described = settle(config.load(RealNetConfig, None, [*flags.overrides, "backbone.weights=none"]))
    with tempfile.TemporaryDirectory() as name, chdir(name):
        found = profile(made_task(described, flags.images, Path(name)), described, flags.steps)
    plain = found["as it is"]
    size = "x".join(map(str, described.image_size))
    what = f"a step of {described.train.batch_size} images of {size}"
    print(f"{what}, {flags.threads} threads, torch {torch.__version__}")
    for part, seconds in sorted(plain.items(), key=lambda one: -one[1]):
        print(f"  {part:<40}{1e3 * seconds:8.0f} ms{seconds / plain['step']:8.0%}")
    for way, parts in found.items():
        print(f"{way:<42}{1e3 * parts['step']:8.0f} ms{plain['step'] / parts['step']:7.2f} ×")


if __name__ == "__main__":
    main()
