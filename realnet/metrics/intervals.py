"""Confidence intervals of rates and of AUROC (docs/method.md, Calibration)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Rate:
    """How many of some images have a property, and the interval of their share (docs/method.md, Calibration).

    Attributes:
        count: images with the property.
        number: all images, at least 1.
        low, high: bounds of the share, which hold with ``CONFIDENCE`` or more, whatever the share is.
    """

    count: int
    number: int
    low: float
    high: float

    @classmethod
    def of(cls, count: int, number: int) -> "Rate":
        """Return the rate with its interval."""
        tail = (1 - CONFIDENCE) / 2
        low = _share(lambda share: 1 - binomial_cdf(count - 1, number, share), tail) if count else 0.0
        high = _share(lambda share: -binomial_cdf(count, number, share), -tail) if count < number else 1.0
        return cls(count, number, low, high)

    def __str__(self) -> str:
        interval = f"{percent(self.low)} to {percent(self.high)}"
        share = percent(self.count / self.number)
        return f"{self.count} of {self.number} ({share}; {percent(CONFIDENCE)} interval {interval})"


def images_needed(rate: float) -> int:
    """Return how many images, none with a property, show that its rate is so low (docs/method.md, Calibration)."""
    return math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log1p(-rate))


def binomial_cdf(count: int, number: int, share: float) -> float:
    """Return the probability of at most ``count`` successes in ``number`` trials (docs/method.md, Calibration).

    Args:
        count: successes.
        number: trials.
        share: probability of a success in a trial, in [0, 1].
    """
    if share in {0.0, 1.0} or count >= number:
        return float(share == 0.0 or count >= number)
    logs = (
        math.lgamma(number + 1)
        - math.lgamma(k + 1)
        - math.lgamma(number - k + 1)
        + k * math.log(share)
        + (number - k) * math.log1p(-share)
        for k in range(count + 1)
    )
    return min(1.0, math.fsum(map(math.exp, logs)))


def auroc_interval(auroc: float, num_defect: int, num_normal: int) -> tuple[float, float]:
    """Return the 95 % interval of an AUROC by the error of Hanley and McNeil, 1982 (docs/method.md, AUROC)."""
    one, two = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    variance = auroc * (1 - auroc) + (num_defect - 1) * (one - auroc**2) + (num_normal - 1) * (two - auroc**2)
    half = 1.96 * math.sqrt(max(variance, 0.0) / (num_defect * num_normal))
    return max(0.0, auroc - half), min(1.0, auroc + half)


def _share(rising: Callable[[float], float], target: float) -> float:
    """Return the share at which a function that rises from share 0 to 1 reaches a target."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < target else (low, middle)
    return high


def percent(share: float) -> str:
    """Return a share as a text, in percent (docs/method.md, Calibration)."""
    return f"{100 * share:.3g} %"
