"""Write an evaluation as one self-contained HTML page: it needs no network and no other file."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TextIO

import numpy as np

from realnet.detection.card import Card
from realnet.drawing.heatmaps import Display
from realnet.metrics.curves import CurvePoints
from realnet.reporting import charts
from realnet.reporting.charts import OF_IMAGES, OF_PIXELS, Line
from realnet.reporting.document import page_start, script
from realnet.reporting.gallery import Item, error_of, gallery_parts
from realnet.runtime.files import whole_file
from realnet.sdas.readiness import LIMITS, HealthHistory, verdict

TITLES = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1_max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1_max": "pixel F1-max",
    "aupro": "AUPRO",
}


@dataclass(frozen=True)
class Result:
    """A metric in [0, 1], or None and the reason why it was not computed; and the published value, if any.

    Of a mean over seeds, ``spread`` is their standard deviation.
    """

    value: float | None
    reason: str | None = None
    published: float | None = None
    spread: float | None = None

    def percent(self, digits: int = 2) -> str:
        """Return the value, and its spread if there is one, in %."""
        text = "–" if self.value is None else f"{100 * self.value:.{digits}f}"
        return text if self.spread is None else f"{text} ± {100 * self.spread:.{digits}f}"


@dataclass(frozen=True)
class ResultTable:
    """The results of one checkpoint of each class.

    Attributes:
        protocol: how the checkpoints were chosen, such as "last epoch: no test data used".
        rows: results by class name and metric name (a key of ``TITLES``, or any other).
        mean: means over the classes by metric name; None for a single class.
        notes: what a reader must know to judge the numbers.
    """

    protocol: str
    rows: Mapping[str, Mapping[str, Result]]
    mean: Mapping[str, Result] | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class ClassReport:
    """A class's part of the page.

    Attributes:
        class_name: name of the class, the title of its part.
        checkpoint: path of the checkpoint that the scores and images come from.
        protocol: how that checkpoint was chosen.
        items: the test images, in any order.
        display: the thresholds and the colour scale.
        threshold_note: where the thresholds come from.
        image_roc: ROC curve of the images; None if it was not computed.
        pixel_roc: ROC curve of the pixels; None if it was not computed.
        pro: mean region overlap up to ``fpr_limit``; None if it was not computed.
        fpr_limit: false positive rate at which ``pro`` ends.
        gallery_page: relative URL of the page with the gallery; None shows the gallery here.
        card: the checkpoint's model card; None shows none.
    """

    class_name: str
    checkpoint: str
    protocol: str
    items: Sequence[Item]
    display: Display
    threshold_note: str = ""
    image_roc: CurvePoints | None = None
    pixel_roc: CurvePoints | None = None
    pro: CurvePoints | None = None
    fpr_limit: float = 0.3
    gallery_page: str | None = None
    card: Card | None = None


@dataclass(frozen=True)
class ReportData:
    """A whole page.

    Attributes:
        dataset: name of the dataset.
        tables: tables of results, one per protocol.
        classes: parts of the page, one per class, in order.
        notes: further lines for the header, such as the date.
        health: the validations of the dataset's diffusion model; empty shows none.
    """

    dataset: str
    tables: Sequence[ResultTable]
    classes: Sequence[ClassReport]
    notes: Sequence[str] = ()
    health: HealthHistory = ()


def write_report(path: Path, report: ReportData) -> None:
    """Write the page with one image in memory at a time; the file appears only once it is complete.

    Raises:
        UserError: if it cannot be written.
    """
    with whole_file(path) as page:
        _write_page(page, report)


def _write_page(page: TextIO, report: ReportData) -> None:
    names = [one.class_name for one in report.classes]
    title = f"{report.dataset} – {names[0]}" if len(names) == 1 else f"{report.dataset} – {len(names)} classes"
    page.write(page_start(title, report.notes))
    page.writelines(_table(table) for table in report.tables)
    page.writelines(_diffusion_part(report.health))
    for number, one in enumerate(report.classes):
        page.writelines(_class_parts(one, f"class-{number}"))
    page.write(f"{script('gallery.js', 'enlarge.js')}</body></html>\n")


def _diffusion_part(health: HealthHistory) -> Iterator[str]:
    """Draw how near each figure of readiness has come to its limit, with the verdict below."""
    if not health:
        return
    lines = []
    for name, title, colour in (("relative_error", "round trip", OF_IMAGES), ("sample_distance", "samples", OF_PIXELS)):
        found = [(entry["step"], entry[name]) for entry in health if name in entry]
        steps, values = np.array(found, np.float64).reshape(-1, 2).T
        shares = np.nan_to_num(LIMITS[name] / np.maximum(values, 1e-9))  # a model that diverged has NaN
        lines.append(Line(title, CurvePoints(steps, np.minimum(shares, 1)), colour))
    chart = charts.line_chart(
        lines, x_label="step", y_label="limit / figure: ready at 1", x_limit=max(entry["step"] for entry in health)
    )
    yield '<section id="diffusion"><h2>Is the diffusion model ready?</h2>'
    yield f'<p>{escape(verdict(health))}</p><div class="charts"><figure>{chart}</figure></div></section>\n'


def _table(table: ResultTable) -> str:
    columns = list(dict.fromkeys(metric for row in table.rows.values() for metric in row))
    head = "".join(f"<th>{escape(TITLES.get(metric, metric))}</th>" for metric in columns)
    body = [_row(name, row, columns) for name, row in table.rows.items()]
    if table.mean is not None:
        body.append(_row(mean_name(len(table.rows)), table.mean, columns, 'class="mean"'))
    rows = [*table.rows.values(), table.mean or {}]
    has_published = any(result.published is not None for row in rows for result in row.values())
    legend = ["In %"]
    if "image_f1_max" in columns:
        legend.append("F1-max: at the best threshold for the test labels")
    if has_published:
        legend.append("in small print: published")
    lines = [f"{'; '.join(legend)}.", *_reasons(table.rows), *table.notes]
    notes = "".join(f'<p class="note">{escape(line)}</p>' for line in lines)
    return (
        f'<h3>{escape(table.protocol)}</h3><div class="wide"><table><tr><th></th>{head}</tr>{"".join(body)}</table>'
        f"</div>{notes}\n"
    )


def _row(name: str, row: Mapping[str, Result], columns: Sequence[str], attribute: str = "") -> str:
    cells = "".join(f"<td>{_cell(row.get(metric, Result(None)))}</td>" for metric in columns)
    return f"<tr {attribute}><th>{escape(name)}</th>{cells}</tr>"


def _cell(result: Result) -> str:
    published = "" if result.published is None else f"<small>{100 * result.published:.1f}</small>"
    return f"{result.percent()}{published}"


def mean_name(num_classes: int) -> str:
    """Return the mean's name with its number of classes, since the tables may cover different classes."""
    return f"mean of {num_classes} {'class' if num_classes == 1 else 'classes'}"


