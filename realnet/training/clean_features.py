"""Features of clean training images, which a frozen backbone need not compute again in each epoch."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from realnet.runtime.progress import bar

BUDGET_MIB, BATCH = 1024, 8


class CleanFeatures:
    """Keep the features of clean training images, within a memory budget (docs/method.md, Detector training).

    All are computed beforehand, so a run that is continued gets the same ones to the last bit.

    Args:
        number: how many images there are.
        compute: returns the features (B, C, h, w) of images, by block, from their indexes.
        budget_mib: most memory to use, in MiB; the features of images beyond it are computed anew each time.
    """

    def __init__(
        self, number: int, compute: Callable[[Sequence[int]], Mapping[str, Tensor]], *, budget_mib: int = BUDGET_MIB
    ) -> None:
        size = sum(features.nbytes for features in compute([0]).values())
        self.capacity = min(number, budget_mib * 2**20 // size)
        parts = [range(start, min(start + BATCH, self.capacity)) for start in range(0, self.capacity, BATCH)]
        shown = bar(parts, total=len(parts), description="clean features", is_main=True)
        computed = [compute(part) for part in shown]
        self._kept = {name: torch.cat([part[name] for part in computed]) for name in computed[0]} if computed else {}

    def missing(self, indexes: Sequence[int]) -> list[int]:
        """Return the places, in ``indexes``, of the images whose features are not kept."""
        return [place for place, index in enumerate(indexes) if index >= self.capacity]

    def join(self, indexes: Sequence[int], computed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the features (B, C, h, w) of images, by block.

        Args:
            indexes: of the B images in the training set.
            computed: the features of those that :meth:`missing` named, in this order, by block.
        """
        places, numbers = torch.tensor(self.missing(indexes), dtype=torch.long), torch.tensor(indexes)
        if not self.capacity:
            return dict(computed)
        return {
            name: kept[numbers.clamp(max=self.capacity - 1)].index_copy(0, places, computed[name])
            for name, kept in self._kept.items()
        }
