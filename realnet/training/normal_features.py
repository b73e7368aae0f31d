"""Choose the normal features that a detector keeps, to measure the distance to the nearest one (Normal statistics)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from realnet.models.nearest import greedy_coreset
from realnet.runtime import distributed
from realnet.runtime.progress import bar

BUDGET_MIB, SEED = 256, 0


class NormalFeatures:
    """Draw features evenly from the maps of normal images, then keep a coreset (docs/method.md, Normal statistics).

    Args:
        num_maps: how many feature maps are to come, in all processes.
        budget_mib: most memory to use for the features of a block, in MiB.
    """

    def __init__(self, num_maps: int, *, budget_mib: int = BUDGET_MIB) -> None:
        self._num_maps, self._bytes = num_maps, budget_mib * 2**20
        self._generator = torch.Generator().manual_seed(SEED)
        self._rows: dict[str, list[Tensor]] = {}

    def add(self, features: Mapping[str, Tensor]) -> None:
        """Draw from feature maps (B, C, h, w), by block."""
        for name, maps in features.items():
            rows = maps.flatten(2).movedim(2, 1)  # (B, P, C)
            number = max(1, self._bytes // (self._num_maps * rows[0, 0].nbytes))
            drawn = torch.randperm(rows.shape[1], generator=self._generator)[:number]
            self._rows.setdefault(name, []).append(rows[:, drawn.to(rows.device)].flatten(0, 1))

    def fill(self, nearest: nn.ModuleDict, *, is_main: bool = True) -> None:
        """Store a coreset of each block, and where there are too few features the same ones again.

        Args:
            nearest: receives the features, by block.
            is_main: whether this process shows the progress.
        """
        for name, parts in self._rows.items():
            rows = torch.cat([part.to(parts[0].device) for part in distributed.gather(torch.cat(parts))])
            memory = nearest[name].get_buffer("memory")
            number = min(len(memory), len(rows))
            generator = torch.Generator().manual_seed(SEED)
            with bar(total=number, description=f"{name}: coreset", is_main=is_main) as progress:
                chosen = greedy_coreset(rows, number, generator, None, progress.update)
            memory.copy_(rows[chosen[torch.arange(len(memory), device=chosen.device) % number]])
