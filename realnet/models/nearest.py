"""Nearest neighbours among a coreset of normal features (PatchCore, arXiv 2106.08265)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PROJECTED = 128
"""The coreset is chosen in this many dimensions; random projections preserve distances (Johnson and Lindenstrauss)."""
ROWS_AT_ONCE = 512
"""Normal features whose distances are held in memory together."""
MEMORY_ROWS = 4096
"""Normal features that a detector keeps of a block."""
STRIDES = (8, 16)
"""Of the levels that are compared, as in PatchCore; finer ones see texture, coarser ones lose the place."""


def average_3x3(features: Tensor) -> Tensor:
    """Average features (B, C, h, w) over a 3×3 window (PatchCore, Eq. 2); beyond the edges there are zeros.

    Zeros lower the features at the edges, and their distances, which are large without a defect, too: the padding of
    the backbone's convolutions disturbs them.
    """
    return F.avg_pool2d(features, 3, stride=1, padding=1)


@torch.no_grad()
def greedy_coreset(
    features: Tensor,
    number: int,
    generator: torch.Generator,
    dimensions: int = PROJECTED,
    on_choice: Callable[[], object] = lambda: None,
) -> Tensor:
    """Choose features that cover all others: the next one is the farthest from those chosen (PatchCore, Alg. 1).

    Memory is linear in N, because only the smallest distance of each feature is kept.

    Args:
        features: (N, C).
        number: how many to choose, at most N.
        generator: draws the projection and the first feature; on the CPU.
        dimensions: of the random projection; features of fewer channels are taken as they are.
        on_choice: called after each choice, to show progress.

    Returns:
        (number,) int64, the indexes of the chosen features.
    """
    count, channels = features.shape
    if channels > dimensions:
        projection = torch.randn(channels, dimensions, generator=generator) / dimensions**0.5
        features = features @ projection.to(features)
    features = features - features.mean(dim=0)  # the squares below cancel less
    squares = features.square().sum(dim=1)
    chosen = torch.empty(number, dtype=torch.long, device=features.device)
    nearest = features.new_full((count,), torch.inf)
    index = torch.randint(count, (1,), generator=generator).to(features.device)
    for step in range(number):
        chosen[step] = index
        distances = squares + squares[index] - 2 * (features @ features[index[0]])  # one reading of the features
        nearest = torch.minimum(nearest, distances)
        nearest[index] = -torch.inf
        index = nearest.argmax(keepdim=True)
        on_choice()
    return chosen


class NearestNeighbour(nn.Module):
    """Measure the distance from features to the nearest normal one (PatchCore, Eq. 6)."""

    memory: Tensor

    def __init__(self, memory: Tensor) -> None:
        """Store normal features (M, C)."""
        super().__init__()
        self.register_buffer("memory", memory)

    def forward(self, features: Tensor) -> Tensor:
        """Return distance maps (B, 1, h, w) of features (B, C, h, w)."""
        centre = self.memory.mean(dim=0)  # ‖a‖² + ‖b‖² - 2ab cancels less around it
        rows = features.movedim(1, 3) - centre  # (B, h, w, C)
        parts = (self.memory - centre).split(ROWS_AT_ONCE)
        least = [(part.square().sum(dim=1) - 2 * rows @ part.mT).amin(dim=3) for part in parts]
        squared = torch.stack(least).amin(dim=0) + rows.square().sum(dim=3)
        return squared.clamp_min(0).sqrt()[:, None]
