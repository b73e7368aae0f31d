"""Train detectors that differ in one thing, with equal seeds, by the project's own scripts, and compare their scores.

Each variant has a folder of its own as ``REALNET_HOME``: index and checkpoints; images are linked. The scripts resume,
so the same command goes on where it was stopped. ``ckpt_last`` counts: no test image chooses anything.
"""

import argparse
import contextlib
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from realnet.config import MaskRule, paths
from realnet.data.index import ClassIndex, write_index
from realnet.data.registry import OpenDataset, open_dataset
from realnet.detection.detector import Detector
from realnet.errors import UserError
from realnet.evaluation import run as evaluation
from realnet.evaluation.run import TestSplits
from realnet.evaluation.scores import ClassScores, curves_of, summarise
from realnet.inspection.repeats import find_repeats, with_masks
from realnet.metrics.curves import image_curve
from realnet.runtime.distributed import World, join_world
from realnet.runtime.randomness import generator

ROOT = Path(__file__).resolve().parents[1]
METRICS = ("image_auroc", "pixel_auroc", "aupro")
Figures = Mapping[str, Mapping[int, float]]
"""A percentage by what it is of, and by seed."""


@dataclass(frozen=True)
class Variant:
    """A way to train.

    Attributes:
        name: in the table, and of its folder.
        settings: of the detector.
        num_images: how many normal images it has; None: all.
        diffusion_steps: of a diffusion model of its own, whose images it uses; None: the dataset's images.
    """

    name: str
    settings: tuple[str, ...]
    num_images: int | None = None
    diffusion_steps: int | None = None

    def home(self, output: Path) -> Path:
        """Return its folder."""
        return output / "".join(letter if letter.isalnum() else "_" for letter in self.name)


@dataclass(frozen=True)
class DefectsToTrainOn:
    """The first test defects of a kind, so that one may train on them.

    No variant is tested on them, nor on what the guard takes for another photograph of one.
    """

    kind: str
    number: int

    def moved(self, index: ClassIndex, root: Path, rule: MaskRule) -> ClassIndex:
        """Return an index with these defects to train on.

        Args:
            index: of the class.
            root: of the images.
            rule: which pixels of the masks are defects.

        Raises:
            UserError: if there are fewer.
        """
        chosen = [entry for entry in index.test if entry.label and entry.maskname and entry.kind == self.kind]
        if len(chosen) < self.number:
            raise UserError(f"--real {self.kind} {self.number}: there are {len(chosen)} such defects with masks")
        real = tuple(chosen[: self.number])
        left = [entry for entry in index.test if entry not in real]
        tested, normal = ([root / entry.filename for entry in entries] for entries in (left, index.train))
        repeats = {path for path, _ in find_repeats(with_masks(root, real), tested, normal, rule=rule)}
        test = tuple(entry for entry in left if root / entry.filename not in repeats)
        return replace(index, test=test, real=index.real + real)


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the flags that both comparisons take."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--dataset", required=True)
    made.add_argument("--class_name", nargs="+", help="default: all; figures are means over them")
    made.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    made.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="for all")
    made.add_argument("--output", type=Path, help="where variants are trained (default: data/comparisons/<dataset>)")
    made.add_argument("--device", default="cpu")
    return made


def output_of(flags: argparse.Namespace) -> Path:
    """Return the folder of the variants' folders."""
    return Path(flags.output or paths.DATA / "comparisons" / flags.dataset).resolve()


def compare(variants: Sequence[Variant], flags: argparse.Namespace, real: DefectsToTrainOn | None = None) -> int:
    """Train and evaluate the variants, print their table, and return the exit code: 1 if one failed."""
    dataset = open_dataset(flags.dataset)
    classes = flags.class_name or list(dataset.classes)
    output = output_of(flags)
    found: dict[str, Figures] = {}
    for variant in variants:
        home = variant.home(output)
        try:
            _prepare(home, dataset, classes, variant, real)
            _train(home, dataset.name, classes, variant, flags)
            found[variant.name] = _figures(home, dataset.name, classes, flags)
        except (UserError, subprocess.CalledProcessError) as error:
            print(f"{variant.name}: left out; {error}; see {home / 'log.txt'}", file=sys.stderr)
        else:
            print(f"{variant.name}: done", file=sys.stderr, flush=True)
    print(table(found), flush=True)
    return int(len(found) < len(variants))


