"""Which synthetic anomalies help? The same detector, budget and seeds with each source, on one test split.

Usage: python -m benchmarks.anomalies --dataset NAME [--class_name C ...] [--mixes self sdas ...] [--real KIND N]
       [--seeds 0 1 2] [--set KEY=VALUE ...]

Prints mean ± spread over the seeds, and the difference to the first mix seed by seed. ``sdas`` needs the images of
``sample.py``; without DTD under anomalies.dtd_root, ``textures`` are drawn. --real moves the first N defects of a kind
from the test split of all mixes to where the mix ``real`` trains on them.
"""

import sys
from pathlib import Path

from benchmarks.comparison import DefectsToTrainOn, Variant, compare, parser
from benchmarks.drawn import write_textures
from realnet.anomalies.sources import find_textures
from realnet.config import RealNetConfig, load, paths
from realnet.errors import UserError

MIXES = {
    "self": "{normal: 0.5, self: 0.5}",
    "sdas": "{normal: 0.5, sdas: 0.5}",
    "sdas+self": "{normal: 0.5, sdas: 0.25, self: 0.25}",
    "filtered-sdas": "{normal: 0.5, sdas: 0.5}",
    "textures": "{normal: 0.5, dtd: 0.5}",
    "real+self": "{normal: 0.5, self: 0.3, real: 0.2}",
}
KEEP = 0.8


def texture_root(dataset: str) -> Path:
    """Return the folder of the config's textures, or of drawn ones where it has none."""
    configured = Path(load(RealNetConfig, paths.config_file(dataset, "realnet")).anomalies.dtd_root)
    try:
        find_textures(configured)
    except UserError:
        return write_textures(paths.DATA / "comparisons" / "textures")
    return configured


def variant(mix: str, dataset: str) -> Variant:
    """Return how a mix trains."""
    more = {
        "filtered-sdas": lambda: [f"anomalies.sdas_keep={KEEP}"],
        "textures": lambda: [f"anomalies.dtd_root={texture_root(dataset).resolve()}"],
    }
    return Variant(mix, (f"anomalies.types={MIXES[mix]}", *more.get(mix, list)()))


def main() -> int:
    """Print the table."""
    flags_of = parser(__doc__)
    flags_of.add_argument("--mixes", nargs="+", choices=MIXES, help="default: all; real+self with --real")
    flags_of.add_argument("--real", nargs=2, metavar=("KIND", "N"))
    flags = flags_of.parse_args()
    real = DefectsToTrainOn(flags.real[0], int(flags.real[1])) if flags.real else None
    mixes = flags.mixes or [mix for mix in MIXES if real or mix != "real+self"]
    return compare([variant(mix, flags.dataset) for mix in mixes], flags, real)


if __name__ == "__main__":
    sys.exit(main())
