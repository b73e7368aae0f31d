"""Time the exact pixel metrics on one core, beside a plain loop over 1000 thresholds, and measure their memory.

Usage: python -m benchmarks.metrics [--images 120] [--side 256] [--large] [--streamed 100]

Times are of the processor, which other programs on the machine change little. ``--streamed N`` enlarges N maps to 1024²
one by one, as ``evaluation.resolution: file`` does.
"""

import argparse
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
from skimage import measure
from sklearn.metrics import average_precision_score, roc_auc_score

from realnet.data.regions import label_regions
from realnet.metrics.curves import FloatArray, MaskArray, pixel_curve
from realnet.metrics.streaming import ScoredImage, pixel_curve_of_images

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
    """Return the shortest processor time of several runs."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
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
    return _row(lambda: exact(maps, masks), maps, masks, side)


def streamed_row(num_images: int, side: int, own_side: int) -> str:
    """Return a row of the table for maps that are enlarged to the files' own size, one by one."""
    maps, masks = synthetic_set(num_images, side)

    def images() -> Iterator[ScoredImage]:
        for scores, mask in zip(maps, masks, strict=True):
            enlarged = cv2.resize(mask.view(np.uint8), (own_side, own_side), interpolation=cv2.INTER_NEAREST)
            yield cv2.resize(scores, (own_side, own_side)), label_regions(enlarged)

    def work() -> tuple[float, float, float]:
        curve = pixel_curve_of_images(images)
        return curve.auroc, curve.ap, curve.aupro()

    return _row(work, maps, masks, own_side)


def _row(work: Callable[[], object], maps: FloatArray, masks: MaskArray, side: int) -> str:
    number = len(maps) * side**2
    time_used = seconds(work, repeats=3 if number < 5e7 else 1)
    peak, inputs = peak_bytes(work), maps.nbytes + masks.nbytes
    return (
        f"{len(maps):6d} × {side}²  {time_used:8.2f} s  {time_used / number * 1e9:6.1f} ns a pixel"
        f"  inputs {inputs / 2**20:7.0f} MiB  + {peak / 2**20:7.0f} MiB ({peak / maps.nbytes:.1f} × the maps)"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=120, help="images in the set")
    parser.add_argument("--side", type=int, default=256, help="height and width in pixels")
    parser.add_argument("--large", action="store_true", help="also 1,725 images of 256×256 and 1,000 of 512×512")
    parser.add_argument("--streamed", type=int, metavar="N", help="also N images of 1024×1024, image by image")
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
        print(" ", report_row(1725, 256))
        print(" ", report_row(1000, 512))
    if args.streamed:
        print(" ", streamed_row(args.streamed, 256, 1024))


if __name__ == "__main__":
    main()
