"""Measure what it gains that detectors share the backbone's features of the same images (``runtime.features_mib``).

Usage: python -m benchmarks.features [--images 32] [--seeds 3]

Each detector asks twice for the features of each normal image, as training with ``--preset cpu`` does: for the normal
statistics and for the features of clean images. Times are those of the processor, on one thread.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from realnet.data.images import to_batch
from realnet.models.backbone import Backbone
from realnet.models.known_features import InFiles, InMemory, KnownFeatures, Store
from realnet.preparation.toy import draw_photographs

SIZE, BATCH, BUDGET_MIB = (256, 256), 8, 4096
LEVELS = ("layer2", "layer3", "layer4")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    backbone = Backbone("tf_efficientnet_lite0", "package", image_size=SIZE)
    batches = to_batch(draw_photographs(flags.images, SIZE)).split(BATCH)
    memory = InMemory(BUDGET_MIB)
    backbone(batches[0])  # prepares the kernels
    with tempfile.TemporaryDirectory() as folder:
        ways: dict[str, Callable[[], Store | None]] = {
            "each time": lambda: None,
            "in memory": lambda: memory,
            "in files": lambda: InFiles(Path(folder), BUDGET_MIB),
        }
        for name, store in ways.items():
            print(f"{name:<10}" + "".join(f"{_seconds(backbone, batches, store()):8.2f} s" for _ in range(flags.seeds)))
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.features")) / flags.images
    print(f"processor's seconds, by detector, for {flags.images} images; {size / 2**20:.2f} MiB an image in files")


def _seconds(backbone: Backbone, batches: tuple[torch.Tensor, ...], store: Store | None) -> float:
    known, start = KnownFeatures(backbone, LEVELS, store), time.process_time()
    for batch in (*batches, *batches):
        known(batch)
    return time.process_time() - start


if __name__ == "__main__":
    main()
