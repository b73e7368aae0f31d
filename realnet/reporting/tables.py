"""Make the tables of an evaluation, with the published values, for the console and the report."""

from collections.abc import Iterator, Mapping, Sequence

from realnet.detection.checkpoints import PROTOCOLS, REFERENCES, Protocol
from realnet.evaluation.results import CheckpointResult, ClassResult, Source, Verdicts
from realnet.evaluation.scores import METRICS, Metric, mean_over_classes
from realnet.reporting.report import TITLES, Result, ResultTable, mean_name, missing_metrics

PUBLISHED: Mapping[str, Mapping[str, float]] = {
    "MVTec-AD": {"image_auroc": 0.996, "pixel_auroc": 0.990, "aupro": 0.931},
    "MPDD": {"image_auroc": 0.963, "pixel_auroc": 0.982},
    "BTAD": {"image_auroc": 0.961, "pixel_auroc": 0.979},
    "VisA": {"image_auroc": 0.978, "pixel_auroc": 0.988},
}
"""The paper's results: means over all classes of a dataset, at 256×256."""

SOURCES: Mapping[Source, str] = {"calibrated": "calibrated", "test labels": "picked on the test labels"}


def means(results: Sequence[ClassResult]) -> dict[Protocol, dict[str, Metric]]:
    """Return, for each protocol with results, the mean of each metric over the classes."""
    found = {protocol: [one.metrics for _, one in _by(protocol, results)] for protocol in PROTOCOLS}
    return {protocol: mean_over_classes(metrics) for protocol, metrics in found.items() if metrics}


def tables(results: Sequence[ClassResult], classes: Sequence[str]) -> list[ResultTable]:
    """Return a table for each protocol.

    Args:
        results: results of classes of one dataset.
        classes: all classes of that dataset; the table shows the published means only if none of them is missing.
    """
    made = []
    for protocol, mean in means(results).items():
        rows = _by(protocol, results)
        is_whole = {one.class_name for one, _ in rows} == set(classes)
        published = PUBLISHED.get(results[0].dataset, {}) if is_whole else {}
        made.append(
            ResultTable(
                protocol=PROTOCOLS[protocol],
                rows={one.class_name: _row(checkpoint.metrics) for one, checkpoint in rows},
                mean=_row(mean, published) if len(rows) > 1 or published else None,
            )
        )
    return [*made, *_side_by_side(results)]


def _side_by_side(results: Sequence[ClassResult]) -> Iterator[ResultTable]:
    """Yield, if there are references, a table with a row for each detector: RealNet and the references."""
    fitted = {name for name in REFERENCES if any(result.of(name) for result in results)}
    whole = [result for result in results if all(result.of(name) for name in fitted)]
    found = {name: mean for name, mean in means(whole).items() if all(result.of(name) for result in whole)}
    if found.keys() & REFERENCES.keys():
        names = {
            "last": "RealNet, last step",
            "best": "RealNet, best on the test split",
            "given": "RealNet, file given",
        }
        rows = {names.get(protocol, PROTOCOLS[protocol]): _row(mean) for protocol, mean in found.items()}
        classes = whole[0].class_name if len(whole) == 1 else f"mean over {len(whole)} classes"
        yield ResultTable(protocol=f"detectors side by side ({classes})", rows=rows, mean=None)


def console_lines(dataset: str, table: ResultTable) -> Iterator[str]:
    """Yield a table's aligned lines, in %: the classes, their mean, the published mean, and missing metrics."""
    published = PUBLISHED.get(dataset, {})
    rows: dict[str, Sequence[float | None]] = {name: _values(row) for name, row in table.rows.items()}
    if table.mean is not None:
        rows[mean_name(table)] = _values(table.mean)
    if published:
        rows["published mean of all classes"] = [published.get(name) for name in METRICS]
    left = max(map(len, rows))
    yield f"{dataset}, {table.protocol} (in %)"
    yield "  ".join([" " * left, *(TITLES[name] for name in METRICS)])
    for name, values in rows.items():
        digits = 1 if name.startswith("published ") else 2
        yield "  ".join([f"{name:<{left}}", *map(_cell, values, METRICS, [digits] * len(METRICS))])
    for name, row in table.rows.items():
        for reason, titles in missing_metrics(row).items():
            yield f"{name}: {', '.join(titles)} not computed: {reason}"


def verdict_lines(results: Sequence[ClassResult]) -> Iterator[str]:
    """Yield a line with the verdicts of each threshold, and the notes on each class."""
    for one in results:
        for checkpoint in one.checkpoints:
            if checkpoint.verdicts is not None:
                yield f"{one.class_name}, {checkpoint.protocol}: {_verdict_text(checkpoint, checkpoint.verdicts)}"
        yield from (f"{one.class_name}: {note}" for note in one.notes)


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


def _values(row: Mapping[str, Result]) -> list[float | None]:
    return [row[name].value for name in METRICS]


def _cell(value: float | None, metric: str, digits: int) -> str:
    text = "–" if value is None else f"{100 * value:.{digits}f}"
    return f"{text:>{len(TITLES[metric])}}"
