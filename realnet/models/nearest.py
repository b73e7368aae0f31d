"""Nearest neighbours among a coreset of normal features (PatchCore, arXiv 2106.08265)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PROJECTED = 128
"""The coreset is chosen in this many dimensions; random projections preserve distances (Johnson and Lindenstrauss)."""
ROWS_AT_ONCE = 4096


def average_3x3(features: Tensor) -> Tensor:
    """Average features (B, C, h, w) with their neighbours in a 3×3 window (PatchCore, Eq. 2)."""
    return F.avg_pool2d(features, 3, stride=1, padding=1, count_include_pad=False)


@torch.no_grad()
def greedy_coreset(features: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Choose features that cover all others: the next one is the farthest from those chosen (PatchCore, Alg. 1).

    Memory is linear in N, because only the smallest distance of each feature is kept.

    Args:
        features: (N, C).
        number: how many to choose, at most N.
        generator: draws the projection and the first feature; on the CPU.

    Returns:
        (number,) int64, the indexes of the chosen features.
    """
    count, channels = features.shape
    if channels > PROJECTED:
        projection = torch.randn(channels, PROJECTED, generator=generator) / PROJECTED**0.5
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
    return chosen


class NearestNeighbour(nn.Module):
    """Measure the distance from features to the nearest normal one (PatchCore, Eq. 6)."""

    memory: Tensor

    def __init__(self, memory: Tensor) -> None:
        """Store the coreset (M, C)."""
        super().__init__()
        self.register_buffer("memory", memory)

    def forward(self, features: Tensor) -> Tensor:
        """Return distance maps (B, 1, h, w) of features (B, C, h, w)."""
        batch, channels, height, width = features.shape
        rows = features.movedim(1, 3).reshape(-1, channels)
        parts = [torch.cdist(part, self.memory).amin(dim=1) for part in rows.split(ROWS_AT_ONCE)]
        return torch.cat(parts).reshape(batch, 1, height, width)
