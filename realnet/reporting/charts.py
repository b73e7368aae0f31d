"""Draw small SVG charts for the report: inline text, no script, no external resource."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from realnet.metrics.curves import CurvePoints

WIDTH, HEIGHT = 400, 270
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 40, 44
NORMAL, DEFECT, INK = "#3b6ea5", "#d1662b", "#444"
OF_IMAGES, OF_PIXELS = "#7a4fa3", "#1f8a7d"


@dataclass(frozen=True)
class Line:
    """A curve of a chart, and its name in the legend."""

    name: str
    points: CurvePoints
    colour: str


@dataclass(frozen=True)
class _Axes:
    """Map data to pixels: x from ``low`` to ``high``, y from 0 to ``top``."""

    low: float
    high: float
    top: float

    def x(self, value: float) -> float:
        return LEFT + (value - self.low) / (self.high - self.low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - value / self.top * (HEIGHT - TOP - BOTTOM)


def line_chart(lines: Sequence[Line], *, x_label: str, y_label: str, x_limit: float = 1.0) -> str:
    """Draw curves over [0, ``x_limit``] × [0, 1] as an SVG element."""
    axes = _Axes(0, x_limit, 1)
    paths = [
        f'<polyline fill="none" stroke="{line.colour}" stroke-width="2" points="{_path(axes, line.points)}"/>'
        for line in lines
    ]
    legend = [(line.name, line.colour) for line in lines]
    return _svg([*_frame(axes, x_label, y_label), *paths, *_legend(legend)], f"{y_label} against {x_label}")


def histogram(
    normal: NDArray[np.float64], defect: NDArray[np.float64], *, threshold: float | None, num_bins: int = 40
) -> str:
    """Draw a histogram of the scores of normal and defect images, with the threshold, as an SVG element.

    Args:
        normal: scores of normal images (N,); scores that are not finite are left out.
        defect: scores of defect images (M,), likewise.
        threshold: score at which to draw a dashed line; None draws none.
        num_bins: number of bins over the range of all scores.
    """
    normal, defect = normal[np.isfinite(normal)], defect[np.isfinite(defect)]
    low, high = _range(np.concatenate([normal, defect, [] if threshold is None else [threshold]]))
    edges = np.linspace(low, high, num_bins + 1)
    counts = [np.histogram(scores, edges)[0] for scores in (normal, defect)]
    axes = _Axes(low, high, max(1, *(count.max() for count in counts)) * 1.05)
    bars = [bar for count, colour in zip(counts, (NORMAL, DEFECT), strict=True) for bar in _bars(axes, count, colour)]
    legend = [(f"normal ({len(normal)})", NORMAL), (f"defect ({len(defect)})", DEFECT)]
    parts = [
        *_frame(axes, "image score", "images", y_step=1),
        *bars,
        *_legend(legend),
        *_threshold_line(axes, threshold),
    ]
    return _svg(parts, "histogram of image scores")


def _range(scores: NDArray[np.float64]) -> tuple[float, float]:
    low, high = (float(scores.min()), float(scores.max())) if len(scores) else (0.0, 1.0)
    return (low, high) if high - low > 1e-9 * max(abs(low), abs(high)) else (low - 0.5, high + 0.5)


def _path(axes: _Axes, points: CurvePoints) -> str:
    return " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in zip(points.x, points.y, strict=True))


def _bars(axes: _Axes, counts: NDArray[np.int64], colour: str) -> Iterator[str]:
    width = (WIDTH - LEFT - RIGHT) / len(counts)
    for position, count in enumerate(counts):
        if count:
            top = axes.y(float(count))
            yield (
                f'<rect x="{LEFT + position * width + 0.5:.1f}" y="{top:.1f}" width="{width - 1:.1f}"'
                f' height="{HEIGHT - BOTTOM - top:.1f}" fill="{colour}" fill-opacity="0.65"/>'
            )


def _threshold_line(axes: _Axes, threshold: float | None) -> Iterator[str]:
    if threshold is not None:
        x = axes.x(threshold)
        anchor = "end" if x > WIDTH / 2 else "start"
        yield (
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#111" stroke-dasharray="5 3"/>'
        )
        yield _text(x, TOP - 4, f"threshold {threshold:.3g}", anchor)


def _frame(axes: _Axes, x_label: str, y_label: str, y_step: float = 0.0) -> Iterator[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for value in _ticks(0, axes.top, smallest_step=y_step):
        y = axes.y(value)
        yield f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e4e4e4"/>'
        yield _text(LEFT - 6, y + 4, f"{value:.4g}", "end")
    for value in _ticks(axes.low, axes.high):
        yield _text(axes.x(value), bottom + 17, f"{value:.4g}", "middle")
    yield f'<line x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}" stroke="#888"/>'
    yield _text((LEFT + right) / 2, HEIGHT - 8, x_label, "middle")
    middle = (TOP + bottom) / 2
    yield f'<g transform="rotate(-90 13 {middle})">{_text(13, middle, y_label, "middle")}</g>'


def _ticks(low: float, high: float, *, count: int = 5, smallest_step: float = 0.0) -> list[float]:
    """Return about ``count`` round values in [low, high]."""
    rough = max((high - low) / count, smallest_step)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _legend(entries: Sequence[tuple[str, str]]) -> Iterator[str]:
    x = float(LEFT)
    for name, colour in entries:
        yield f'<rect x="{x:.0f}" y="12" width="11" height="11" rx="2" fill="{colour}"/>'
        yield _text(x + 16, 22, name, "start")
        x += 30 + 6.6 * len(name)  # about the width of the text in the page's font


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{INK}">{escape(text)}</text>'


def _svg(parts: Sequence[str], title: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
