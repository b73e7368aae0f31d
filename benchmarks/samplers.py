"""What do few steps cost? The realism of a diffusion model's images by sampler and number of steps.

Usage: python -m benchmarks.samplers --dataset NAME [--classes C ...] [--steps 5 10 20] [--num_samples 64]
       [--strength 0] [--set KEY=VALUE ...]

Prints the distance R of the folder from normal images, with its 95 % interval (docs/method.md, Quality of images); 0 if
they cannot be told apart. At strength 0 a sampler should come as near as it can. All draw the same noise. The same
command goes on where it was stopped.
"""

import argparse

from realnet.config import SampleConfig, load, paths
from realnet.data.registry import open_dataset
from realnet.metrics.two_samples import Estimate
from realnet.runtime.distributed import join_world
from realnet.sdas.sampler import load_sampler, sample_class
from realnet.sdas.scoring import Scorer

SAMPLERS = {
    "ancestral": ("ancestral", "ddim"),
    "ddim": ("ddim", "ddim"),
    "ddim, even in log-SNR": ("ddim", "snr"),
    "dpm": ("dpm", "snr"),
}
"""The sampler and the spacing of each row."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--classes", nargs="+")
    parser.add_argument("--steps", nargs="+", type=int, default=[5, 10, 20])
    parser.add_argument("--num_samples", type=int, default=64)
    parser.add_argument("--strength", type=float, default=0.0)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--device", default="cpu")
    flags = parser.parse_args()
    dataset = open_dataset(flags.dataset)
    classes = flags.classes or dataset.classes
    print(f"| sampler | steps | {' | '.join(classes)} |\n{'| --- ' * (2 + len(classes))}|")
    given = [f"num_samples={flags.num_samples}", f"strength=[{flags.strength}, {flags.strength}]", "format=png"]
    with join_world(flags.device, "auto") as world, world.stop:
        for name, (kind, spacing) in SAMPLERS.items():
            for steps in flags.steps:
                settings = [f"sampler={kind}", f"respacing={spacing}{steps}", *given, *flags.overrides]
                config = load(SampleConfig, paths.config_file(dataset.name, "sample"), settings)
                sampler = load_sampler(dataset.name, config, dataset.classes, world.precision)
                scorer = Scorer(dataset, sampler.image_size, world)
                root = paths.DATA / "comparisons" / dataset.name / "samplers" / f"{kind}_{spacing}{steps}"
                cells = []
                for class_name in classes:
                    folder = root / class_name
                    sample_class(sampler, class_name, config, folder, world)
                    names = [f"{number:05d}.png" for number in range(config.num_samples)]
                    quality = scorer.score(class_name, folder, names)
                    cells.append(_text(quality.realism if quality else None))
                print(f"| {name} | {steps} | {' | '.join(cells)} |", flush=True)


def _text(realism: Estimate | None) -> str:
    return f"{realism.value:.2f} ({realism.low:.2f} to {realism.high:.2f})" if realism else "none"


if __name__ == "__main__":
    main()
