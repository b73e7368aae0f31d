"""Time the parts of local anomaly synthesis on one thread, beside plain versions of them; then the DataLoader.

Usage: python -m benchmarks.data [--size 256 256] [--repeats 200] [--workers 0 1 2]

The plain versions compute Perlin noise in float64 with four gradient images of full size, rotate it with scipy (first
order), and blend in float64 over the whole image. Both versions decode and resize the source in the same way.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.utils.data import DataLoader

from realnet.anomalies.foreground import foreground_mask
from realnet.anomalies.items import DetectorTrainDataset
from realnet.anomalies.perlin import draw_periods, perlin_mask
from realnet.anomalies.synthesis import AnomalySynthesizer, blend
from realnet.anomalies.textures import augment_texture, shuffle_grid
from realnet.config import AnomalyConfig, ForegroundRule
from realnet.data.images import Image, normalise, read_image, resize_image, write_image
from realnet.data.index import Entry
from realnet.data.order import EpochOrder
from realnet.preparation.toy import render_widget

Size = tuple[int, int]

NUM_FILES = 16
BATCH_SIZE = 16
OTSU = ForegroundRule(close=6, open=6)
TARGETS = {"Perlin mask": 0.6, "synthesis, SDAS, without decoding": 3.0}  # ms


def plain_perlin_mask(size: Size, rng: np.random.Generator, periods: Size) -> NDArray[np.bool_]:
    """Draw a Perlin mask (H, W) with full-size images of gradients and offsets (docs/method.md, Perlin mask)."""
    angles = rng.uniform(0, 2 * np.pi, (periods[0] + 1, periods[1] + 1))
    ys, xs = np.meshgrid(*(np.arange(s) * p / s for s, p in zip(size, periods, strict=True)), indexing="ij")
    rows, columns = ys.astype(int), xs.astype(int)
    t = np.stack([ys - rows, xs - columns])
    fade = 6 * t**5 - 15 * t**4 + 10 * t**3
    noise = np.zeros(size)
    for down in (0, 1):
        for right in (0, 1):
            angle = angles[rows + down, columns + right]
            slope = np.cos(angle) * (t[0] - down) + np.sin(angle) * (t[1] - right)
            noise += slope * np.abs(1 - down - fade[0]) * np.abs(1 - right - fade[1])
    turned = ndimage.rotate(np.sqrt(2) * noise, rng.uniform(-90, 90), reshape=False, order=1)
    return turned > 0.5


def plain_blend(image: Image, source: Image, mask: NDArray[np.bool_], opacity: float) -> Image:
    """Blend in float64 over the whole image."""
    m = mask[..., None].astype(np.float64)
    return ((1 - m) * image + opacity * m * source + (1 - opacity) * m * image).astype(np.uint8)


def plain_item(image: Image, path: Path, size: Size, rng: np.random.Generator) -> Image:
    """Make an item with an SDAS anomaly the plain way; as in the project, draw empty masks again."""
    foreground = foreground_mask(image, OTSU)
    mask = np.zeros(size, bool)
    while not mask.any():
        mask = plain_perlin_mask(size, rng, draw_periods(rng)) & foreground
    return plain_blend(image, resize_image(read_image(path), size), mask, rng.uniform(0.5, 1))


def milliseconds(work: Callable[[np.random.Generator], object], repeats: int) -> float:
    """Return the mean wall time of a call; the best of five rounds with equal draws, as the machine may be busy."""
    rounds = []
    for _ in range(5):
        generators = [np.random.default_rng(seed) for seed in range(repeats)]
        start = time.perf_counter()
        for rng in generators:
            work(rng)
        rounds.append((time.perf_counter() - start) / repeats * 1e3)
    return min(rounds)


def write_files(folder: Path, size: Size) -> list[Path]:
    """Write images of an object as JPEG (quality 95), in the given size."""
    files = [folder / f"{number}.jpg" for number in range(NUM_FILES)]
    for number, path in enumerate(files):
        rng = np.random.default_rng(number)
        colours = render_widget(size, rng).colours + rng.normal(0, 0.01, (*size, 3))
        write_image(path, (colours.clip(0, 1) * 255).astype(np.uint8))
    return files


def time_parts(files: list[Path], size: Size, repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return the milliseconds of each part: of the project's code, and of the plain versions that exist."""
    image, source = read_image(files[0]), read_image(files[1])
    mask = perlin_mask(size, np.random.default_rng(0), periods=(4, 4))
    synthesizer = AnomalySynthesizer(
        AnomalyConfig(types={"sdas": 1}), {"sdas": files}, image_size=size, foreground=OTSU
    )
    ours = {
        "Perlin mask": lambda rng: perlin_mask(size, rng, periods=draw_periods(rng)),
        "foreground, a rule": lambda _: foreground_mask(image, OTSU),
        "foreground, auto": lambda _: foreground_mask(image, "auto"),
        "decode the source (JPEG)": lambda rng: read_image(files[int(rng.integers(NUM_FILES))]),
        "blend": lambda _: blend(image, source, mask, 0.7),
        "texture operations (dtd, self)": lambda rng: augment_texture(source, rng),
        "grid shuffle (self)": lambda rng: shuffle_grid(source, rng),
        "to tensor": lambda _: normalise(image),
        "synthesis, SDAS, whole": lambda rng: synthesizer.synthesize(image, rng),
    }
    plain = {
        "Perlin mask": lambda rng: plain_perlin_mask(size, rng, draw_periods(rng)),
        "blend": lambda _: plain_blend(image, source, mask, 0.7),
        "synthesis, SDAS, whole": lambda rng: plain_item(image, files[int(rng.integers(NUM_FILES))], size, rng),
    }
    times = {name: milliseconds(work, repeats) for name, work in ours.items()}
    plain_times = {name: milliseconds(work, repeats) for name, work in plain.items()}
    for each in (times, plain_times):
        each["synthesis, SDAS, without decoding"] = each["synthesis, SDAS, whole"] - times["decode the source (JPEG)"]
    return times, plain_times


