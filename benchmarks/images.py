"""How many normal images does a detector need? The same detector, budget and seeds with fewer of them.

Usage: python -m benchmarks.images --dataset NAME [--class_name C ...] [--numbers 20 40 80] [--seeds 0 1 2]
       [--set KEY=VALUE ...]

Each number with and without ``train.augment``; fewer images are among more. Prints mean ± spread over the seeds.
"""

import sys

from benchmarks.comparison import Variant, compare, parser


def main() -> int:
    """Print the table."""
    flags_of = parser(__doc__)
    flags_of.add_argument("--numbers", nargs="+", type=int, default=[20, 40, 80])
    flags = flags_of.parse_args()
    variants = [
        Variant(f"{number} images{', augment' if augment else ''}", (f"train.augment={str(augment).lower()}",), number)
        for number in flags.numbers
        for augment in (False, True)
    ]
    return compare(variants, flags)


if __name__ == "__main__":
    sys.exit(main())