def _prepare(
    home: Path, dataset: OpenDataset, classes: Sequence[str], variant: Variant, real: DefectsToTrainOn | None
) -> None:
    """Make a variant's folder: configs copied, images linked, an index of its own."""
    own = home / paths.experiment(dataset.name)
    own.mkdir(parents=True, exist_ok=True)
    for config in paths.experiment(dataset.name).glob("*.yaml"):
        shutil.copyfile(config, own / config.name)
    data = home / paths.DATA / dataset.name
    data.mkdir(parents=True, exist_ok=True)
    samples = home / paths.protocols(dataset.name)
    made = {samples.name, *(["sdas"] if variant.diffusion_steps else [])}
    links = {data / path.name: path for path in (paths.DATA / dataset.name).glob("*") if path.name not in made}
    links |= {home / name: Path(name) for name in ("pretrain",)}
    if not dataset.image_root.is_absolute() and not dataset.image_root.is_relative_to(paths.DATA / dataset.name):
        links[home / dataset.image_root] = dataset.image_root
    for link, target in links.items():
        link.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not link.exists():
            link.symlink_to(target.resolve())
    for name in classes:
        index = dataset.index(name, write=False)
        if real:
            index = real.moved(index, dataset.image_root, dataset.config.masks)
        write_index(samples, name, of_variant(index, variant))


def of_variant(index: ClassIndex, variant: Variant) -> ClassIndex:
    """Return the index with a variant's number of images; fewer ones are among more ones."""
    if variant.num_images is None:
        return index
    if variant.num_images > len(index.train):
        raise UserError(f"there are {len(index.train)} normal images, fewer than {variant.num_images}")
    order = generator("images of a comparison", len(index.train)).permutation(len(index.train))
    return replace(index, train=tuple(index.train[number] for number in sorted(order[: variant.num_images])))


def _train(home: Path, dataset: str, classes: Sequence[str], variant: Variant, flags: argparse.Namespace) -> None:
    given = ["--dataset", dataset, "--device", flags.device]
    if variant.diffusion_steps:
        _run(home, "train_diffusion.py", *given, "--set", f"train.num_steps={variant.diffusion_steps}")
        _run(home, "sample.py", *given, "--force")
    given += ["--class_name", *classes, "--seeds", *map(str, flags.seeds)]
    settings = ("train.evaluation=false", *variant.settings, *flags.overrides)
    _run(home, "train_realnet.py", *given, *(part for setting in settings for part in ("--set", setting)))


def _run(home: Path, script: str, *given: str) -> None:
    with (home / "log.txt").open("a") as log:
        command = [sys.executable, str(ROOT / script), *given]
        variables = {**os.environ, "REALNET_HOME": str(home)}
        subprocess.run(command, check=True, stdout=log, stderr=log, env=variables, cwd=home)


def _figures(home: Path, dataset: str, classes: Sequence[str], flags: argparse.Namespace) -> Figures:
    """Return the metrics in %, and the image AUROC of each kind of defect, as means over the classes."""
    found: dict[str, dict[int, list[float]]] = {}
    with contextlib.chdir(home), join_world(flags.device, "auto") as world, world.stop:
        own = open_dataset(dataset)
        for name, seed in itertools.product(classes, flags.seeds):
            for metric, value in scores_of(own, name, seed, world).items():
                found.setdefault(metric, {}).setdefault(seed, []).append(100 * value)
    return {metric: {seed: float(np.mean(each)) for seed, each in by.items()} for metric, by in found.items()}


def scores_of(dataset: OpenDataset, class_name: str, seed: int, world: World) -> dict[str, float]:
    """Return the metrics of a detector that can be computed, and the image AUROC of each kind of defect."""
    path = paths.output(dataset.name, "realnet", "checkpoints", class_name, seed) / paths.LAST
    detector = Detector.load(path, precision=world.precision, dataset=dataset.name, class_name=class_name)
    splits = TestSplits(dataset, class_name, detector.config, world)
    scores = evaluation.scores_of(detector, splits, path.name)
    metrics = summarise(curves_of(scores), fpr_limit=detector.config.evaluation.aupro_fpr_limit)
    values = {name: value for name in METRICS if (value := metrics[name].value) is not None}
    return values | {f"image_auroc of {kind}": value for kind, value in _by_kind(scores).items()}


def _by_kind(scores: ClassScores) -> dict[str, float]:
    """Return the image AUROC of each kind of defect, if there are several."""
    kinds = np.array([entry.kind if entry.label else "" for entry in scores.entries])
    named = sorted({*kinds} - {""})
    found = {}
    for kind in named if len(named) > 1 else ():
        some = np.isin(kinds, ["", kind])
        found[kind] = image_curve(scores.image_scores[some], scores.labels[some]).auroc
    return found


def table(found: Mapping[str, Figures]) -> str:
    """Return means ± spreads (standard deviation, n - 1), and the image AUROC beside the first variant's, by seed."""
    first = next(iter(found.values()), {})
    columns = list(first)
    rows = [["", *columns, "image_auroc - first's"]]
    for name, figures in found.items():
        cells = [_spread(list(figures[metric].values())) if metric in figures else "" for metric in columns]
        pairs = figures["image_auroc"].items()
        gains = [value - first["image_auroc"][seed] for seed, value in pairs] if figures is not first else []
        above = f" (better in {sum(gain > 0 for gain in gains)} of {len(gains)})" if gains else ""
        rows.append([name, *cells, _spread(gains, sign="+") + above])
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]])


def _spread(values: Sequence[float], sign: str = "") -> str:
    if not values:
        return ""
    spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):{sign}.1f}{spread}"
