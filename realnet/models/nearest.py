"""Nearest neighbours among a coreset of normal features (PatchCore, arXiv 2106.08265)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PROJECTED = 128
"""The coreset is chosen in this many dimensions; random projections preserve distances (Johnson and Lindenstrauss)."""
ROWS_AT_ONCE = 512
"""Features whose distances are held in memory together."""
CANDIDATES = 4096
"""Features among which the coreset's next choices are sought before all are looked at again."""
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
    dimensions: int | None = PROJECTED,
    on_choice: Callable[[], object] = lambda: None,
) -> Tensor:
    """Choose features that cover all others: the next one is the farthest from those chosen (PatchCore, Alg. 1).

    Distances to what is chosen only fall. So the farthest of some candidates is the farthest of all while it is at
    least as far as any other feature was before, and one pass over all features serves many choices.

    Args:
        features: (N, C).
        number: how many to choose, at most N.
        generator: draws the projection and the first feature; on the CPU.
        dimensions: of the random projection; features of fewer channels, or with None all, are taken as they are.
        on_choice: called after each choice, to show progress.

    Returns:
        (number,) int64, the indexes of the chosen features.
    """
    count, channels = features.shape
    if dimensions and channels > dimensions:
        projection = torch.randn(channels, dimensions, generator=generator) / dimensions**0.5
        features = features @ projection.to(features)
    features = features - features.mean(dim=0)  # the squares in the distances cancel less
    chosen = torch.randint(count, (1,), generator=generator).to(features.device)
    on_choice()
    nearest = _least_squares(features, features[chosen])
    while len(chosen) < number:
        nearest[chosen] = -torch.inf
        reach, candidates = nearest.topk(min(CANDIDATES + 1, count))
        bound = reach[-1] if count > CANDIDATES else reach.new_tensor(-torch.inf)
        places = _farthest(features[candidates], reach, bound, number - len(chosen), on_choice)
        nearest = torch.minimum(nearest, _least_squares(features, features[candidates[places]]))
        chosen = torch.cat([chosen, candidates[places]])
    return chosen


def _farthest(
    candidates: Tensor, reach: Tensor, bound: Tensor, number: int, on_choice: Callable[[], object]
) -> list[int]:
    """Choose at most ``number`` candidates (K, C), and no more once none is at least ``bound`` far from those chosen.

    ``reach`` (K,) are their squared distances from what is chosen already, the largest first.
    """
    places = list[int]()
    squares, farthest = candidates.square().sum(dim=1), reach.argmax()
    while len(places) < number and (not places or reach[farthest] >= bound):
        places.append(int(farthest))
        distances = squares + squares[farthest] - 2 * candidates @ candidates[farthest]
        reach = torch.minimum(reach, distances)
        reach[farthest] = -torch.inf
        farthest = reach.argmax()
        on_choice()
    return places


def _least_squares(features: Tensor, chosen: Tensor) -> Tensor:
    """Return the squared distance of each feature (N, C) from the nearest of those chosen (K, C), (N,)."""
    squares = chosen.square().sum(dim=1)
    least = [
        (squares - 2 * part @ chosen.mT).amin(dim=1) + part.square().sum(dim=1) for part in features.split(ROWS_AT_ONCE)
    ]
    return torch.cat(least)


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
