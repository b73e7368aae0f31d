"""Does the readiness of a diffusion model tell how good its detectors become? Models of some share of the steps.

Usage: python -m benchmarks.readiness --dataset NAME [--class_name C ...] [--shares 0.1 0.3 1] [--seeds 0 1 2]
       [--set KEY=VALUE ...]

Each share is a training of its own, of so many of the steps in diffusion.yaml, without a guidance classifier. Prints
the readiness and the realism of the images (docs/method.md), then the detectors trained from them: mean ± spread over
the seeds.
"""

import json
import sys
from pathlib import Path

from benchmarks.comparison import Variant, compare, output_of, parser
from realnet.config import DiffusionConfig, load, paths
from realnet.data.registry import open_dataset
from realnet.sdas.readiness import readiness, recorded

TYPES = "anomalies.types={normal: 0.5, sdas: 0.5}"


def measured(home: Path, dataset: str, classes: list[str]) -> list[str]:
    """Return the cells of a variant's row: the verdict and its figures, and the realism of each class."""
    history = recorded(home / paths.output(dataset, "diffusion", "checkpoints") / paths.LAST)
    last = history[-1] if history else {}
    figures = [f"{last[name]:.3g}" if name in last else "" for name in ("relative_error", "sample_distance")]
    found = [home / paths.sdas(dataset, name) / paths.SDAS_QUALITY for name in classes]
    values = [json.loads(path.read_text())["realism"] if path.is_file() else None for path in found]
    realism = [f"{of['value']:.1f} ({of['low']:.1f} to {of['high']:.1f})" if of else "" for of in values]
    return [readiness(history), *figures, *realism]


def main() -> int:
    """Print both tables."""
    flags_of = parser(__doc__)
    flags_of.add_argument("--shares", nargs="+", type=float, default=[0.1, 0.3, 1.0])
    flags = flags_of.parse_args()
    num_steps = load(DiffusionConfig, paths.config_file(flags.dataset, "diffusion")).train.num_steps
    if num_steps is None:
        flags_of.error("diffusion.yaml counts epochs; name train.num_steps there")
    steps = [round(share * num_steps) for share in flags.shares]
    variants = [Variant(f"{number} steps", (TYPES,), diffusion_steps=number) for number in steps]
    code = compare(variants, flags)
    classes = list(open_dataset(flags.dataset).classes)
    rows = [["", "verdict", "E", "D", *(f"R of {name}" for name in classes)], ["---"] * (4 + len(classes))]
    rows += [[one.name, *measured(one.home(output_of(flags)), flags.dataset, classes)] for one in variants]
    print("\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows))
    return code


if __name__ == "__main__":
    sys.exit(main())
