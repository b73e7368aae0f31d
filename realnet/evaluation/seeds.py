"""The results of detectors that differ only in their seed: side by side, with mean and spread."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from realnet.data.registry import UNIFIED
from realnet.detection.checkpoints import PROTOCOLS, Protocol, Subject
from realnet.detection.loading import read_stored
from realnet.errors import UserError
from realnet.evaluation.comparison import difference, different_choices, made_with
from realnet.evaluation.results import CheckpointResult, ClassResult, JsonPart, apart
from realnet.evaluation.scores import METRICS, Metric, mean_over_classes
from realnet.runtime.files import whole_file

SEEDS_JSON, SEEDS_CSV, SEEDS_REPORT = "metrics_seeds.json", "metrics_seeds.csv", "report_seeds.html"


@dataclass(frozen=True)
class Spread(Metric):
    """A metric's mean over seeds, and its standard deviation, with n - 1 for n seeds; None for one seed."""

    spread: float | None = None

    def __str__(self) -> str:
        return super().__str__() if self.spread is None else f"{self.value:.4f} ± {self.spread:.4f}"


class SeedMetrics(JsonPart):
    """The metrics of detectors by seed and name, and what they come to, if they differ in the seed alone.

    Attributes:
        seeds: the metrics of each seed.
        over_seeds: mean and spread of each metric.
        choices: what the detectors chose differently, where they were asked to; "" for nothing.
        unlike: why they have no mean; "" if they have.
    """

    seeds: dict[int, dict[str, Metric]]
    over_seeds: dict[str, Spread]
    choices: str = ""
    unlike: str = ""

    @classmethod
    def of(cls, seeds: Mapping[int, dict[str, Metric]], *, choices: str = "", unlike: str = "") -> "SeedMetrics":
        """Return the metrics of at least one seed, summed up."""
        over = {name: Spread(None, unlike) if unlike else _spread(name, seeds) for name in METRICS}
        return cls(seeds=dict(seeds), over_seeds=over, choices=choices, unlike=unlike)


class SeedSummary(JsonPart):
    """The metrics of each class by seed, and those of the mean over the classes."""

    mean: dict[Protocol, SeedMetrics]
    classes: dict[str, dict[Protocol, SeedMetrics]]


class DatasetSeeds(JsonPart):
    """``metrics_seeds.json`` of a dataset: of the classes' own detectors, and of unified ones."""

    dataset: str
    separate: SeedSummary
    unified: SeedSummary


def sum_up(results: Sequence[ClassResult]) -> SeedSummary:
    """Return the metrics of each class by seed, and the mean over the classes of each seed that all classes have."""
    classes: dict[str, dict[Protocol, SeedMetrics]] = {}
    for name in dict.fromkeys(result.class_name for result in results):
        mine = [result for result in results if result.class_name == name]
        found = {protocol: _by_seed(protocol, mine) for protocol in PROTOCOLS}
        classes[name] = {protocol: _summed_up(seeds) for protocol, seeds in found.items() if seeds}
    return SeedSummary(mean=dict(_means(list(classes.values()))), classes=classes)


def _by_seed(protocol: Protocol, results: Sequence[ClassResult]) -> dict[int, CheckpointResult]:
    pairs = [(result.seed, result.of(protocol)) for result in results]
    return {seed: found for seed, found in pairs if seed is not None and found is not None}


def _summed_up(seeds: Mapping[int, CheckpointResult]) -> SeedMetrics:
    return SeedMetrics.of(
        {seed: one.metrics for seed, one in seeds.items()},
        choices=different_choices({seed: one.chosen for seed, one in seeds.items()}),
        unlike=difference({seed: one.made_with for seed, one in seeds.items()}),
    )


def _means(classes: Sequence[Mapping[Protocol, SeedMetrics]]) -> Iterator[tuple[Protocol, SeedMetrics]]:
    for protocol in PROTOCOLS:
        found = [one[protocol] for one in classes if protocol in one]
        having, unlike = [one.seeds for one in found], next((one.unlike for one in found if one.unlike), "")
        common = [seed for seed in (having or [{}])[0] if all(seed in seeds for seeds in having)]
        if common:
            yield protocol, SeedMetrics.of({seed: _mean(having, seed, common) for seed in common}, unlike=unlike)


def _mean(classes: Sequence[Mapping[int, dict[str, Metric]]], seed: int, seeds: Sequence[int]) -> dict[str, Metric]:
    """Return the mean over the classes with a seed; none of a metric that a class lacks with this seed alone."""
    mean = mean_over_classes([metrics[seed] for metrics in classes])
    for name in METRICS:
        lacking = [metrics for metrics in classes if metrics[seed][name].value is None]
        if any(metrics[other][name].value is not None for metrics in lacking for other in seeds):
            mean[name] = Metric(None, "a class has it with other seeds only")
    return mean


def _spread(name: str, seeds: Mapping[int, Mapping[str, Metric]]) -> Spread:
    lacking = [(seed, metrics[name].reason) for seed, metrics in seeds.items() if metrics[name].value is None]
    if lacking:
        return Spread(None, lacking[0][1] if len(lacking) == len(seeds) else f"seed {lacking[0][0]}: {lacking[0][1]}")
    values = [value for metrics in seeds.values() if (value := metrics[name].value) is not None]
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), spread=spread)


def write_seeds(folder: Path, results: Sequence[ClassResult]) -> None:
    """Write ``metrics_seeds.json`` and ``metrics_seeds.csv``: lines by class, protocol and seed, mean and spread.

    Raises:
        UserError: if they cannot be written.
    """
    separate, unified = map(sum_up, apart(results))
    whole = DatasetSeeds(dataset=results[0].dataset, separate=separate, unified=unified)
    with whole_file(folder / SEEDS_JSON) as file:
        file.write(whole.model_dump_json(indent=1))
    with whole_file(folder / SEEDS_CSV) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["class", "protocol", "seed", *METRICS])
        for prefix, one in (("", separate), (f"{UNIFIED}/", unified)):
            for name, by_protocol in {**one.classes, "mean": one.mean}.items():
                for protocol, found in by_protocol.items():
                    table.writerows([f"{prefix}{name}", protocol, *line] for line in _lines(found))


def _lines(found: SeedMetrics) -> Iterator[list[object]]:
    for seed, metrics in found.seeds.items():
        yield [seed, *(_number(metrics[name].value) for name in METRICS)]
    yield ["mean", *(_number(found.over_seeds[name].value) for name in METRICS)]
    yield ["spread", *(_number(found.over_seeds[name].spread) for name in METRICS)]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def unlike(chosen: Mapping[Subject, Mapping[Protocol, Path]]) -> dict[Subject, str]:
    """Return why detectors of several seeds cannot be compared: of classes whose checkpoints differ in more."""
    refused: dict[Subject, str] = {}
    for name in dict.fromkeys(subject.title for subject in chosen):
        mine = {one: found for one, found in chosen.items() if one.title == name}
        for protocol in ("last", "best"):
            files = {one: found[protocol] for one, found in mine.items() if protocol in found}
            if len(files) > 1 and (reason := _difference(files, protocol)):
                refused |= dict.fromkeys(mine, reason)
    return refused


def _difference(files: Mapping[Subject, Path], protocol: Protocol) -> str:
    try:
        return difference(
            {one.seed: made_with(read_stored(path, mapped=True), protocol) for one, path in files.items()}
        )
    except UserError as error:
        return str(error)
