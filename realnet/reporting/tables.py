"""Make the tables of an evaluation, with the published values, for the console and the report."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from realnet.data.registry import UNIFIED
from realnet.detection.checkpoints import PROTOCOLS, REFERENCES, Protocol
from realnet.evaluation.results import CheckpointResult, ClassResult, Source, Verdicts, apart, means
from realnet.evaluation.scores import METRICS, Metric
from realnet.evaluation.seeds import SeedMetrics, sum_up
from realnet.reporting.report import TITLES, Result, ResultTable, mean_name, missing_metrics

PUBLISHED: Mapping[str, Mapping[str, float]] = {
    "MVTec-AD": {"image_auroc": 0.996, "pixel_auroc": 0.990, "aupro": 0.931},
    "MPDD": {"image_auroc": 0.963, "pixel_auroc": 0.982},
    "BTAD": {"image_auroc": 0.961, "pixel_auroc": 0.979},
    "VisA": {"image_auroc": 0.978, "pixel_auroc": 0.988},
}
"""The paper's results: means over all classes of a dataset, at 256×256."""

NAMES: Mapping[Protocol, str] = {
    "last": "last step",
    "best": "best on the test split",
    "given": "file given",
}
SOURCES: Mapping[Source, str] = {"calibrated": "calibrated", "test labels": "picked on the test labels"}


def tables(
    results: Sequence[ClassResult], classes: Sequence[str], known: Sequence[ClassResult] = ()
) -> list[ResultTable]:
    """Return a table for each protocol, of the classes' own detectors and of the unified one, and what compares them.

    Args:
        results: results of classes of one dataset.
        classes: all classes of that dataset; the table shows the published means only if none of them is missing.
        known: further results, to compare the unified detector with.
    """
    groups = [group for group in apart(results) if group]
    made = [table for group in groups for table in _tables_of(group, classes)]
    return [*made, *_unified_beside(known or results)]


def _tables_of(results: Sequence[ClassResult], classes: Sequence[str]) -> Iterator[ResultTable]:
    title = f"{UNIFIED}, one detector of all classes, " if results[0].is_unified else ""
    if results[0].seed is not None:
        yield from _tables_of_seeds(results, classes, title)
        return
    for protocol, mean in means(results).items():
        rows = _by(protocol, results)
        is_whole = {one.class_name for one, _ in rows} == set(classes)
        published = PUBLISHED.get(results[0].dataset, {}) if is_whole else {}
        yield ResultTable(
            protocol=f"{title}{PROTOCOLS[protocol]}",
            rows={one.class_name: _row(checkpoint.metrics) for one, checkpoint in rows},
            mean=_row(mean, published) if len(rows) > 1 or published else None,
        )
    yield from _side_by_side(results)


def _unified_beside(results: Sequence[ClassResult]) -> Iterator[ResultTable]:
    """Yield a table of the mean over classes by their own detectors and by the unified one, if there are both."""
    shared = set.intersection(*({one.class_name for one in group} for group in apart(results)))
    separate, unified = (_mean_rows([one for one in group if one.class_name in shared]) for group in apart(results))
    if not separate.keys() & unified.keys():
        return
    rows = {f"a detector for each class, {NAMES.get(name, name)}": row for name, row in separate.items()}
    rows |= {f"{UNIFIED}, {NAMES.get(name, name)}": row for name, row in unified.items() if name not in REFERENCES}
    yield ResultTable(
        protocol=f"one detector of all classes beside one for each (mean over {len(shared)} classes)", rows=rows
    )


def _mean_rows(results: Sequence[ClassResult]) -> dict[Protocol, dict[str, Result]]:
    if not results or results[0].seed is None:
        return {protocol: _row(mean) for protocol, mean in means(results).items()}
    return {protocol: _row_over_seeds(mean) for protocol, mean in sum_up(results).mean.items()}


def _tables_of_seeds(results: Sequence[ClassResult], classes: Sequence[str], title: str) -> Iterator[ResultTable]:
    """Yield a table for each protocol: of each class, and of their mean, a row for each seed, then mean and spread."""
    found = sum_up(results)
    for protocol in PROTOCOLS:
        by_class = {name: one[protocol] for name, one in found.classes.items() if protocol in one}
        published = PUBLISHED.get(results[0].dataset, {}) if by_class.keys() == set(classes) else {}
        rows = dict(row for name, one in by_class.items() for row in _rows_of_seeds(name, one))
        if protocol in found.mean and (len(by_class) > 1 or published):
            rows |= _rows_of_seeds(mean_name(len(by_class)), found.mean[protocol], published)
        if rows:
            notes = [f"{name}: each detector chose {one.choices}" for name, one in by_class.items() if one.choices]
            yield ResultTable(protocol=f"{title}{PROTOCOLS[protocol]}", rows=rows, notes=notes)