def items_per_second(files: list[Path], size: Size, *, num_workers: int, num_steps: int) -> float:
    """Return detector items per second from the DataLoader without its start; half of them have an SDAS anomaly."""
    synthesizer = AnomalySynthesizer(AnomalyConfig(), {"sdas": files}, image_size=size, foreground=OTSU)
    entries = [Entry(path.name, 0, "good", "widget") for path in files]
    dataset = DetectorTrainDataset(entries, files[0].parent, image_size=size, synthesizer=synthesizer, seed=0)
    sampler = EpochOrder(len(dataset), seed=0, batch_size=BATCH_SIZE, num_steps=num_steps + 1)
    batches = iter(DataLoader(dataset, batch_size=BATCH_SIZE, sampler=sampler, num_workers=num_workers))
    next(batches)
    start = time.perf_counter()
    number = sum(len(batch["image"]) for batch in batches)
    return number / (time.perf_counter() - start)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=[256, 256], metavar=("H", "W"), help="pixels")
    parser.add_argument("--repeats", type=int, default=100, help="calls of each part")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="numbers of DataLoader workers")
    flags = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    size: Size = (flags.size[0], flags.size[1])
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(Path(folder), size)
        times, plain = time_parts(files, size, flags.repeats)
        print(f"{size[0]}x{size[1]}, one thread, ms a call           here    plain    plain / here")
        for name, value in times.items():
            ratio = f"  {plain[name]:7.2f}  {plain[name] / value:12.1f}" if name in plain else ""
            target = f"  (target {TARGETS[name]})" if name in TARGETS and size == (256, 256) else ""
            print(f"  {name:<36}  {value:6.2f}{ratio}{target}")
        print(f"DataLoader, batches of {BATCH_SIZE}, items a second (half of them with an SDAS anomaly)")
        for num_workers in flags.workers:
            rate = items_per_second(files, size, num_workers=num_workers, num_steps=max(4, flags.repeats // 2))
            print(f"  {num_workers} workers  {rate:7.0f}")


if __name__ == "__main__":
    main()