def missing_metrics(row: Mapping[str, Result]) -> dict[str, list[str]]:
    """Return the titles of the metrics that were not computed, by reason."""
    missing: dict[str, list[str]] = {}
    for metric, result in row.items():
        if result.value is None:
            missing.setdefault(result.reason or "no reason given", []).append(TITLES.get(metric, metric))
    return missing


def _reasons(rows: Mapping[str, Mapping[str, Result]]) -> Iterator[str]:
    for name, row in rows.items():
        for reason, titles in missing_metrics(row).items():
            yield f"{name}: {', '.join(titles)} not computed: {reason}"


def _class_parts(one: ClassReport, anchor: str) -> Iterator[str]:
    yield f'<section id="{anchor}"><h2>{escape(one.class_name)}</h2>'
    yield f'<p class="quiet path">{escape(one.protocol)}: {escape(one.checkpoint)}</p><p>{escape(_summary(one))}</p>'
    if one.threshold_note:
        yield f'<p class="quiet">{escape(one.threshold_note)}</p>'
    yield f'<div class="charts">{"".join(f"<figure>{chart}</figure>" for chart in _charts(one))}</div>'
    if one.card is not None:
        yield _card_part(one.card)
    if one.gallery_page is not None:
        yield f'<p><a href="{escape(one.gallery_page)}">All test images of {escape(one.class_name)}</a></p>'
    elif one.items:
        yield from gallery_parts(one.items, one.display)
    yield "</section>\n"


def _card_part(card: Card) -> str:
    sections = (
        f"<h3>{escape(name)}</h3><dl>"
        + "".join(f"<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>" for key, value in rows.items())
        + "</dl>"
        for name, rows in card.sections.items()
    )
    return f'<details class="model-card"><summary>Model card</summary>{"".join(sections)}</details>'


def _summary(one: ClassReport) -> str:
    errors = Counter(error_of(item, one.display.threshold) for item in one.items)
    defects = sum(item.is_defect for item in one.items)
    counts = f"{len(one.items) - defects} normal and {defects} defect images."
    if one.display.threshold is None:
        return counts + " There is no image threshold, so there are no verdicts."
    return (
        f"{counts} At the threshold {one.display.threshold:.4g}: {errors['missed']} of {defects} defects missed,"
        f" {errors['alarm']} false alarms on {len(one.items) - defects} normal images."
    )


def _charts(one: ClassReport) -> Iterator[str]:
    scores = np.array([item.score for item in one.items], dtype=np.float64)
    is_defect = np.array([item.is_defect for item in one.items], dtype=bool)
    yield charts.histogram(scores[~is_defect], scores[is_defect], threshold=one.display.threshold)
    curves = (("images", one.image_roc, OF_IMAGES), ("pixels", one.pixel_roc, OF_PIXELS))
    lines = [Line(name, points, colour) for name, points, colour in curves if points is not None]
    if lines:
        yield charts.line_chart(lines, x_label="false positive rate", y_label="true positive rate (ROC)")
    if one.pro is not None:
        regions = [Line("regions", one.pro, OF_PIXELS)]
        label = "false positive rate of pixels"
        yield charts.line_chart(regions, x_label=label, y_label="mean overlap (PRO)", x_limit=one.fpr_limit)
