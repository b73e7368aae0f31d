"""Time the exact pixel metrics on one core, beside a plain loop over 1000 thresholds, and measure their memory.

Usage: python -m benchmarks.metrics [--images 120] [--side 256] [--large]
"""

import argparse
import os
import time
import tracemalloc
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
from skimage import measure
from sklearn.metrics import average_precision_score, roc_auc_score

from realnet.metrics.curves import FloatArray, MaskArray, pixel_curve

BASELINE_THRESHOLDS = 1000
MEASURED_THRESHOLDS = 5


def synthetic_set(num_images: int, side: int) -> tuple[FloatArray, MaskArray]:
    """Make maps (N, side, side) of float32 noise with up to 3 brighter defects; a third of the images has none."""
    generator = np.random.default_rng(0)
    maps = generator.random((num_images, side, side), dtype=np.float32)
    masks = np.zeros(maps.shape, bool)
    for image in range(num_images - num_images // 3):
        for top, left in generator.integers(0, side * 7 // 8, (1 + image % 3, 2)):
            masks[image, top : top + side // 8, left : left + side // 8] = True
    maps += 0.3 * masks
    return maps, masks


def exact(maps: FloatArray, masks: MaskArray) -> tuple[float, float, float]:
    """Compute pixel AUROC, AP and AUPRO from one curve."""
    curve = pixel_curve(maps, masks)
    return curve.auroc, curve.ap, curve.aupro()


def threshold_step(maps: FloatArray, masks: MaskArray, threshold: float) -> tuple[float, float]:
    """Do one step of the plain loop: label the masks; return mean region overlap and false positive rate."""
    found = maps >= threshold
    overlaps = [
        found_image[region.coords[:, 0], region.coords[:, 1]].mean()
        for found_image, mask in zip(found, masks, strict=True)
        for region in measure.regionprops(measure.label(mask))
    ]
    return float(np.mean(overlaps)), float((found & ~masks).sum() / (~masks).sum())


def baseline_seconds(maps: FloatArray, masks: MaskArray) -> tuple[float, float]:
    """Return the seconds of the plain loop, scaled from a few thresholds, and of scikit-learn's AUROC and AP."""
    thresholds = np.linspace(maps.min(), maps.max(), MEASURED_THRESHOLDS)
    loop = seconds(lambda: [threshold_step(maps, masks, threshold) for threshold in thresholds], repeats=1)
    truth, scores = masks.ravel(), maps.ravel()
    areas = seconds(lambda: (roc_auc_score(truth, scores), average_precision_score(truth, scores)), repeats=1)
    return loop * BASELINE_THRESHOLDS / MEASURED_THRESHOLDS, areas


def seconds(work: Callable[[], object], *, repeats: int = 3) -> float:
    """Return the shortest wall time of several runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the peak in bytes of the memory that ``work`` allocates beside its inputs."""
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def report_row(num_images: int, side: int) -> str:
    """Return a row of the table: time and memory for one size."""
    maps, masks = synthetic_set(num_images, side)
    wall = seconds(lambda: exact(maps, masks), repeats=3 if maps.size < 5e7 else 1)
    peak = peak_bytes(lambda: exact(maps, masks))
    inputs = maps.nbytes + masks.nbytes
    return (
        f"{num_images:6d} × {side}²  {wall:8.2f} s  {wall / maps.size * 1e9:6.1f} ns a pixel"
        f"  inputs {inputs / 2**20:7.0f} MiB  + {peak / 2**20:7.0f} MiB ({peak / maps.nbytes:.1f} × the maps)"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=120, help="images in the set")
    parser.add_argument("--side", type=int, default=256, help="height and width in pixels")
    parser.add_argument("--large", action="store_true", help="also 1,000 images of 512×512")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    maps, masks = synthetic_set(args.images, args.side)
    ours = seconds(lambda: exact(maps, masks))
    loop, areas = baseline_seconds(maps, masks)
    print(f"{args.images} images of {args.side}×{args.side}, {masks.mean():.1%} defect pixels, one core")
    print(f"  exact AUROC + AP + AUPRO (one shared sort)      {ours:8.2f} s")
    print(f"  scikit-learn AUROC + AP                         {areas:8.2f} s")
    print(f"  PRO in a loop over {BASELINE_THRESHOLDS} thresholds               {loop:8.2f} s", end="")
    print(f"  (scaled from {MEASURED_THRESHOLDS} measured thresholds)")
    print(f"  baseline / exact                                {(loop + areas) / ours:8.0f} ×")
    print("growth with the number of images; memory is what the metrics allocate on top of their inputs")
    for factor in (1, 2, 4):
        print(" ", report_row(args.images * factor, args.side))
    if args.large:
        print(" ", report_row(1000, 512))


if __name__ == "__main__":
    main()
