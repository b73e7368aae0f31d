"""Tell how far two samples are from one distribution: the energy distance (docs/method.md, Quality of images)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_SAMPLE = 3
"""The fewest vectors on each side for an interval."""
ROWS_AT_ONCE = 512
"""Vectors whose distances to all others are held in memory together."""
NORMAL_95 = 1.96


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval (docs/method.md, Quality of images)."""

    value: float
    low: float
    high: float


def energy_distance(first: Tensor, second: Tensor) -> Estimate:
    """Return (2·E‖x - y‖ - E‖x - x'‖ - E‖y - y'‖) / E‖y - y'‖ (docs/method.md, Quality of images).

    This is the squared maximum mean discrepancy of the kernel -‖x - y‖, without bias before the division: about 0 (and
    below it as often as above) if both samples come from one distribution. The interval is that of the jackknife.

    Args:
        first: x, (N, D) with N ≥ ``LEAST_SAMPLE``.
        second: y, (M, D) with M ≥ ``LEAST_SAMPLE``, not all equal.
    """
    n, m = len(first), len(second)
    across_first, across_second = _sums(first, second), _sums(second, first)
    within_first, within_second = _sums(first, first), _sums(second, second)
    across, inner, outer = across_first.sum(), within_first.sum(), within_second.sum()
    value = _relative(across / (n * m), inner / (n * (n - 1)), outer / (m * (m - 1)))
    without_first = _relative(
        (across - across_first) / ((n - 1) * m),
        (inner - 2 * within_first) / ((n - 1) * (n - 2)),
        outer / (m * (m - 1)),
    )
    without_second = _relative(
        (across - across_second) / (n * (m - 1)),
        inner / (n * (n - 1)),
        (outer - 2 * within_second) / ((m - 1) * (m - 2)),
    )
    half = NORMAL_95 * math.sqrt(_jackknife(without_first) + _jackknife(without_second))
    return Estimate(float(value), float(value) - half, float(value) + half)


def _sums(rows: Tensor, others: Tensor) -> Tensor:
    """Return the sum of each row's distances to all others, (N,), a part of the rows at a time."""
    return torch.cat([torch.cdist(part, others).sum(dim=1) for part in rows.split(ROWS_AT_ONCE)])


def _relative(across: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
    return (2 * across - inner - outer) / outer


def _jackknife(without: Tensor) -> float:
    """Return the variance of an estimate from its values without each vector of a sample."""
    return float((without - without.mean()).square().sum() * (len(without) - 1) / len(without))
