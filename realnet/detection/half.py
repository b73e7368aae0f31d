"""Whether a detector's file lets it compute in bfloat16 on this computer's CPU (docs/bundle.md, bf16)."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

HALF = "bf16"
"""The key of the comparison among a detector's facts."""
LARGEST_MAP, LARGEST_AUROC = 0.02, 0.005
"""By how much maps may differ on the median image, and the image AUROC."""


@dataclass(frozen=True)
class HalfCheck:
    """How a detector in bfloat16 compares with itself in float32, on the CPU of the computer that compared them.

    Attributes:
        processor: the CPU.
        seconds: what a photograph takes, in float32 and in bfloat16, the fastest of several.
        num_images: photographs that were compared, and as many with drawn defects; 0 where bfloat16 is no faster.
        median_map: the largest difference of the maps on the median image; None without images, as ``image_auroc``.
        image_auroc: of the drawn defects, in float32 and in bfloat16.
    """

    processor: str
    seconds: tuple[float, float]
    num_images: int = 0
    median_map: float | None = None
    image_auroc: tuple[float, float] | None = None

    @property
    def suits(self) -> bool:
        """Tell whether bfloat16 is faster and agrees."""
        if self.median_map is None or self.image_auroc is None:
            return False
        exact, half = self.image_auroc
        is_faster = self.seconds[1] <= self.seconds[0]
        return is_faster and self.median_map <= LARGEST_MAP and abs(exact - half) <= LARGEST_AUROC

    def __str__(self) -> str:
        exact, half = self.seconds
        text = f"a photograph takes {1e3 * half:.0f} ms instead of {1e3 * exact:.0f} ms"
        if self.median_map is None or self.image_auroc is None:
            return f"{text}: float32 stays"
        before, after = self.image_auroc
        return (
            f"{text}, maps differ by {self.median_map:.4f} on the median image, image AUROC {before:.4f} → {after:.4f} "
            f"over {self.num_images} photographs and as many with drawn defects: "
            f"{'the choice of precision auto on this CPU' if self.suits else 'float32 stays'}"
        )


def half_suits(facts: Mapping[str, Any]) -> bool:
    """Tell whether the facts of a detector's file say that bfloat16 is faster and agrees on this computer's CPU."""
    found = facts.get(HALF)
    check = TypeAdapter(HalfCheck).validate_python(found) if found else None
    return check is not None and check.suits and check.processor == processor()


@cache
def processor() -> str:
    """Return the CPU's name, and the instructions that torch uses of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"