def _rows_of_seeds(
    name: str, found: SeedMetrics, published: Mapping[str, float] | None = None
) -> Iterator[tuple[str, dict[str, Result]]]:
    for seed, metrics in found.seeds.items():
        yield f"{name}, seed {seed}", _row(metrics, published)
    if len(found.seeds) > 1:
        yield f"{name}, mean ± spread of {len(found.seeds)} seeds", _row_over_seeds(found, published)


def _row_over_seeds(found: SeedMetrics, published: Mapping[str, float] | None = None) -> dict[str, Result]:
    row = _row(found.over_seeds, published)
    return {name: replace(result, spread=found.over_seeds[name].spread) for name, result in row.items()}


def _side_by_side(results: Sequence[ClassResult]) -> Iterator[ResultTable]:
    """Yield, if there are references, a table with a row for each detector: RealNet and the references."""
    fitted = {name for name in REFERENCES if any(result.of(name) for result in results)}
    whole = [result for result in results if all(result.of(name) for name in fitted)]
    found = {name: mean for name, mean in means(whole).items() if all(result.of(name) for result in whole)}
    if found.keys() & REFERENCES.keys():
        names = {protocol: f"RealNet, {name}" for protocol, name in NAMES.items()}
        rows = {names.get(protocol, PROTOCOLS[protocol]): _row(mean) for protocol, mean in found.items()}
        classes = whole[0].class_name if len(whole) == 1 else f"mean over {len(whole)} classes"
        yield ResultTable(protocol=f"detectors side by side ({classes})", rows=rows, mean=None)


def console_lines(dataset: str, table: ResultTable) -> Iterator[str]:
    """Yield a table's aligned lines, in %: the classes, their mean, the published mean, and missing metrics."""
    published = PUBLISHED.get(dataset, {})
    rows = {name: [row[metric].percent() for metric in METRICS] for name, row in table.rows.items()}
    if table.mean is not None:
        rows[mean_name(len(table.rows))] = [table.mean[metric].percent() for metric in METRICS]
    if published:
        rows["published mean of all classes"] = [Result(published.get(name)).percent(1) for name in METRICS]
    titles = [TITLES[name] for name in METRICS]
    widths = [max(map(len, column)) for column in zip(titles, *rows.values(), strict=True)]
    left = max(map(len, rows))
    yield f"{dataset}, {table.protocol} (in %)"
    for name, cells in {"": titles, **rows}.items():
        yield "  ".join([f"{name:<{left}}", *(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))])
    for name, row in table.rows.items():
        for reason, titles in missing_metrics(row).items():
            yield f"{name}: {', '.join(titles)} not computed: {reason}"
    yield from table.notes


def verdict_lines(results: Sequence[ClassResult]) -> Iterator[str]:
    """Yield a line with the verdicts of each threshold, and the notes on each class."""
    for one in results:
        for checkpoint in one.checkpoints:
            if checkpoint.verdicts is not None:
                yield f"{one.subject}, {checkpoint.protocol}: {_verdict_text(checkpoint, checkpoint.verdicts)}"
        yield from (f"{one.subject}: {note}" for note in one.notes)


def f1_text(result: CheckpointResult) -> str:
    """Return a text that compares the threshold's F1 to the best possible; "" if they are not known."""
    verdicts = result.verdicts
    if verdicts is None or verdicts.f1 is None or verdicts.best_f1 is None:
        return ""
    best = f"the best possible {verdicts.best_f1:.4f} at {verdicts.best_threshold:.4g}"
    return f"F1 {verdicts.f1:.4f} at the threshold, {best}"


def _verdict_text(result: CheckpointResult, verdicts: Verdicts) -> str:
    defects = sum(image.is_defect for image in result.images)
    text = (
        f"threshold {verdicts.threshold:.4g} ({SOURCES[verdicts.source]}): {verdicts.missed} of {defects} defects "
        f"missed, {verdicts.false_alarms} false alarms on {len(result.images) - defects} normal images"
    )
    return "; ".join(filter(None, [text, f1_text(result)]))


def _by(protocol: Protocol, results: Sequence[ClassResult]) -> list[tuple[ClassResult, CheckpointResult]]:
    return [(one, found) for one in results if (found := one.of(protocol)) is not None]


def _row(metrics: Mapping[str, Metric], published: Mapping[str, float] | None = None) -> dict[str, Result]:
    known = published or {}
    return {name: Result(metrics[name].value, metrics[name].reason, known.get(name)) for name in METRICS}
